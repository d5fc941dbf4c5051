"""The calibrator ``auto``: a few are tried end to end on a few images; the least harmful stays."""

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
"""Each was the best on a trained network here: Inception-ResNet-v1, Inception-v3 and -v4."""

NUM_IMAGES = 32

MIN_UNSEEN = 8
"""Images that the means of bias correction do not know, below which it is not judged.

On the demo's three networks, with each of TRIED, correction gains -3.0 to 5.1 dB over 246 such
photos. Judged on 8 of them, drawn 2000 times, the wrong one of the two costs 0.16 dB on average, on
4 0.22, on 32 0.07; correcting always costs 0.53. 8 get the signs of the largest, -3.0 and 5.1 dB,
right in 93 and 98 draws of 100, 4 in 90 and 93.
"""

_TINY = float(np.finfo(np.float64).tiny)


class Trial:
    """Logits of a graph over a few images, to hold the int8 graphs of ranges against.

    Over the NUM_IMAGES items with the largest sha256. Bias correction is judged on those among them
    that its means are not made of: all where there are 48 images or more, else the images beyond
    the 16 of the means.

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
        known = {item.sha256 for item in channel_means.chosen(items)}
        self._unseen = np.array([item.sha256 not in known for item in self._items])
        self._exact = self._logits(check.load_graph(path))

    def noise(
        self, tensors: Mapping[str, TensorRange], means: Mapping[str, ChannelMeans] | None = None
    ) -> NDArray[np.float64]:
        """Noise power [N] of the logits of the int8 graph of these ranges, image by image.

        With ``means`` biases are corrected. As the graph is written: every Q/DQ in float. What all
        classes have in common is no error, softmax does not see it.

        Raises:
            InputError: A scale is beyond float16.
            CompileFailed: OpenVINO does not take the graph.
        """
        typed = int8_graph(self._path, tensors, means, self._options.placement)
        error = self._logits(onnx.ModelProto.FromString(typed)) - self._exact
        return np.asarray(np.square(error).sum(axis=1))

    def sqnr_db(self, noise: NDArray[np.float64]) -> float:
        """SQNR of the logits in dB, to 0.1, over all images of the trial."""
        return self._sqnr_db(noise, np.ones(len(self._items), bool))

    def correction(
        self,
        tensors: Mapping[str, TensorRange],
        means: Mapping[str, ChannelMeans],
        plain: NDArray[np.float64],
    ) -> TrialDetails:
        """Whether bias correction helps, with the figures; of too few images only their number.

        Args:
            tensors: The ranges.
            means: What biases are corrected by.
            plain: The ``noise`` of these ranges without.

        Raises:
            CompileFailed: As ``noise``.
        """
        num_images = int(self._unseen.sum())
        if num_images < MIN_UNSEEN:
            return TrialDetails(bias_images=num_images)
        without = self._sqnr_db(plain, self._unseen)
        corrected = self._sqnr_db(self.noise(tensors, means), self._unseen)
        return TrialDetails(
            bias_images=num_images,
            uncorrected_sqnr_db=without,
            corrected_sqnr_db=corrected,
            bias_correction_helps=corrected > without,
        )

    def _sqnr_db(self, noise: NDArray[np.float64], of: NDArray[np.bool_]) -> float:
        signal = max(float(np.square(self._exact[of]).sum()), _TINY)
        return round(decibels(float(noise[of].sum()) / signal), 1)

    def _logits(self, model: onnx.ModelProto) -> NDArray[np.float64]:
        """Logits [N, classes] of a graph, less their mean over the classes where there are several.

        Whatever its head makes of them: a probability near 1 says little of its logit, and the
        best K scores nothing of whose they are.
        """
        bare = check.without_head(model)
        with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
            path = Path(folder) / "bare.onnx"
            path.write_bytes(bare.SerializeToString())
            stream = Stream(path, self._options, lambda _: ())
            read = stream.read(self._items, self._progress)
            parts = [found[0].astype(np.float64) for _, found in read]
        logits = np.concatenate(parts).reshape(len(self._items), -1)
        return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits
