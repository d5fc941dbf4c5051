"""The record of a key map, and functions that expand its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_logits.")
"""Our keys of auxiliary heads: for training, absent from a model that is built without them."""


class Layout(Enum):
    """Order of the axes of a stored tensor; in ours it is out, in, rows, columns."""

    OURS = "ours"
    CHANNELS_LAST = "rows, columns, in, out; or in, out"
    DEPTHWISE = "rows, columns, in, multiplier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Keys of a file under the names of a table.

    ``keys`` maps the table's name to the key in the file. ``notes`` name what was left out.
    """

    keys: Mapping[str, str]
    notes: tuple[str, ...] = ()


def as_they_are(keys: Iterable[str]) -> Reading:
    """A reading in which every key is a name of the table."""
    return Reading(keys={key: key for key in keys})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMap:
    """Names and layouts of one publisher's tensors of one architecture.

    ``names`` maps their names to ours; it is empty when only ``prefixes``, theirs -> ours, differ.
    ``read`` turns the keys of a file into names of the table. ``layouts`` maps an ending of their
    names to the order of axes. With ``has_gamma`` False batch norms may be stored without a factor,
    which is then 1. ``has_auxiliary`` is whether the publisher's files contain auxiliary heads.
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
        return None if is_renamed else name  # a name of ours that they renamed is none of theirs

    def layout(self, name: str) -> Layout:
        """Order of the axes of the tensor that they call ``name``."""
        for ending, layout in self.layouts.items():
            if name.endswith(ending):
                return layout
        return Layout.OURS


SAME_NAMES = KeyMap()


def spelled(units: Mapping[str, str], endings: Mapping[str, str]) -> dict[str, str]:
    """Names of all tensors, theirs -> ours: each unit's name with each of the ``endings``."""
    return {
        theirs + their_ending: ours + our_ending
        for theirs, ours in units.items()
        for their_ending, our_ending in endings.items()
    }


def placed(scopes: Mapping[str, str], units: Mapping[str, str]) -> dict[str, str]:
    """Names of the same block in several places: each scope with each unit, theirs -> ours."""
    return {
        f"{scope}/{theirs}": f"{path}.{ours}"
        for scope, path in scopes.items()
        for theirs, ours in units.items()
    }
