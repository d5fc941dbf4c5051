"""Blocks that Inception-ResNet-v1 and -v2 share; each network gives their filters.

Source: Szegedy et al., AAAI 2017 (arXiv 1602.07261), figures 10 to 19.
"""

from __future__ import annotations

from typing import TypeAlias

from edge_inception.models._layers import Concat, ConvFactory, MaxPool, Residual, Unit, branches

RESIDUAL_SCALES = (0.17, 0.10, 0.20)
"""Residual scales of blocks A, B and C in TF-slim and FaceNet; the paper suggests 0.1 to 0.3."""

BlockFilters: TypeAlias = tuple[tuple[int, ...], ...]
"""Number of filters of each convolution in each branch of a block."""

_A_KERNELS = (("1x1",), ("1x1", "3x3"), ("1x1", "3x3", "3x3"))
_B_KERNELS = (("1x1",), ("1x1", "1x7", "7x1"))
_C_KERNELS = (("1x1",), ("1x1", "1x3", "3x1"))


def block_a(factory: ConvFactory, filters: BlockFilters, scale: float) -> Residual:
    """Residual block that keeps the map at 35 x 35 (TF-slim's block35)."""
    return Residual(_branches(factory, _A_KERNELS, filters), scale)


def block_b(factory: ConvFactory, filters: BlockFilters, scale: float) -> Residual:
    """Residual block that keeps the map at 17 x 17 (TF-slim's block17)."""
    return Residual(_branches(factory, _B_KERNELS, filters), scale)


def block_c(
    factory: ConvFactory, filters: BlockFilters, scale: float, *, has_relu: bool = True
) -> Residual:
    """Residual block that keeps the map at 8 x 8 (TF-slim's block8)."""
    return Residual(_branches(factory, _C_KERNELS, filters), scale, has_relu)


def _branches(
    factory: ConvFactory, kernels: tuple[tuple[str, ...], ...], filters: BlockFilters
) -> Concat:
    units: dict[str, Unit] = {}
    for index, (sizes, counts) in enumerate(zip(kernels, filters, strict=True)):
        convs = tuple(map(factory.conv, sizes, counts))
        units[f"branch{index}"] = convs if len(convs) > 1 else convs[0]
    return branches(**units)


def reduction_b(factory: ConvFactory, conv3x3: int, double3x3: tuple[int, int]) -> Concat:
    """Reduction-B, map 17 x 17 to 8 x 8.

    ``conv3x3`` and ``double3x3`` are the filters of the 3x3 convolutions in the branches with one
    and with two of them, which differ between v1 and v2.
    """
    conv, conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
    return branches(
        branch0=(conv("1x1", 256), conv3x3_stride2(384)),
        branch1=(conv("1x1", 256), conv3x3_stride2(conv3x3)),
        branch2=(conv("1x1", 256), conv("3x3", double3x3[0]), conv3x3_stride2(double3x3[1])),
        branch3=MaxPool(),
    )
