"""Layers of the papers' tables as records; no torch, so a device can list architectures.

``_blocks.py`` turns them into modules. Names of units are state-dict keys and must not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

CHANNEL_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution without bias + batch norm (eps 1e-3) + ReLU.

    ``is_same``: zero padding k // 2, which at stride 1 and odd kernels equals TensorFlow's SAME;
    otherwise VALID.
    """

    out: int
    kernel: tuple[int, int]
    stride: int = 1
    is_same: bool = True


@dataclass(frozen=True, slots=True)
class MaxPool:
    """3x3 max pool of stride 2, VALID."""

    kernel: int = 3
    stride: int = 2


@dataclass(frozen=True, slots=True)
class AvgPool:
    """3x3 average pool of stride 1, SAME; border pixels divide by the number of real ones."""

    kernel: int = 3
    count_include_pad: bool = False


Unit: TypeAlias = "Conv | MaxPool | AvgPool | tuple[Conv | MaxPool | AvgPool, ...]"


@dataclass(frozen=True, slots=True)
class Concat:
    """Parallel branches, concatenated over channels.

    ``units`` are named layers or chains. ``routes`` list, in concat order, which units each branch
    passes; a shared prefix is computed once, which is how Inception-C splits one branch into two.
    """

    units: Mapping[str, Unit]
    routes: tuple[tuple[str, ...], ...]


Layer: TypeAlias = Conv | MaxPool | AvgPool | Concat


def branches(**units: Unit) -> Concat:
    """Concat with one branch per unit, in the order given."""
    return Concat(units, tuple((name,) for name in units))


def widen(channels: int, width: float) -> int:
    """Channels times ``width``, rounded to a multiple of 8 and at least 8."""
    return max(CHANNEL_MULTIPLE, round(channels * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)
