"""Files that nobody wrote: texts that are no record, and changes of those that are.

Every format is fed with the same, see ``test_formats``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

TEXTS: dict[str, bytes] = {
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "NaN": b'{"schema": NaN}',
    "infinity": b'{"schema": 1e999}',
    "huge": b'{"schema": ' + b"9" * 5000 + b"}",
    "twice": b'{"schema": 1, "schema": 1}',
    "half of a surrogate pair": b'{"schema": "\\ud800"}',
    "not UTF-8": b"\xff\xfe{}",
    "empty": b"",
    "null": b"null",
    "number": b"7",
    "list": b"[]",
    "object": b"{}",
}

VALUES = (
    *(None, True, -1, 0, 10**15, 2**53 + 1, 10**30, 0.5, 1e308, "", "x", "../x", "/etc/passwd"),
    *("\ud800", "\0", "²", "9" * 100, [], {}, [[]], {"a": 1}, [None], ["", ""], ["x", "y", "z"]),
)

Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value; of many samples, and of a manifest's files, two."""
    yield place
    if isinstance(value, dict):
        for name in sorted(value)[: 2 if place == ("files",) else None]:
            yield from places(value[name], (*place, name))
    elif isinstance(value, list):
        for index in range(min(2, len(value))):
            yield from places(value[index], (*place, index))


def at(value: Any, place: Place) -> Any:
    """What stands at a place."""
    for step in place:
        value = value[step]
    return value


def put(value: Any, place: Place, new: Any) -> Any:
    """A copy with something else at a place."""
    if not place:
        return copy.deepcopy(new)
    made = copy.deepcopy(value)
    at(made, place[:-1])[place[-1]] = copy.deepcopy(new)
    return made


def cut(value: Any, place: Place) -> Any:
    """A copy without what stands at a place."""
    made = copy.deepcopy(value)
    del at(made, place[:-1])[place[-1]]
    return made
