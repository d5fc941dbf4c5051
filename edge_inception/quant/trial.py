"""The calibrator ``auto``: tries a few calibrators on whole int8 graphs, to choose the best."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_inception.data.imageset import ImageItem
from edge_inception.graph import check
from edge_inception.graph.layer_noise import decibels
from edge_inception.quant import channel_means
from edge_inception.quant.insert_qdq import int8_graph
from edge_inception.quant.openvino_reader import Stream
from edge_inception.quant.options import CalibrateOptions
from edge_inception.quant.ranges import ChannelMeans, TensorRange
from edge_inception.sidecar import TrialDetails
from edge_inception.spec import Progress

TRIED = ("mse", "mse-max", "max")
"""The calibrators that are tried. Each is the best on one of the demo's three trained networks:
Inception-ResNet-v1, Inception-v3 and Inception-v4."""

NUM_IMAGES = 32
"""Number of images of a trial."""

MIN_UNSEEN = 8
"""Smallest number of images on which bias correction is judged; channel means use other images.

Measured on the demo's three networks with each calibrator of TRIED: over 246 such photos bias
correction changes the SQNR of the logits by -3.0 dB in the worst case and by 5.1 dB in the best. If
a few random photos decide instead whether to correct (2000 draws), wrong choices cost on average
0.22 dB with 4 photos, 0.16 dB with 8 and 0.07 dB with 32; correcting always costs 0.53 dB. With 8
photos 93 % of the draws choose right in the worst case and 98 % in the best case; with 4 photos
90 % and 93 % do.
"""

_TINY = float(np.finfo(np.float64).tiny)


class Trial:
    """Float logits of a graph over a few images, to compare int8 graphs with.

    The images are the NUM_IMAGES items with the largest sha256. Bias correction is judged on the
    images among them that its channel means are not made of: all 32 if the set has 48 images or
    more, else all but the 16 images of the means. ``progress`` counts the images of the trial, anew
    for the float graph and for every int8 graph.

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
        in_means = {item.sha256 for item in channel_means.select_images(items)}
        self._unseen = np.array([item.sha256 not in in_means for item in self._items])
        self._exact = self._logits(check.load_graph(path))

    def noise(
        self, tensors: Mapping[str, TensorRange], means: Mapping[str, ChannelMeans] | None = None
    ) -> NDArray[np.float64]:
        """Noise power [N] of the logits of the int8 graph with these ranges, one per image.

        With ``means`` the biases are corrected. OpenVINO computes every Q/DQ pair in float, as
        written. An error that all classes have in common does not count: softmax ignores it.

        Raises:
            InputError: A scale is beyond float16.
            CompileFailed: OpenVINO does not take the graph.
        """
        typed = int8_graph(self._path, tensors, means, self._options.placement)
        error = self._logits(onnx.ModelProto.FromString(typed)) - self._exact
        return np.asarray(np.square(error).sum(axis=1))

    def sqnr_db(
        self, noise: NDArray[np.float64], images: NDArray[np.bool_] | slice = slice(None)
    ) -> float:
        """SQNR of the logits over the chosen images of the trial, in dB, rounded to 0.1."""
        signal = max(float(np.square(self._exact[images]).sum()), _TINY)
        return round(decibels(float(noise[images].sum()) / signal), 1)

    def correction(
        self,
        tensors: Mapping[str, TensorRange],
        means: Mapping[str, ChannelMeans],
        plain: NDArray[np.float64],
    ) -> TrialDetails:
        """Whether bias correction helps, with its figures; only their number if images are too few.

        ``plain`` is the result of ``noise`` for these ranges without bias correction.
        """
        num_images = int(self._unseen.sum())
        if num_images < MIN_UNSEEN:
            return TrialDetails(bias_images=num_images)
        without = self.sqnr_db(plain, self._unseen)
        corrected = self.sqnr_db(self.noise(tensors, means), self._unseen)
        return TrialDetails(
            bias_images=num_images,
            uncorrected_sqnr_db=without,
            corrected_sqnr_db=corrected,
            bias_correction_helps=corrected > without,
        )

    def _logits(self, model: onnx.ModelProto) -> NDArray[np.float64]:
        """Logits [N, classes] of a graph, minus their mean over the classes if there are several.

        The head (Softmax or TopK behind the logits) is left out: a probability near 1 tells little
        about its logit, and the best K scores do not tell their classes.
        """
        bare = check.without_head(model)
        with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
            path = Path(folder) / "bare.onnx"
            path.write_bytes(bare.SerializeToString())
            stream = Stream(path, self._options, lambda _: ())
            batches = stream.read(self._items, self._progress)
            parts = [outputs[0].astype(np.float64) for _, outputs in batches]
        logits = np.concatenate(parts).reshape(len(self._items), -1)
        return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits
