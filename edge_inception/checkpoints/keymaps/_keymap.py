"""The record of a key map, and how its tables are spelled out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_logits.")
"""Our keys of auxiliary heads: for training, absent from a model that is built without them."""


class Layout(Enum):
    """Order of a stored tensor's axes; ours is out, in, rows, columns."""

    OURS = "ours"
    CHANNELS_LAST = "rows, columns, in, out; or in, out"
    DEPTHWISE = "rows, columns, in, multiplier"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A file's keys by the names that a table knows.

    ``keys``: the table's name -> the key in the file. ``notes`` say what was left out.
    """

    keys: Mapping[str, str]
    notes: tuple[str, ...] = ()


def as_they_are(keys: Iterable[str]) -> Reading:
    """Every key is the table's own name."""
    return Reading(keys={key: key for key in keys})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMap:
    """How one publisher names and stores the tensors of one architecture.

    ``names``: theirs -> ours; empty when the names are ours but for ``prefixes``, theirs -> ours.
    ``read`` gives a file's keys the names of the table. ``layouts``: ending of their name -> order
    of axes. ``has_gamma`` False: batch norms may be stored without a factor, which is then 1.
    ``has_auxiliary``: the publisher's files carry auxiliary heads.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[Iterable[str]], Reading] = as_they_are
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    has_gamma: bool = True
    has_auxiliary: bool = False

    def ours(self, name: str) -> str | None:
        """Our key for the table's ``name``; None when the table does not know it."""
        if self.names:
            return self.names.get(name)
        for theirs, ours in self.prefixes.items():
            if name.startswith(theirs):
                return ours + name[len(theirs) :]
        is_renamed = name.startswith(tuple(self.prefixes.values()))
        return None if is_renamed else name  # where they call it otherwise, our name is not theirs

    def layout(self, name: str) -> Layout:
        """Order of the axes of the tensor that they call ``name``."""
        for ending, layout in self.layouts.items():
            if name.endswith(ending):
                return layout
        return Layout.OURS


SAME_NAMES = KeyMap()


def spelled(units: Mapping[str, str], endings: Mapping[str, str]) -> dict[str, str]:
    """Every tensor of every unit, theirs -> ours: the names of units with all ``endings``."""
    return {
        theirs + their_ending: ours + our_ending
        for theirs, ours in units.items()
        for their_ending, our_ending in endings.items()
    }


def placed(scopes: Mapping[str, str], units: Mapping[str, str]) -> dict[str, str]:
    """The same block in several places: ``scopes`` with ``units``, both theirs -> ours."""
    return {
        f"{scope}/{theirs}": f"{path}.{ours}"
        for scope, path in scopes.items()
        for theirs, ours in units.items()
    }
