"""An engine slower by a known share of each call: the truth of the gate study and its tests."""

from __future__ import annotations

import time
from typing import Any

from edge_inception.inference import open_engine


class _Slowed:
    """A session that spins after each call for ``percent`` of what the call took."""

    def __init__(self, session: Any, percent: float) -> None:
        self._session, self._share = session, percent / 100
        self.info = session.info

    def run(self, images: Any) -> Any:
        """The engine's answer, later."""
        before = time.perf_counter()
        answer = self._session.run(images)
        end = time.perf_counter() + self._share * (time.perf_counter() - before)
        while time.perf_counter() < end:
            pass
        return answer

    def __enter__(self) -> _Slowed:  # noqa: PYI034 -- Self needs Python 3.11
        self._session.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._session.__exit__(*error)


def open_slowed(path: str, percent: float, threads: int = 0) -> Any:
    """The engine at ``path``, every call ``percent`` % longer."""
    return _Slowed(open_engine(path, threads=threads), percent)
