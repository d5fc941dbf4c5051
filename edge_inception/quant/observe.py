"""Stream a calibration set through the graph and watch tensors: the stage ``calibrate``.

The statistics ride inside the inference graph: every watched tensor gets a ReduceMax (the exact
amax of each channel) and a strided Slice turned to float16 (the sample its histogram counts), so
Python sees at most ``max_positions`` halves per tensor and image. Nothing grows with the set.

Images are read in the order of their hashes, shards are dealt whole batches, and counts and maxima
add up in any order: at one batch size neither the order of the images nor the number of shards
changes a bit, whatever the library's arithmetic does with an image's place in its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from edge_inception.graph.signs import non_negative
from edge_inception.quant import placement as place
from edge_inception.quant import ranges
from edge_inception.quant.calibrators import (
    AUTO,
    DROPPED_BITS,
    NUM_BINS,
    Observation,
    calibrator,
    require_known,
)
from edge_inception.quant.channel_means import channel_means
from edge_inception.quant.implicit import unobserved
from edge_inception.quant.openvino_reader import Stream, require_finite
from edge_inception.quant.options import WHOLE, CalibrateOptions, calibrate_provenance
from edge_inception.quant.ranges import ChannelMeans, Table, TensorRange
from edge_inception.quant.trial import TRIED, Trial
from edge_inception.sidecar import RangeTableDetails, StreamEngine, TrialDetails
from edge_inception.spec import OUTPUT_NAME, Progress, no_progress

_MAGNITUDE = np.uint16(0x7FFF)
_NUM_CODES = (0x7FFF >> DROPPED_BITS) + 1
_SPATIAL_RANK = 4

PER_IMAGE = ("num_elements_per_image", "num_sampled_per_image")
"""Counts of a table that do not add up over shards."""


def calibrate(
    graph: SimplifiedGraph,
    images: ImageSet,
    options: CalibrateOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> RangeTable:
    """Range table of every tensor that needs one; histograms and channel means beside it as .npz.

    Those are the tensors that will carry a Q/DQ pair, and those that implicit int8 needs besides:
    in residual networks what an Add adds. One shard of several counts its share of the images;
    ``merge`` makes the table of all shards, and takes the means.

    Args:
        graph: From simplify; one image input.
        images: The calibration set; labels are not used.
        options: Calibrator, preprocessing, batch, threads, sampling, shard.
        out: Path of the .json table.
        progress: Called with images done and images in all, in every pass.

    Raises:
        InputError: Unknown calibrator, empty set, unusable image, nothing to quantize, or NaN or
            infinity in the weights, the images or a tensor.
        CompileFailed: OpenVINO does not take the graph.
    """
    require_known(options.calibrator)
    share = _share(chosen_images(images, options), options)
    subject = subject_of(graph)
    watcher = Watcher(subject, options)
    record = Record(
        seen=watcher.watch(share, progress),
        num_images=len(share),
        counts=watcher.counts,
        engine=watcher.engine,
    )
    del watcher  # its compiled graph and buffers, before the second pass makes its own
    return publish(subject, images, options, record, out, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is to be known of a simplified graph.

    ``scale_of`` maps every tensor that a range table holds to the one whose amax it uses, in graph
    order; ``signed`` are those that can be negative; ``convolved`` those that a layer with int8
    weights reads.
    """

    graph: SimplifiedGraph
    scale_of: Mapping[str, str]
    signed: frozenset[str]
    convolved: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a pass over images found: statistics by tensor, elements per image, the engine used."""

    seen: Mapping[str, Observation]
    num_images: int
    counts: Mapping[str, int]
    engine: StreamEngine


def subject_of(graph: SimplifiedGraph) -> Subject:
    """Read a simplified graph.

    Raises:
        InputError: NaN or infinity in its weights.
    """
    model = onnx.load(str(graph.path))
    place.require_finite_weights(model)
    placement = place.place(model)
    placed = placement.scale_of
    scale_of = {**placed, **{name: name for name in unobserved(model, placed)}}
    read = dict.fromkeys(model.graph.node[index].input[0] for index in placement.weights)
    return Subject(
        graph=graph,
        scale_of=scale_of,
        signed=frozenset(scale_of) - non_negative(model),
        convolved=tuple(name for name in read if name in placed),
    )


def publish(
    subject: Subject,
    images: ImageSet,
    options: CalibrateOptions,
    record: Record,
    out: Path,
    *,
    progress: Progress,
) -> RangeTable:
    """Statistics to a range table; of all images also the channel means, in a second pass."""
    seen, chosen = record.seen, chosen_images(images, options)
    tables = {name: _tensors(subject, seen, name) for name in _tried(options)}
    is_tried = len(tables) > 1
    judge = Trial(subject.graph.path, chosen.items, options, progress) if is_tried else None
    noise = {name: judge.noise(one) for name, one in tables.items()} if judge else {}
    tried = {name: judge.sqnr_db(one) for name, one in noise.items()} if judge else {}
    best = max(tables, key=lambda name: tried.get(name, 0.0))
    tensors = tables[best]
    table = Table(
        schema=ranges.SCHEMA,
        graph=subject.graph.sha256,
        set=chosen.name,
        set_sha256=chosen.sha256,
        num_images=record.num_images,
        calibrator=best,
        preprocess=options.preprocess,
        shard=options.shard,
        tensors=tensors,
    )
    means: Mapping[str, ChannelMeans] = {}
    if options.shard == WHOLE:
        means = measured_means(subject, tensors, chosen, options, progress=progress)
    found = judge.correction(tensors, means, noise[best]) if judge else TrialDetails()
    beside = artifact.write_beside(
        out, ranges.BESIDE, lambda path: ranges.write_statistics(path, seen, means)
    )
    return artifact.publish(
        RangeTable,
        out,
        ranges.table_text(table).encode(),
        provenance=calibrate_provenance(subject.graph, images, options),
        counts={
            "num_images": record.num_images,
            "num_left_out": images.num_left_out,
            "num_tensors": len(seen),
            **record.counts,
        },
        details=RangeTableDetails.of(
            found, tried_sqnr_db=tried, engine=record.engine, beside=beside
        ),
    )


def _tried(options: CalibrateOptions) -> tuple[str, ...]:
    """Calibrators to choose from; a shard cannot choose for the others, and takes the first."""
    if options.calibrator != AUTO:
        return (options.calibrator,)
    return TRIED if options.shard == WHOLE else TRIED[:1]


def _tensors(
    subject: Subject, seen: Mapping[str, Observation], name: str
) -> dict[str, TensorRange]:
    """Ranges by one calibrator."""
    choose = calibrator(name)
    amax = {root: choose(seen[root]) for root in dict.fromkeys(subject.scale_of.values())}
    return {
        name: TensorRange(amax=amax[root], observed_amax=seen[name].amax, scale_of=root)
        for name, root in subject.scale_of.items()
    }


def measured_means(
    subject: Subject,
    tensors: Mapping[str, TensorRange],
    images: ImageSet,
    options: CalibrateOptions,
    *,
    progress: Progress,
) -> Mapping[str, ChannelMeans]:
    """Channel means of every tensor that convolutions read, with the scales of the table."""
    found = ranges.tensor_scales({name: tensors[name].amax for name in subject.convolved})
    scales = {name: float(scale) for name, scale in found.items()}
    return channel_means(subject.graph.path, scales, images.items, options, progress)


def chosen_images(images: ImageSet, options: CalibrateOptions) -> ImageSet:
    """At most ``max_images`` of the set.

    Raises:
        InputError: There are none.
    """
    chosen = images.subset(options.max_images) if options.max_images else images
    if not chosen.items:
        raise InputError(f"calibration set '{images.name}' is empty", hint="give it images")
    return chosen


def _share(chosen: ImageSet, options: CalibrateOptions) -> list[ImageItem]:
    """The shard's images. Sorted by hash, batches are dealt out whole: no sharding changes one."""
    number, of = options.shard
    ordered = sorted(chosen.items, key=lambda item: item.sha256)
    dealt = range((number - 1) * options.batch, len(ordered), of * options.batch)
    share = [item for start in dealt for item in ordered[start : start + options.batch]]
    if not share:
        raise InputError(
            f"nothing left for shard {number} of {of}: {len(ordered)} images are "
            f"{-(-len(ordered) // options.batch)} batches of {options.batch}",
            hint="use fewer shards",
        )
    return share


