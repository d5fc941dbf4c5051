"""Blocks that Inception-ResNet-v1 and -v2 share; each network gives their filters.

Source: Szegedy et al., AAAI 2017 (arXiv 1602.07261), figures 10 to 19.
"""

from __future__ import annotations

from typing import NamedTuple

from edge_inception.models._layers import Concat, Filters, MaxPool, Residual, branches

SCALES = (0.17, 0.10, 0.20)
"""Residual scales of blocks A, B and C in TF-slim and FaceNet; the paper suggests 0.1 to 0.3."""


class BlockA(NamedTuple):
    """Filters of the three branches 1x1; 1x1 - 3x3; 1x1 - 3x3 - 3x3."""

    one: int
    three: tuple[int, int]
    double: tuple[int, int, int]


class BlockB(NamedTuple):
    """Filters of the two branches 1x1; 1x1 - 1x7 - 7x1."""

    one: int
    seven: tuple[int, int, int]


class BlockC(NamedTuple):
    """Filters of the two branches 1x1; 1x1 - 1x3 - 3x1."""

    one: int
    three: tuple[int, int, int]


def block_a(filters: Filters, row: BlockA, scale: float) -> Residual:
    """Residual block that keeps the map at 35 x 35 (TF-slim's block35)."""
    conv = filters.conv
    first, second = row.three
    one, two, three = row.double
    return Residual(
        branches(
            branch0=conv("1x1", row.one),
            branch1=(conv("1x1", first), conv("3x3", second)),
            branch2=(conv("1x1", one), conv("3x3", two), conv("3x3", three)),
        ),
        scale,
    )


def block_b(filters: Filters, row: BlockB, scale: float) -> Residual:
    """Residual block that keeps the map at 17 x 17 (TF-slim's block17)."""
    conv = filters.conv
    one, two, three = row.seven
    return Residual(
        branches(
            branch0=conv("1x1", row.one),
            branch1=(conv("1x1", one), conv("1x7", two), conv("7x1", three)),
        ),
        scale,
    )


def block_c(filters: Filters, row: BlockC, scale: float, *, has_relu: bool = True) -> Residual:
    """Residual block that keeps the map at 8 x 8 (TF-slim's block8)."""
    conv = filters.conv
    one, two, three = row.three
    return Residual(
        branches(
            branch0=conv("1x1", row.one),
            branch1=(conv("1x1", one), conv("1x3", two), conv("3x1", three)),
        ),
        scale,
        has_relu,
    )


def reduction_b(filters: Filters, second: int, third: tuple[int, int]) -> Concat:
    """Reduction-B, map 17 x 17 to 8 x 8; v1 and v2 differ in the filters ``second``, ``third``."""
    conv, reduce = filters.conv, filters.reduce
    return branches(
        branch0=(conv("1x1", 256), reduce(384)),
        branch1=(conv("1x1", 256), reduce(second)),
        branch2=(conv("1x1", 256), conv("3x3", third[0]), reduce(third[1])),
        branch3=MaxPool(),
    )
