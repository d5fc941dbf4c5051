"""Ranges of tensors over a calibration set that is streamed through the graph: ``calibrate``.

OpenVINO computes the statistics inside the graph: every watched tensor gets a ReduceMax (the exact
amax of each channel) and a strided Slice cast to float16 (the sample that the histogram counts).
``max_positions`` bounds the number of sampled elements per tensor and image, channels included.
Memory does not grow with the set.

Images are read in the order of their hashes, every shard gets whole batches, and counts and maxima
can be combined in any order. So with one batch size the result is bit-identical for every order of
the images and every number of shards, even if OpenVINO's arithmetic depends on the position of an
image in its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from openvino import opset13 as ops

from edge_inception import artifact
from edge_inception.artifact import RangeTable, SimplifiedGraph
from edge_inception.data.imageset import ImageItem, ImageSet
from edge_inception.errors import InputError
from edge_inception.graph import check
from edge_inception.graph.signs import non_negative
from edge_inception.quant import ranges
from edge_inception.quant.calibrators import (
    DROPPED_BITS,
    NUM_BINS,
    Observation,
    calibrator,
    require_known,
)
from edge_inception.quant.channel_means import channel_means
from edge_inception.quant.implicit import tensors_to_observe
from edge_inception.quant.openvino_reader import Stream, require_finite
from edge_inception.quant.options import AUTO, WHOLE, CalibrateOptions, Effort, calibrate_provenance
from edge_inception.quant.placement import place_pairs
from edge_inception.quant.ranges import ChannelMeans, FittedParameters, Table, TensorRange
from edge_inception.quant.rounding import round_weights
from edge_inception.quant.trial import Trial, split_images
from edge_inception.sidecar import RangeTableDetails, StreamEngine
from edge_inception.spec import OUTPUT_NAME, Progress, no_progress

# A code is the bit pattern of a float16 magnitude without its lowest DROPPED_BITS mantissa bits;
# codes from NUM_BINS on are NaN.
_MAGNITUDE = np.uint16(0x7FFF)  # all bits of a float16 but the sign
_NUM_CODES = (0x7FFF >> DROPPED_BITS) + 1
_SPATIAL_RANK = 4

_WITHOUT_TRIAL = "mse"

PER_IMAGE = ("num_elements_per_image", "num_sampled_per_image")
"""Keys of a table's counts that are per image, so that ``merge`` must not add those of shards."""


