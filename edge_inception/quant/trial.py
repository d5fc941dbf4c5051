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
from edge_inception.quant.ranges import TensorRange
from edge_inception.quant.stream import Stream
from edge_inception.spec import Progress

TRIED = ("mse", "mse-max", "max")
"""Each was the best on a trained network here: Inception-ResNet-v1, Inception-v3 and -v4."""

NUM_IMAGES = 32


def sqnr_of(
    path: Path,
    tables: Mapping[str, Mapping[str, TensorRange]],
    items: Sequence[ImageItem],
    options: CalibrateOptions,
    progress: Progress,
) -> dict[str, float]:
    """Logits SQNR in dB, to 0.1, of the int8 graph of every table against the graph itself.

    Over the NUM_IMAGES items with the smallest sha256, as the graph is written: every Q/DQ in
    float. What all classes have in common is no error, softmax does not see it.

    Args:
        path: The simplified graph.
        tables: Calibrator -> ranges by tensor.
        items: The calibration images, at least one.
        options: Preprocessing, batch, threads, placement.
        progress: Called with images done and images in all, in a pass for each table and one more.

    Raises:
        InputError: An image is not usable, or a scale is beyond float16.
        CompileFailed: OpenVINO does not take a graph.
    """
    chosen = sorted(items, key=lambda item: item.sha256)[:NUM_IMAGES]
    exact = _logits(path, chosen, options, progress)
    found = {}
    with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
        typed = Path(folder) / "int8.onnx"
        for name, tensors in tables.items():
            typed.write_bytes(int8_graph(path, tensors, options.placement))
            noise = _logits(typed, chosen, options, progress) - exact
            ratio = float(np.square(noise).sum()) / max(float(np.square(exact).sum()), _TINY)
            found[name] = round(decibels(ratio), 1)
    return found


_TINY = float(np.finfo(np.float64).tiny)


def _logits(
    path: Path, items: Sequence[ImageItem], options: CalibrateOptions, progress: Progress
) -> NDArray[np.float64]:
    """Output [N, classes], less its mean over the classes where there are several."""
    stream = Stream(path, options, lambda _: ())
    parts = [found[0].astype(np.float64) for _, found in stream.read(items, progress)]
    logits = np.concatenate(parts).reshape(len(items), -1)
    return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits
