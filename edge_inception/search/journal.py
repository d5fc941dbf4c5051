"""A journal of scores on disk, from which a search that was killed continues.

The file holds JSON lines: first the key of the search, then one line per scored set of groups.
Every line is flushed to the disk before its score is used. A line that a crash cut off is dropped,
and a file with another key is overwritten.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from edge_inception import records
from edge_inception.artifact import replace_file, translate_disk_errors
from edge_inception.errors import InputError
from edge_inception.records import Count, R, Record

ImageSubset = Literal["all", "worst"]
"""The images on which a graph was scored: all images, or those that plain int8 affects most."""


class Figures(Record, frozen=True, kw_only=True):
    """The figures of a scored graph, as in ``ScoredSet``, and its most affected images.

    ``noise`` is the noise to signal of the logits, ``tail`` its mean over the worst tenth of the
    images. ``worst`` has indices of images, the most affected first.
    """

    drop_pp: float
    noise: float
    tail: float
    worst: tuple[Count, ...]


class _Head(Record, frozen=True, kw_only=True):
    key: str


class _Line(Record, frozen=True, kw_only=True):
    keep: tuple[str, ...]
    images: ImageSubset
    score: Figures


class Journal:
    """Scores by set of groups and kind of images; to be used as a context manager.

    Args:
        path: The file, in a folder that exists.
        key: Hash of everything the scores depend on: graph, ranges, images, options, code.

    Raises:
        InputError: The file cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        lines = _complete_lines(path, key)
        self._known = {(frozenset(line.keep), line.images): line.score for line in lines}
        replace_file(path, "".join(map(_text, (_Head(key=key), *lines))).encode())
        with translate_disk_errors(path):
            self._stream = path.open("a", encoding="utf-8")

    @property
    def num_known(self) -> int:
        """Number of scores that were read from the file or added."""
        return len(self._known)

    def known(self, keep: frozenset[str], images: ImageSubset) -> Figures | None:
        """The score of the graph that keeps these groups in float; None if it is not known."""
        return self._known.get((keep, images))

    def add(self, keep: frozenset[str], images: ImageSubset, score: Figures) -> None:
        """Write a score to the disk before returning.

        Raises:
            InputError: The file cannot be written, such as on a full disk.
        """
        line = _Line(keep=tuple(sorted(keep)), images=images, score=score)
        with translate_disk_errors(self._path):
            self._stream.write(_text(line))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._known[keep, images] = score

    def __enter__(self) -> Journal:  # noqa: PYI034 -- typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _text(line: Record) -> str:
    return json.dumps(records.plain(line)) + "\n"


def _complete_lines(path: Path, key: str) -> list[_Line]:
    """The lines before the first malformed or cut off line; empty for a file with another key."""
    if not path.is_file():
        return []
    scored: list[_Line] = []
    with suppress(InputError):
        head, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
        if _read(_Head, head).key != key:
            return []
        for line in lines:
            if line.endswith(b"\n"):
                scored.append(_read(_Line, line))  # noqa: PERF401 -- lines before a bad one stay
    return scored


def _read(kind: type[R], line: bytes) -> R:
    where, hint = "a line of the journal", "it is dropped"
    value = records.parse(line, where=where, hint=hint, allow_nan=True)
    return records.convert(kind, value, where=where, hint=hint)
