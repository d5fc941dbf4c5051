"""Local bias correction: what int8 adds to the mean of a convolution's output is taken off again.

Rounding and clipping move the mean of a layer's input channels, and rounding its weights moves the
mean of its output once more. Both are known from the means of the input before and behind its Q/DQ
pair, so the float bias absorbs them. At the border of a padded convolution the mean is another; the
correction is that of the middle.

Source: the empirical form of section 4.2 of "Data-Free Quantization Through Weight Equalization and
Bias Correction", arXiv:1906.04721, layer by layer on the float model's activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_IMAGES = 32
"""Images that the means are taken over: those of the set with the smallest sha256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMeans:
    """Means of one tensor per channel, over the images and all positions.

    ``plain`` [C] of the float tensor, ``quantized`` [C] of what its Q/DQ pair makes of it with
    ``scale``, both float64.
    """

    scale: float
    plain: NDArray[np.float64]
    quantized: NDArray[np.float64]


def correction(
    means: ChannelMeans, weight: NDArray[np.float32], rounded: NDArray[np.float32]
) -> NDArray[np.float64]:
    """What to add to the bias [O]: mean float output minus mean int8 output.

    Args:
        means: Of the layer's input, C = groups * I channels.
        weight: Float weights, output channel first: [O, I, ...].
        rounded: What int8 stores of them, as floats of the same shape.
    """
    outputs, channels = weight.shape[:2]
    groups = means.plain.size // channels
    plain, quantized = (
        np.repeat(values.reshape(groups, channels), outputs // groups, axis=0)
        for values in (means.plain, means.quantized)
    )
    whole, stored = (
        values.astype(np.float64).reshape(outputs, channels, -1).sum(axis=2)
        for values in (weight, rounded)
    )
    return np.asarray((whole * plain - stored * quantized).sum(axis=1))
