"""What a recipe says about the two ends of the graph and about its search, read strictly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from edge_inception.errors import InputError, known_names
from edge_inception.spec import Budget, DropType, Head

NUMBER = (int, float)
PREPROCESS_KEYS: Mapping[str, Any] = {
    "input_size": (int, list),
    "crop": str,
    "crop_fraction": NUMBER,
    "interpolation": str,
    "channel_order": str,
    "mean": list,
    "std": list,
}
SEARCH_KEYS: Mapping[str, Any] = {"max_drop_pp": NUMBER, "drop_type": str, "max_groups": int}
_FOLDS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "uint8": {"element": "uint8", "layout": "NCHW"},
    "uint8-nhwc": {"element": "uint8", "layout": "NHWC"},
}

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "crop": ("after_resize", "before_resize"),
    "channel_order": ("RGB", "BGR"),
}
_HEADS = ("logits", "softmax", "topk:K")
_LEAST_STD = 1e-6  # of pixels from 0 to 255 it is 0.0039; 1 divided by it must fit a float32
_FLOAT32 = 3.4e38


def one_of(name: str, known: Iterable[str], what: str) -> str:
    """``name``, if it is one of ``known``.

    Raises:
        InputError: It is not; the nearest is named.
    """
    names = tuple(known)
    if name not in names:
        raise InputError(f"no {what} named '{name}'", hint=known_names(name, names))
    return name


def preprocess_changes(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of ``Preprocess`` that [preprocess] sets.

    Raises:
        InputError: A value that cannot be meant.
    """
    changes = dict(table)
    if "input_size" in changes:
        changes["input_size"] = _size(changes["input_size"], where)
    for key, known in _CHOICES.items():
        if key in changes:
            one_of(changes[key], known, key.replace("_", " "))
    if not 0 < changes.get("crop_fraction", 1) <= 1:
        raise InputError(
            f"{where}: preprocess.crop_fraction is {changes['crop_fraction']}",
            hint="wanted a number above 0 and at most 1",
        )
    for key in ("mean", "std"):
        if key in changes:
            changes[key] = _channels(changes[key], key, where)
    return changes


def fold(name: str) -> Mapping[str, str]:
    """Fields of ``Preprocess`` that ``model.fold_preprocessing`` sets: what the graph takes.

    Raises:
        InputError: No such choice.
    """
    return _FOLDS[one_of(name, _FOLDS, "folded preprocessing")]


def _size(size: Any, where: str) -> tuple[int, ...]:
    pair = [size, size] if isinstance(size, int) else size
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):  # noqa: PLR2004 -- height, width
        raise InputError(
            f"{where}: preprocess.input_size is {size!r}", hint="wanted 299 or [299, 299]"
        )
    return tuple(pair)


def _channels(values: list[Any], key: str, where: str) -> tuple[float, ...]:
    is_number = [
        isinstance(v, NUMBER) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ]
    least = _LEAST_STD if key == "std" else -_FLOAT32
    if len(values) != 3 or not all(is_number) or min(values) < least or max(values) > _FLOAT32:  # noqa: PLR2004 -- channels
        raise InputError(
            f"{where}: preprocess.{key} is {values!r}",
            hint="wanted three numbers in the channel order, for pixels from 0 to 1"
            + (f", at least {_LEAST_STD:g}" if key == "std" else ""),
        )
    return tuple(float(value) for value in values)


def head(text: str) -> Head:
    """The head that a user names: ``logits``, ``softmax`` or ``topk:5``.

    Raises:
        InputError: Another name, or a K that is no number of classes.
    """
    kind, colon, k = text.partition(":")
    if kind != "topk":
        return Head(kind=one_of(text, _HEADS, "head"))
    if not colon or not k.isdecimal() or int(k) < 1:
        raise InputError(
            f"head '{text}' says no number of classes", hint="wanted topk:K, such as topk:5"
        )
    return Head(kind=kind, k=int(k))


def budget(table: Mapping[str, Any], where: str) -> Budget | None:
    """The section [search]; None where it is empty.

    Raises:
        InputError: No budget, or a value that means nothing.
    """
    if not table:
        return None
    if "max_drop_pp" not in table:
        raise InputError(
            f"{where}: search.{next(iter(table))} without search.max_drop_pp",
            hint="set the budget that it belongs to, or pass --max-drop",
        )
    limit, most = float(table["max_drop_pp"]), table.get("max_groups", 0)
    if not 0.0 <= limit <= 100.0 or most < 0:  # noqa: PLR2004 -- percent
        raise InputError(
            f"{where}: search.max_drop_pp is {limit}, search.max_groups {most}",
            hint="wanted a number from 0 to 100, and so many groups or 0 for no limit",
        )
    kinds = [kind.value for kind in DropType]
    kind = one_of(table.get("drop_type", DropType.ABSOLUTE.value), kinds, "drop type")
    return Budget(max_drop_pp=limit, drop_type=DropType(kind), max_groups=most)
