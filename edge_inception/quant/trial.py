"""The calibrator ``auto``: a few are tried end to end on a few images; the least harmful stays."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_inception.graph.layer_noise import decibels
from edge_inception.imageset import ImageItem
from edge_inception.quant.insert import int8_graph
from edge_inception.quant.options import CalibrateOptions
from edge_inception.quant.ranges import ChannelMeans, TensorRange
from edge_inception.quant.stream import Stream
from edge_inception.spec import Progress

TRIED = ("mse", "mse-max", "max")
"""Each was the best on a trained network here: Inception-ResNet-v1, Inception-v3 and -v4."""

NUM_IMAGES = 32

_TINY = float(np.finfo(np.float64).tiny)


class Trial:
    """Logits of a graph over a few images, to hold the int8 graphs of ranges against.

    Over the NUM_IMAGES items with the largest sha256, which are not those of the channel means, so
    that bias correction is tried on other images than it was made of.

    Args:
        path: The simplified graph.
        items: The calibration images, at least one.
        options: Preprocessing, batch, threads, placement.
        progress: Called with images done and images in all, in this pass and in each of the trials.

    Raises:
        InputError: An image is not usable.
        CompileFailed: OpenVINO does not take the graph.
    """

    def __init__(
        self,
        path: Path,
        items: Sequence[ImageItem],
        options: CalibrateOptions,
        progress: Progress,
    ) -> None:
        self._path, self._options, self._progress = path, options, progress
        self._items = sorted(items, key=lambda item: item.sha256)[-NUM_IMAGES:]
        self._exact = self._logits(path)

    def sqnr_db(
        self, tensors: Mapping[str, TensorRange], means: Mapping[str, ChannelMeans] | None = None
    ) -> float:
        """SQNR in dB, to 0.1, of the int8 graph of these ranges; with ``means`` biases corrected.

        As the graph is written: every Q/DQ in float. What all classes have in common is no error,
        softmax does not see it.

        Raises:
            InputError: A scale is beyond float16.
            CompileFailed: OpenVINO does not take the graph.
        """
        with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
            typed = Path(folder) / "int8.onnx"
            typed.write_bytes(int8_graph(self._path, tensors, means, self._options.placement))
            noise = self._logits(typed) - self._exact
        signal = max(float(np.square(self._exact).sum()), _TINY)
        return round(decibels(float(np.square(noise).sum()) / signal), 1)

    def _logits(self, path: Path) -> NDArray[np.float64]:
        """Output [N, classes], less its mean over the classes where there are several."""
        stream = Stream(path, self._options, lambda _: ())
        read = stream.read(self._items, self._progress)
        parts = [found[0].astype(np.float64) for _, found in read]
        logits = np.concatenate(parts).reshape(len(self._items), -1)
        return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits
