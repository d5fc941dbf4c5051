"""The record of a key map, and functions that expand its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_logits.")
"""Prefixes of our keys of auxiliary heads, which serve training and may be left out of a model."""


class Layout(Enum):
    """Order of the axes of a stored tensor; PyTorch's and ours is out, in, rows, columns."""

    OURS = "ours"
    CHANNELS_LAST = "rows, columns, in, out; or in, out"
    DEPTHWISE = "rows, columns, in, multiplier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Keys of a file, by the names that a key map's table uses.

    ``keys`` maps a name in the table to the key in the file. ``notes`` are sentences on what was
    left out.
    """

    keys: Mapping[str, str]
    notes: tuple[str, ...] = ()


def as_they_are(keys: Iterable[str]) -> Reading:
    """A reading in which every key is a name of the table."""
    return Reading(keys={key: key for key in keys})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMap:
    """Names and layouts that one publisher uses for the tensors of one architecture.

    ``names`` maps the publisher's names to ours. It is empty when at most prefixes differ, which
    ``prefixes`` maps to ours. ``read`` turns the keys of a file into names of the table.
    ``layouts`` maps an ending of the publisher's names to the order of axes. With ``has_gamma``
    False batch norms may be stored without a factor (gamma), which is then 1. ``has_auxiliary`` is
    whether the publisher's files contain auxiliary heads.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[Iterable[str]], Reading] = as_they_are
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    has_gamma: bool = True
    has_auxiliary: bool = False

    def ours(self, name: str) -> str | None:
        """Our key for the table's ``name``; None for an unknown name."""
        if self.names:
            return self.names.get(name)
        for theirs, ours in self.prefixes.items():
            if name.startswith(theirs):
                return ours + name[len(theirs) :]
        is_renamed = name.startswith(tuple(self.prefixes.values()))
        return None if is_renamed else name  # the publisher has no name with one of our prefixes

    def layout(self, name: str) -> Layout:
        """Order of the axes of the tensor that the publisher calls ``name``."""
        for ending, layout in self.layouts.items():
            if name.endswith(ending):
                return layout
        return Layout.OURS


SAME_NAMES = KeyMap()


def spelled(units: Mapping[str, str], endings: Mapping[str, str]) -> dict[str, str]:
    """Publisher's name of each tensor -> ours: every unit's name with every one of ``endings``."""
    return {
        theirs + their_ending: ours + our_ending
        for theirs, ours in units.items()
        for their_ending, our_ending in endings.items()
    }


def placed(scopes: Mapping[str, str], units: Mapping[str, str]) -> dict[str, str]:
    """Publisher's name of each unit -> ours, for a block that stands in each of ``scopes``."""
    return {
        f"{scope}/{theirs}": f"{path}.{ours}"
        for scope, path in scopes.items()
        for theirs, ours in units.items()
    }
