"""Scores that are already known, on disk: what a search that was killed goes on from.

JSON lines: first the key of the search, then one scored set of groups each, flushed to the disk
before it is used. A line that was cut off by a crash is dropped, and so is a file of another key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_inception.artifact import replace_file, writing


class Journal:
    """Scores by set of groups and kind of images; use it as a context manager.

    Args:
        path: The file; its folder exists.
        key: What the scores belong to: graph, ranges, images, options, code.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._known: dict[tuple[frozenset[str], str], Mapping[str, Any]] = {}
        lines = _whole_lines(path)
        if lines[:1] != [{"key": key}]:
            lines = [{"key": key}]
        for line in lines[1:]:
            self._known[frozenset(line["keep"]), line["images"]] = line["score"]
        replace_file(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        with writing(path):
            self._stream = path.open("a", encoding="utf-8")

    @property
    def num_known(self) -> int:
        """Scores that were read or added."""
        return len(self._known)

    def known(self, keep: frozenset[str], images: str) -> Mapping[str, Any] | None:
        """The score of ``keep`` on these images, if it is known."""
        return self._known.get((keep, images))

    def add(self, keep: frozenset[str], images: str, score: Mapping[str, Any]) -> None:
        """Write a score down; it is on the disk when this returns.

        Raises:
            InputError: The disk is full.
        """
        line = {"keep": sorted(keep), "images": images, "score": dict(score)}
        with writing(self._path):
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._known[keep, images] = score

    def __enter__(self) -> Journal:  # noqa: PYI034 -- typing.Self needs Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Records up to the first line that is cut off or no JSON."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            record: Any = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n") or not isinstance(record, dict):
            break
        found.append(record)
    return found
