"""``python -m edge_inception``."""

from __future__ import annotations

from edge_inception.cli.main import main

if __name__ == "__main__":
    main()
