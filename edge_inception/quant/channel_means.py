"""The second pass of calibration: channel means of layer inputs, both in float and quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import opset13 as ops

from edge_inception.data.imageset import ImageItem
from edge_inception.quant.bias import NUM_IMAGES
from edge_inception.quant.openvino_reader import Stream
from edge_inception.quant.options import CalibrateOptions
from edge_inception.quant.ranges import ChannelMeans
from edge_inception.spec import Progress


def select_images(items: Sequence[ImageItem]) -> list[ImageItem]:
    """The NUM_IMAGES images that means are measured on: those with the smallest sha256, sorted.

    The choice does not depend on the order of ``items`` or on the number of shards.
    """
    return sorted(items, key=lambda item: item.sha256)[:NUM_IMAGES]


def channel_means(
    path: Path,
    scale_of: Mapping[str, float],
    items: Sequence[ImageItem],
    options: CalibrateOptions,
    progress: Progress,
) -> dict[str, ChannelMeans]:
    """Channel means of every tensor in ``scale_of``, in float and rounded to its scale, unclipped.

    ``scale_of`` maps a tensor to its scale. The means are measured on the images that
    ``select_images`` returns; ``progress`` counts these images.

    Raises:
        InputError: An image is not usable.
        CompileFailed: OpenVINO does not take the graph.
    """

    def outputs(tensors: Mapping[str, Any]) -> list[Any]:
        pairs = (_means(tensors[name], scale) for name, scale in scale_of.items())
        return [ops.result(mean) for pair in pairs for mean in pair]

    images = select_images(items)
    totals: list[NDArray[np.float64]] = []
    for _, readings in Stream(path, options, outputs).read(images, progress):
        sums = [
            values.sum(axis=0, dtype=np.float64).reshape(-1)
            for values in readings[: 2 * len(scale_of)]
        ]
        totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
    means = iter(total / len(images) for total in totals)
    return {
        name: ChannelMeans(scale=scale, plain=next(means), quantized=next(means) * scale)
        for name, scale in scale_of.items()
    }


def _means(source: Any, scale: float) -> tuple[Any, Any]:
    """Nodes for the means over positions of a tensor [N, C, ...] and of its unclipped steps."""
    step = np.array(scale, np.float32)
    codes = ops.round(ops.divide(source, step), "half_to_even")
    axes = np.arange(2, len(source.get_shape()), dtype=np.int64)
    if not axes.size:
        return source, codes
    return tuple(ops.reduce_mean(node, axes, keep_dims=False) for node in (source, codes))
