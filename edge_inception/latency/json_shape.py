"""Does a value read from a file have the shape that its reader relies on?

A shape is a mapping of keys that must be there, a list of the shape of every item, or a tuple of
alternatives: types, None, or one of these again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

NUMBER = (int, float)


def first_mismatch(value: Any, shape: Any, where: str) -> str | None:
    """The first place where ``value`` is not of ``shape``, spelled from ``where``; None if it is.

    A bool is no number, nor is what no float can hold; keys that the shape does not name may be
    there.
    """
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return where
        missing = next((key for key in shape if key not in value), None)
        if missing is not None:
            return f"{where}.{missing}"
        places = ((value[key], inner, f"{where}.{key}") for key, inner in shape.items())
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return where
        places = ((item, shape[0], f"{where}[{index}]") for index, item in enumerate(value))
    else:
        fits = any(_is_of(value, one) for one in shape)
        inner = next((one for one in shape if isinstance(one, Mapping)), None)
        if fits or inner is None or not isinstance(value, dict):
            return None if fits else where
        return first_mismatch(value, inner, where)
    return next((found for place in places if (found := first_mismatch(*place)) is not None), None)


def _is_of(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(kind, (Mapping, list)):
        return first_mismatch(value, kind, "") is None
    if isinstance(value, bool):
        return kind is bool
    # JSON has integers of any length; what computes with one makes it a float
    is_too_large = isinstance(value, int) and abs(value) > sys.float_info.max
    return isinstance(value, kind) and not is_too_large
