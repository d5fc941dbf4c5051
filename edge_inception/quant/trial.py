"""The trial: int8 graphs of several choices, compared on calibration images that are held back.

What else was tried, and lost: docs/int8.md, "What lost, and by how much".
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_inception.data.imageset import ImageItem
from edge_inception.graph import check
from edge_inception.graph.layer_noise import decibels
from edge_inception.graph.statistics import statistics
from edge_inception.graph.support_checks import label
from edge_inception.hardware.cores import usable_threads
from edge_inception.quant import rounding
from edge_inception.quant.corrections import bias_corrections
from edge_inception.quant.insert_qdq import Calibrated, int8_graph
from edge_inception.quant.openvino_reader import Stream
from edge_inception.quant.options import (
    AUTO,
    CalibrateOptions,
    Effort,
    QuantizeOptions,
    Rounding,
    Typing,
)
from edge_inception.quant.placement import place_pairs
from edge_inception.quant.policies import policy
from edge_inception.quant.ranges import FittedParameters, TensorRange
from edge_inception.sidecar import TriedGraph
from edge_inception.spec import Precision, Progress

CALIBRATORS = ("max", "mse-max", "percentile:99.999", "mse")
"""The calibrators that ``auto`` tries, from the one that clips least to the one that clips most.
Each is the best on one network that was measured."""

PLACEMENTS: Mapping[Typing, tuple[str, ...]] = {
    Typing.STRONG: ("weighted-ends", "weighted-last", "sandwich"),
    Typing.CPU: ("weighted-ends", "weighted-last"),
}
"""The placements that are tried; the first is the most accurate on all networks measured. On CPUs
the last is as fast as a graph without any float layer."""

NUM_IMAGES = 32
"""Largest number of images that are held back for the trial; never more than a third of the set."""

_NUM_FINAL_IMAGES = 128  # images of the final between the best graphs
_FINALIST_DB = 6.0  # a graph that is worse by more is no finalist
_NUM_FITTED = 16  # images that biases are corrected on; 32 gave at most 0.4 dB more
_CLOSE_DB = 1.0  # between graphs that differ by no more, accuracy does not decide
_AMPLE_DB = 42.0  # nor from here on: of 525 photos of the demo, none changes its class
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The choices of one int8 graph of the trial."""

    calibrator: str
    placement: str
    fold_zero_points: bool
    bias_correction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a trial: every graph in order, the best, and the bias corrections of the best."""

    tried: tuple[TriedGraph, ...]
    chosen: TriedGraph
    corrections: Mapping[str, NDArray[np.float32]]


def split_images(items: Sequence[ImageItem]) -> tuple[list[ImageItem], list[ImageItem]]:
    """Images to learn from, and images held back to judge by; the same ones if there is only one.

    Both are sorted by sha256, so that they depend on no order of the set.
    """
    ordered = sorted(items, key=lambda item: item.sha256)
    count = min(NUM_IMAGES, max(1, len(ordered) // 3))
    return ordered[:-count] or ordered, ordered[-count:]


class Trial:
    """Int8 graphs of a simplified graph, compared with it on a few images.

    Args:
        path: The simplified graph.
        items: The calibration images, at least one.
        options: Preprocessing, batch, threads, calibrator, placement, effort.
        ranges_by: Name of a calibrator -> range of every tensor.
        weights: Weight -> its int8 steps, where they are not rounded to nearest.
        progress: Called with the number of images done and of all images, anew in every pass.

    Raises:
        InputError: An image is not usable.
        CompileFailed: OpenVINO does not take the graph.
    """

    def __init__(
        self,
        path: Path,
        items: Sequence[ImageItem],
        options: CalibrateOptions,
        ranges_by: Callable[[str], Mapping[str, TensorRange]],
        weights: Mapping[str, NDArray[np.int8]],
        progress: Progress,
    ) -> None:
        self._path, self._options, self._progress = path, options, progress
        self._ranges_by, self._weights = ranges_by, weights
        self._is_for_cpu = options.typing is Typing.CPU
        learning, self._images = split_images(items)
        self._all = sorted(items, key=lambda item: item.sha256)[:_NUM_FINAL_IMAGES]
        self._fitted = learning[:_NUM_FITTED] if len(learning) >= rounding.MIN_IMAGES else []
        self._model = check.load_graph(path)
        self._exact = self._logits(self._model)
        self._corrections: dict[Candidate, Mapping[str, NDArray[np.float32]]] = {}
        self._tried: dict[Candidate, TriedGraph] = {}

    def run(self) -> Outcome:
        """Try the graphs of the options, from the likely best on, and choose one.

        First every calibrator is tried with the first placement, then the best of them and the one
        that clips least with corrected biases, and the best with the other placements. With the
        effort ``max`` every combination is tried. Then the best graphs meet on all images: what
        clips one photo of a hundred, a few photos do not show. The most accurate graph wins, by the
        mean of both figures of ``TriedGraph``. Of those that lose no more than 1 dB, or that are
        above 42 dB, the one wins that computes least in float, then the one that clips least.
        """
        options = self._options
        calibrators = CALIBRATORS if options.calibrator == AUTO else (options.calibrator,)
        placements = (options.placement,) if options.placement else self._placements()
        if options.effort is Effort.MAX:
            for name in placements:
                for is_folded in (True, False)[self._is_for_cpu :]:
                    self._try_all(calibrators, name, is_folded=is_folded)
        else:
            folds = not self._is_for_cpu
            plain = [
                Candidate(calibrator=name, placement=placements[0], fold_zero_points=folds)
                for name in calibrators
            ]
            widest = plain[0]
            plain.sort(key=lambda one: -_merit(self.noise_of(one)))
            for one in dict.fromkeys((plain[0], widest)):
                self._try_corrected(one)
            best = max(self._tried, key=lambda one: _merit(self._tried[one]))
            for name in placements[1:]:
                other = dataclasses.replace(best, placement=name, bias_correction=False)
                self._try_corrected(other) or self.noise_of(other)
        finalists = self._finalists()
        first = tuple(self._tried.values())
        self._images, self._tried = self._all, {}
        self._exact = self._logits(self._model)
        for one in finalists:
            self.noise_of(one)
        best = self._choose()
        return Outcome(
            tried=(*first, *self._tried.values()),
            chosen=self._tried[best],
            corrections=self._corrections.get(best, {}),
        )

    def noise_of(self, candidate: Candidate) -> TriedGraph:
        """The figures of one graph; OpenVINO computes every Q/DQ pair in float, as written.

        An error that all classes have in common does not count: softmax ignores it.

        Raises:
            InputError: A scale is beyond float16.
            CompileFailed: OpenVINO does not take the graph.
        """
        if candidate not in self._tried:
            logits = self._logits(self._int8_graph(candidate))
            noise = np.square(logits - self._exact).sum(axis=1)
            signal = np.maximum(np.square(self._exact).sum(axis=1), _TINY)
            self._tried[candidate] = TriedGraph(
                **dataclasses.asdict(candidate),
                typing=self._options.typing.value,
                float_share=round(self._float_share(candidate.placement), 4),
                num_images=len(self._images),
                sqnr_db=round(decibels(float(noise.sum() / signal.sum())), 1),
                median_sqnr_db=round(decibels(float(np.median(noise / signal))), 1),
            )
        return self._tried[candidate]

    def _finalists(self) -> list[Candidate]:
        """The best graph on a few images, and a close one with less float, if any.

        Both come with the calibrator that clips least too, which a few images may not need.
        """
        order = sorted(self._tried, key=lambda one: -_merit(self._tried[one]))
        least = min(_merit(self._tried[order[0]]) - _FINALIST_DB, _AMPLE_DB)
        close = [one for one in order if _merit(self._tried[one]) >= least]
        cheapest = min(close, key=lambda one: self._tried[one].float_share)
        widest = min(order, key=lambda one: self._clipping(one.calibrator))
        wide = dataclasses.replace(cheapest, calibrator=widest.calibrator)
        if wide.bias_correction and wide not in self._corrections:
            self._try_corrected(dataclasses.replace(wide, bias_correction=False))
        return list(dict.fromkeys((order[0], cheapest, widest, wide)))

    def _clipping(self, calibrator: str) -> int:
        """Rank of a calibrator among those that are tried: 0 for the one that clips least."""
        return [*CALIBRATORS, self._options.calibrator].index(calibrator)

    def _placements(self) -> tuple[str, ...]:
        """The placements to try; in a network without weights enough for float ends, the others."""
        names = PLACEMENTS[self._options.typing]
        num_weighted = len(place_pairs(self._model).weights)
        enough = max(policy(name).float_first + policy(name).float_last for name in names)
        if num_weighted <= enough:
            return "weighted-only", *(name for name in names if not policy(name).float_last)
        return names

    def _try_all(self, calibrators: Sequence[str], placement: str, *, is_folded: bool) -> None:
        for name in calibrators:
            one = Candidate(calibrator=name, placement=placement, fold_zero_points=is_folded)
            self.noise_of(one)
            self._try_corrected(one)

    def _try_corrected(self, candidate: Candidate) -> bool:
        """Try a graph with corrected biases; False if there are too few images to correct on."""
        if not self._fitted:
            return False
        corrected = dataclasses.replace(candidate, bias_correction=True)
        typed = self._int8_graph(candidate, keeps_layers=True)
        self._corrections[corrected] = bias_corrections(
            self._model,
            typed,
            self._fitted,
            preprocess=self._options.preprocess,
            threads=self._options.threads or usable_threads(),
        )
        self.noise_of(corrected)
        return True

    def _choose(self) -> Candidate:
        merits = {one: _merit(tried) for one, tried in self._tried.items()}
        best = max(merits.values())
        least = min(best - _CLOSE_DB, _AMPLE_DB)
        close = [one for one, merit in merits.items() if merit >= least]
        return min(
            close,
            key=lambda one: (
                self._tried[one].float_share,
                self._clipping(one.calibrator),
                -merits[one],
            ),
        )

    def _int8_graph(self, candidate: Candidate, *, keeps_layers: bool = False) -> onnx.ModelProto:
        options = QuantizeOptions(
            precision=Precision.INT8,
            typing=self._options.typing,
            placement=candidate.placement,
            rounding=Rounding.SECOND_ORDER,
            fold_zero_points=candidate.fold_zero_points,
        )
        corrections = self._corrections.get(candidate, {})
        fitted = FittedParameters(weights=self._weights, corrections=corrections)
        ranges = self._ranges_by(candidate.calibrator)
        calibrated = Calibrated(ranges=ranges, fitted=fitted, preprocess=self._options.preprocess)
        return int8_graph(self._path, calibrated, options, keeps_layers=keeps_layers)

    def _float_share(self, placement: str) -> float:
        macs = {layer.name: layer.macs or 0 for layer in statistics(self._model).layers}
        nodes = self._model.graph.node
        placed = place_pairs(self._model, policy(placement)).weights
        is_int8 = sum(macs[label(nodes[index])] for index in placed)
        return 1.0 - is_int8 / max(sum(macs.values()), 1)

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
            batches = stream.read(self._images, self._progress)
            parts: list[NDArray[Any]] = [out[0].astype(np.float64) for _, out in batches]
        logits = np.concatenate(parts).reshape(len(self._images), -1)
        return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits


def _merit(tried: TriedGraph) -> float:
    """What the trial maximises, in dB: one photo alone must not decide."""
    return (tried.sqnr_db + tried.median_sqnr_db) / 2
