"""Every error that this project raises on purpose, with its exit code.

EdgeInceptionError
├── InputError         3   an input cannot be used: a file, an image, a name, a full disk
├── BackendMissing     4   a library that the request needs is not installed
├── CompileFailed      5   an engine library refused the graph
├── GateFailed         6   a measurement misses a gate of the recipe
├── DeployFailed       7   a device could not be reached or refused the bundle
└── Inconclusive       8   the measurements cannot decide a gate

The exit code belongs to the class. Other codes are 1 for a bug, 2 for a usage error (by click), and
130 for an interrupt.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import Enum
from typing import ClassVar, TypeVar

_LISTED = 3
_E = TypeVar("_E", bound=Enum)


class EdgeInceptionError(Exception):
    """Base of all errors.

    Args:
        message: What, where, got, wanted.
        hint: What to do next; may be empty.

    Line breaks and control characters, which file names may contain, become escapes in both texts,
    so that each text stays on one line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(one_line(message))
        self.hint = one_line(hint)


def one_line(text: str) -> str:
    """``text`` with line breaks and control characters written as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InputError(EdgeInceptionError):
    """An input cannot be used."""

    exit_code = 3


class BackendMissing(EdgeInceptionError):
    """A library that the request needs is not installed."""

    exit_code = 4


class CompileFailed(EdgeInceptionError):
    """An engine library refused the graph."""

    exit_code = 5


class GateFailed(EdgeInceptionError):
    """A measurement misses a gate of the recipe."""

    exit_code = 6


class DeployFailed(EdgeInceptionError):
    """A device could not be reached or refused the bundle."""

    exit_code = 7


class Inconclusive(EdgeInceptionError):
    """The measurements cannot decide a gate."""

    exit_code = 8


def known_names(name: str, known: Iterable[str]) -> str:
    """Hint for an unknown name: the most similar known name, if any, then all known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    start = f"did you mean '{near[0]}'? known: " if near else "known: "
    return start + ", ".join(names)


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 group`` or ``2 groups``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """Text with the first three of ``names`` and the number of the others."""
    texts = list(names)
    more = f"{separator}and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return separator.join(texts[:_LISTED]) + more


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """Error for a name that is not among ``known``; its hint lists the known names."""
    return InputError(f"no {what} named '{name}'", hint=known_names(name, known))


def member(kind: type[_E], what: str, value: str) -> _E:
    """The member of the enum ``kind`` with this value, as users type it.

    Raises:
        InputError: No member has the value.
    """
    known: dict[str, _E] = {str(item.value): item for item in kind}
    if value not in known:
        raise unknown(what, value, known)
    return known[value]
