"""The record of a key map, and functions that expand its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

AUXILIARY_PREFIXES = ("AuxLogits.", "aux1.", "aux2.", "aux_logits.")
"""Prefixes of our keys of auxiliary heads, which serve training and may be left out of a model."""


class Layout(Enum):
    """Order of the axes of a stored tensor; our own is PyTorch's."""

    PYTORCH = "out, in, rows, columns; or out, in"
    CHANNELS_LAST = "rows, columns, in, out; or in, out"
    DEPTHWISE = "rows, columns, in, multiplier"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalizedKeys:
    """Keys of a file, by the names that a key map's table uses.

    ``keys`` maps a name in the table to the key in the file. ``notes`` are sentences on what was
    left out.
    """

    keys: Mapping[str, str]
    notes: tuple[str, ...] = ()


def keep_keys(keys: Iterable[str]) -> NormalizedKeys:
    """The keys unchanged: every key is a name of the table."""
    return NormalizedKeys(keys={key: key for key in keys})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMap:
    """Names and layouts that one publisher uses for the tensors of one architecture.

    ``names`` maps the publisher's names to our keys. It is empty if at most prefixes differ, which
    ``prefixes`` maps to ours. ``normalize`` turns the keys of a file into names of the table.
    ``layouts`` maps an ending of the publisher's names to the order of axes. With
    ``requires_gamma`` False batch norms may be stored without a factor (gamma), which is then 1.
    ``has_auxiliary`` is whether the publisher's files contain auxiliary heads.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(default_factory=dict)
    normalize: Callable[[Iterable[str]], NormalizedKeys] = keep_keys
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    requires_gamma: bool = True
    has_auxiliary: bool = False

    def model_key(self, name: str) -> str | None:
        """Our state-dict key for the publisher's ``name``; None for an unknown name."""
        if self.names:
            return self.names.get(name)
        for published, ours in self.prefixes.items():
            if name.startswith(published):
                return ours + name[len(published) :]
        is_renamed = name.startswith(tuple(self.prefixes.values()))
        return None if is_renamed else name  # the publisher has no name with one of our prefixes

    def layout(self, name: str) -> Layout:
        """Order of the axes of the tensor that the publisher calls ``name``."""
        endings = (ending for ending in self.layouts if name.endswith(ending))
        return self.layouts.get(next(endings, ""), Layout.PYTORCH)


SAME_NAMES = KeyMap()


def expand_tensors(units: Mapping[str, str], endings: Mapping[str, str]) -> dict[str, str]:
    """Publisher's name of each tensor -> our key: each unit's name with each of ``endings``."""
    return {
        unit + ending: our_unit + our_ending
        for unit, our_unit in units.items()
        for ending, our_ending in endings.items()
    }


def nest_units(scopes: Mapping[str, str], units: Mapping[str, str]) -> dict[str, str]:
    """Publisher's name of each unit -> our path, for a block that stands in each of ``scopes``."""
    return {
        f"{scope}/{unit}": f"{path}.{our_unit}"
        for scope, path in scopes.items()
        for unit, our_unit in units.items()
    }