def calibrate(
    graph: SimplifiedGraph,
    images: ImageSet,
    options: CalibrateOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> RangeTable:
    """The range table of a graph; an .npz file beside it holds histograms and channel means.

    The table has a range for every tensor that will carry a Q/DQ pair, and for every other tensor
    that implicit int8 (scales in a calibration cache, no Q/DQ) needs: in residual networks the
    inputs of an Add. The table of one shard of several covers that share of the images and has no
    channel means; ``merge`` makes the table of all shards and measures the means. Labels of the
    images are not used. ``progress`` counts images, anew in every pass.

    Raises:
        InputError: The calibrator is unknown, the set is empty, an image is unusable or no tensor
            is to be quantized; or weights, images or a tensor hold NaN or infinity.
        CompileFailed: OpenVINO does not take the graph.
    """
    require_known(options.calibrator)
    share = _share(choose_images(images, options), options)
    watched = find_watched_tensors(graph)
    watcher = Watcher(watched, options)
    observations = Observations(
        tensors=watcher.watch(share, progress),
        num_images=len(share),
        counts=watcher.counts,
        engine=watcher.engine,
    )
    del watcher  # its compiled graph and buffers, before the second pass makes its own
    return publish(watched, images, options, observations, out, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedGraph:
    """A simplified graph and the tensors in it that calibration watches.

    ``group_of`` maps every tensor of the range table to the tensor whose amax it uses, in graph
    order. ``signed`` are the tensors whose values can be negative; ``layer_inputs`` are the tensors
    that a layer with int8 weights reads.
    """

    graph: SimplifiedGraph
    group_of: Mapping[str, str]
    signed: frozenset[str]
    layer_inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Results of one pass over ``num_images`` images.

    ``tensors`` has the statistics of every tensor, ``counts`` the numbers of elements per image.
    ``engine`` has the threads and the float precision of OpenVINO.
    """

    tensors: Mapping[str, Observation]
    num_images: int
    counts: Mapping[str, int]
    engine: StreamEngine


def find_watched_tensors(graph: SimplifiedGraph) -> WatchedGraph:
    """The tensors of a simplified graph that calibration watches.

    Raises:
        InputError: A weight is NaN or infinite.
    """
    model = onnx.load(str(graph.path))
    check.require_finite(model)
    placement = place_pairs(model)
    paired = placement.group_of
    group_of = {**paired, **{name: name for name in tensors_to_observe(model, paired)}}
    read = dict.fromkeys(model.graph.node[index].input[0] for index in placement.weights)
    return WatchedGraph(
        graph=graph,
        group_of=group_of,
        signed=frozenset(group_of) - non_negative(model),
        layer_inputs=tuple(name for name in read if name in paired),
    )


def publish(
    watched: WatchedGraph,
    images: ImageSet,
    options: CalibrateOptions,
    observations: Observations,
    out: Path,
    *,
    progress: Progress,
) -> RangeTable:
    """Write the range table of these observations; for a whole set, learn what images teach.

    That is channel means, weights rounded by second order, and the choices of a trial.
    """
    observed, chosen = observations.tensors, choose_images(images, options)
    outcome = None
    weights: Mapping[str, NDArray[np.int8]] = {}
    if options.shard == WHOLE and options.effort is not Effort.QUICK:
        path = watched.graph.path
        learning, _ = split_images(chosen.items)
        weights = round_weights(path, learning, options, progress)
        ranges_by = partial(_choose_ranges, watched, observed)
        trial = Trial(path, chosen.items, options, ranges_by, weights, progress)
        outcome = trial.run()
    calibrator_name = outcome.chosen.calibrator if outcome else _untried(options)
    tensors = _choose_ranges(watched, observed, calibrator_name)
    table = Table(
        schema=ranges.SCHEMA,
        graph=watched.graph.sha256,
        set=chosen.name,
        set_sha256=chosen.sha256,
        num_images=observations.num_images,
        calibrator=calibrator_name,
        preprocess=options.preprocess,
        shard=options.shard,
        tensors=tensors,
    )
    means: Mapping[str, ChannelMeans] = {}
    if options.shard == WHOLE:
        means = measure_means(watched, tensors, chosen, options, progress=progress)
    fitted = FittedParameters(weights=weights, corrections=outcome.corrections if outcome else {})
    return artifact.publish(
        RangeTable,
        out,
        ranges.table_text(table).encode(),
        provenance=calibrate_provenance(watched.graph, images, options),
        counts={
            "num_images": observations.num_images,
            "num_left_out": images.num_left_out,
            "num_tensors": len(observed),
            **observations.counts,
        },
        details=RangeTableDetails(
            tried=outcome.tried if outcome else (),
            chosen=outcome.chosen if outcome else None,
            num_rounded=len(weights),
            engine=observations.engine,
            beside=ranges.write_statistics(out, observed, means, fitted),
        ),
    )


def _untried(options: CalibrateOptions) -> str:
    """The calibrator without a trial: that of the options, ``mse`` for ``auto``."""
    return _WITHOUT_TRIAL if options.calibrator == AUTO else options.calibrator


def _choose_ranges(
    watched: WatchedGraph, observed: Mapping[str, Observation], name: str
) -> dict[str, TensorRange]:
    """The range of every watched tensor, with the amax that the calibrator ``name`` chooses."""
    choose = calibrator(name)
    amax = {root: choose(observed[root]) for root in dict.fromkeys(watched.group_of.values())}
    return {
        name: TensorRange(amax=amax[root], observed_amax=observed[name].amax, scale_of=root)
        for name, root in watched.group_of.items()
    }


def measure_means(
    watched: WatchedGraph,
    tensors: Mapping[str, TensorRange],
    images: ImageSet,
    options: CalibrateOptions,
    *,
    progress: Progress,
) -> Mapping[str, ChannelMeans]:
    """Channel means of ``watched.layer_inputs``, in float and rounded with the table's scales."""
    scales = ranges.tensor_scales({name: tensors[name].amax for name in watched.layer_inputs})
    scale_of = {name: float(scale) for name, scale in scales.items()}
    return channel_means(watched.graph.path, scale_of, images.items, options, progress)


def choose_images(images: ImageSet, options: CalibrateOptions) -> ImageSet:
    """The calibration images: at most ``max_images`` of the set, or all if ``max_images`` is 0.

    Raises:
        InputError: The set is empty.
    """
    chosen = images.subset(options.max_images) if options.max_images else images
    if not chosen.items:
        raise InputError(f"calibration set '{images.name}' is empty", hint="give it images")
    return chosen


def _share(chosen: ImageSet, options: CalibrateOptions) -> list[ImageItem]:
    """The images of the shard: every n-th batch of the set sorted by hash, from the i-th on."""
    number, of = options.shard
    ordered = sorted(chosen.items, key=lambda item: item.sha256)
    dealt = range((number - 1) * options.batch, len(ordered), of * options.batch)
    share = [item for start in dealt for item in ordered[start : start + options.batch]]
    if not share:
        raise InputError(
            f"no image left for shard {number} of {of}: {len(ordered)} images are "
            f"{-(-len(ordered) // options.batch)} batches of {options.batch}",
            hint="use fewer shards",
        )
    return share


class Watcher:
    """A compiled graph that returns statistics of the watched tensors.

    Attributes:
        counts: Number of elements of all watched tensors per image, and how many are sampled.
        engine: Threads and float precision, read back from OpenVINO.
    """

    def __init__(self, watched: WatchedGraph, options: CalibrateOptions) -> None:
        self._names, self._signed = tuple(watched.group_of), watched.signed
        self._options = options
        self._sizes: list[tuple[int, int]] = []
        self._stream = Stream(watched.graph.path, options, self._outputs)
        self.engine = self._stream.engine
        self.counts = dict(zip(PER_IMAGE, map(sum, zip(*self._sizes, strict=True)), strict=True))

    def watch(self, items: Sequence[ImageItem], progress: Progress) -> dict[str, Observation]:
        """Statistics of every tensor over all images, streamed once."""
        amaxes = dict.fromkeys(self._names, 0.0)
        counts = {name: np.zeros(_NUM_CODES, np.int64) for name in self._names}
        for batch, outputs in self._stream.read(items, progress):
            readings = iter(outputs)
            for name in self._names:
                amax, sample = next(readings), next(readings)
                require_finite(name, amax, batch)
                amaxes[name] = max(amaxes[name], float(amax.max()))
                codes = (sample.reshape(-1).view(np.uint16) & _MAGNITUDE) >> DROPPED_BITS
                counts[name] += np.bincount(codes, minlength=_NUM_CODES)
            require_finite(OUTPUT_NAME, next(readings), batch)
        return {name: _observation(name, amaxes[name], counts[name]) for name in self._names}

    def _outputs(self, tensors: Mapping[str, Any]) -> list[Any]:
        """Two results per watched tensor: channel maxima and a float16 sample.

        OpenVINO executes the nodes that the first output needs, then the nodes of the second, and
        so on. With the logits as the last output, a tensor is read as soon as it is computed, while
        it is still in the CPU's cache, and is then freed.
        """
        random = np.random.default_rng(self._options.seed)
        results = []
        for name in self._names:
            source = tensors[name]
            shape = tuple(source.get_shape())
            sample = _sampled(source, shape, self._options.max_positions, random)
            results.append(ops.result(_amax(source, shape, is_signed=name in self._signed)))
            results.append(ops.result(ops.convert(sample, "f16")))
            sampled = _num_elements(results[-1].get_output_shape(0))
            self._sizes.append((_num_elements(shape), sampled))
        return results


def _observation(name: str, amax: float, counts: NDArray[np.int64]) -> Observation:
    if counts[NUM_BINS:].any():
        raise InputError(f"tensor '{name}' holds NaN", hint="the checkpoint does not fit the model")
    return Observation(amax=amax, histogram=counts[:NUM_BINS].copy())


def _num_elements(shape: Sequence[int]) -> int:
    """Number of elements per image of a tensor [N, ...]."""
    return int(np.prod(shape[1:]))


def _amax(source: Any, shape: Sequence[int], *, is_signed: bool) -> Any:
    """A node for the largest magnitude of every channel [N, C, 1, 1], or of a row [N, 1].

    A tensor without negative values needs no Abs. The reduction leaves the channels apart, since
    OpenVINO computes it over H and W alone in the memory layout of the convolutions.
    """
    node = ops.absolute(source) if is_signed else source
    axes = range(len(shape))[2 if len(shape) == _SPATIAL_RANK else 1 :]
    return ops.reduce_max(node, np.array(axes, np.int64), keep_dims=True)


def _sampled(source: Any, shape: Sequence[int], limit: int, random: np.random.Generator) -> Any:
    """A node for the sample of a tensor: all channels at a grid of positions with a random offset.

    The grid has the smallest stride that leaves at most ``limit`` elements per image, or a single
    position. A tensor that is small enough, or not [N, C, H, W], is sampled whole.
    """
    if not limit or len(shape) != _SPATIAL_RANK or np.prod(shape[1:]) <= limit:
        return source
    channels, sizes = shape[1], np.array(shape[2:])
    stride = 1
    while channels * np.prod(-(-sizes // stride)) > limit and stride < sizes.max():
        stride += 1
    start = random.integers(0, np.minimum(stride, sizes))
    steps, axes = np.array([stride, stride], np.int64), np.array([2, 3], np.int64)
    return ops.slice(source, start.astype(np.int64), sizes.astype(np.int64), steps, axes)
