"""The arithmetic of symmetric INT8: the scale for an amax, and weights rounded to int8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
"""Positive levels of symmetric int8; -128 is never used."""

SMALLEST_SCALE = np.float32(2.0**-24)
"""Smallest positive float16 (subnormal). TensorRT and TensorRT-RTX refuse to parse a scale of 0."""

LARGEST_SCALE = np.float32(np.finfo(np.float16).max)


def int8_scale(amax: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale of symmetric INT8: real = int8 * scale, zero point 0.

    Every scale is a float16 number, so graphs with float16 scales and graphs with float32 scales
    compute the same. A scale is rounded to the nearest float16, but up if rounding down would clip
    ``amax`` by half a level or more, which only happens among float16 subnormals. Scales are not
    raised to the smallest normal float16 (2^-14): a channel of weights with amax 1e-4 would then
    have two levels instead of a hundred.

    Args:
        amax: float32, [] per tensor or [C] per channel. Largest |value| to represent, in the
            tensor's own units. Zero is allowed and becomes the smallest usable scale.

    Returns:
        float32 of the same shape, in 2^-24 .. 65504, each exactly representable as float16.

    Raises:
        ValueError: An amax is negative, NaN, infinite, or too large for a float16 scale;
            calibration is broken upstream.

    Source:
        ONNX QuantizeLinear; "Working with Quantized Types" in the TensorRT docs.
    """
    values = np.asarray(amax, dtype=np.float32)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"amax must be finite and >= 0, got {values.min()} .. {values.max()}")
    exact = values / np.float32(LEVELS)
    if (exact > LARGEST_SCALE).any():
        raise ValueError(f"amax {values.max()} needs a scale above float16's {LARGEST_SCALE}")
    half = exact.astype(np.float16)
    above = np.nextafter(half, np.float16(np.inf))
    clips = half.astype(np.float32) * np.float32(LEVELS + 0.5) <= values
    usable = np.where(clips & (values > 0), above, half).astype(np.float32)
    return np.maximum(usable, SMALLEST_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """A weight in int8: ``steps`` of ``scale`` [O] along ``axis``, its axis of output channels."""

    steps: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int

    @property
    def values(self) -> NDArray[np.float32]:
        """The weight that these integers stand for."""
        scale = along(self.scale, axis=self.axis, ndim=self.steps.ndim)
        return self.steps.astype(np.float32) * scale


def quantize_weight(
    weight: NDArray[np.float32], *, axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as int8 with one scale per output channel: the amax of the channel / 127.

    Args:
        weight: float32, finite, such as [O, I, kh, kw] of a Conv.
        axis: Output channel axis.

    Returns:
        int8 in -127..127 of the same shape, rounded half to even, and float32 [O] scales.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = int8_scale(np.abs(weight).max(axis=others, initial=0.0))
    steps = weight / along(scale, axis=axis, ndim=weight.ndim)
    return np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8), scale


def along(channels: NDArray[np.float32], *, axis: int, ndim: int) -> NDArray[np.float32]:
    """[C] reshaped so that it broadcasts along ``axis`` of an array with ``ndim`` axes."""
    return channels.reshape([-1 if i == axis else 1 for i in range(ndim)])
