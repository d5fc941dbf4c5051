"""Mend tensorrt-stubs for mypy, which reads nothing of a file with a syntax error.

Five lines of 10.13.0.35.1 are no Python: parameters named ``in``, and one without a default after
others that have one. And ``bool`` is the library's data type in there, also where a truth value is
meant. Usage: python .ci/mend_stubs.py FOLDER, the folder that pip put them in.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

MENDS = (
    (r"(?m)^(\s+def .*?)\bin: ", r"\1in_: ", 4),
    (r"(?m)^(\s+def .* = None, channel_axis: int)\)", r"\1 = ...)", 1),
    (r"(-> |\w: )bool\b", r"\1builtins.bool", 337),
    (r"\Afrom __future__ import annotations\n", r"\g<0>import builtins\n", 1),
)


def main(folder: str) -> None:
    """Mend once; another release of the stubs, with other lines to mend, is an error."""
    path = Path(folder, "tensorrt_bindings", "tensorrt.pyi")
    text = path.read_text()
    for pattern, replacement, wanted in MENDS:
        text, count = re.subn(pattern, replacement, text)
        if count != wanted:
            sys.exit(f"{path}: mended {count} lines of {wanted} for {pattern!r}; look at the stubs")
    ast.parse(text)
    path.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