@dataclass(slots=True)
class _Tally:
    """Running statistics of one tensor."""

    amax: float
    codes: NDArray[np.int64]


class Watcher:
    """An observation graph, compiled.

    Attributes:
        counts: Elements per image of all watched tensors, and how many of them are sampled.
        engine: Threads and float precision, read back from OpenVINO.
    """

    def __init__(self, subject: Subject, options: CalibrateOptions) -> None:
        self._names, self._signed = tuple(subject.scale_of), subject.signed
        self._options = options
        self._sizes: list[tuple[int, int]] = []
        self._stream = Stream(subject.graph.path, options, self._outputs)
        self.engine = self._stream.engine
        self.counts = dict(zip(PER_IMAGE, map(sum, zip(*self._sizes, strict=True)), strict=True))

    def watch(self, items: Sequence[ImageItem], progress: Progress) -> dict[str, Observation]:
        """Statistics of every tensor over all images, streamed once."""
        tallies = {n: _Tally(amax=0.0, codes=np.zeros(_NUM_CODES, np.int64)) for n in self._names}
        for batch, found in self._stream.read(items, progress):
            readings = iter(found)
            for name, tally in tallies.items():
                amax, sample = next(readings), next(readings)
                require_finite(name, amax, batch)
                tally.amax = max(tally.amax, float(amax.max()))
                codes = (sample.reshape(-1).view(np.uint16) & _MAGNITUDE) >> DROPPED_BITS
                tally.codes += np.bincount(codes, minlength=_NUM_CODES)
            require_finite(OUTPUT_NAME, next(readings), batch)
        return {name: _observation(name, tally) for name, tally in tallies.items()}

    def _outputs(self, tensors: Mapping[str, Any]) -> list[Any]:
        """Two results per tensor, channel maxima and a float16 sample; then the graph's own.

        OpenVINO executes what the first output needs, then the second, and so on. So the logits
        come last: a tensor is looked at as soon as it exists, while it is in the cache, and can be
        freed.
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


def _observation(name: str, tally: _Tally) -> Observation:
    if tally.codes[NUM_BINS:].any():
        raise InputError(f"tensor '{name}' holds NaN", hint="the checkpoint does not fit the model")
    return Observation(amax=tally.amax, histogram=tally.codes[:NUM_BINS].copy())


def _num_elements(shape: Sequence[int]) -> int:
    """Elements of one image in a tensor [N, ...]."""
    return int(np.prod(shape[1:]))


def _amax(source: Any, shape: Sequence[int], *, is_signed: bool) -> Any:
    """Largest magnitude of every channel [N, C, 1, 1], or of a row [N, 1].

    Behind a ReLU the maximum is enough. Reducing H and W alone stays in the layout in which
    convolutions keep their channels.
    """
    node = ops.absolute(source) if is_signed else source
    axes = range(len(shape))[2 if len(shape) == _SPATIAL_RANK else 1 :]
    return ops.reduce_max(node, np.array(axes, np.int64), keep_dims=True)


def _sampled(source: Any, shape: Sequence[int], limit: int, random: np.random.Generator) -> Any:
    """All channels at a grid of positions with a random offset; the whole tensor when it is small.

    The stride is the smallest that leaves at most ``limit`` elements per image, or one position.
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
