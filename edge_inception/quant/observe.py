"""Stream a calibration set through OpenVINO and watch tensors: the stage ``calibrate``.

The statistics ride inside the inference graph: every watched tensor gets a ReduceMax (the exact
amax of each channel) and a strided Slice turned to float16 (the sample its histogram counts), so
Python sees at most ``max_positions`` halves per tensor and image. Nothing grows with the set.

Counts and maxima do not depend on order, and every forward pass has the same batch shape (the last
batch is padded, the padding is not counted), so the order of the images changes nothing unless the
library's arithmetic for one image depends on its place in the batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from edge_inception import artifact, stage
from edge_inception.artifact import RangeTable, SimplifiedGraph
from edge_inception.errors import CompileFailed, InputError
from edge_inception.graph.signs import non_negative
from edge_inception.images import Batch, batches
from edge_inception.imageset import ImageSet
from edge_inception.quant import place, ranges
from edge_inception.quant.calibrators import DROPPED_BITS, NUM_BINS, Observation, calibrator
from edge_inception.quant.implicit import unobserved
from edge_inception.quant.options import CalibrateOptions, calibrate_provenance
from edge_inception.quant.ranges import Table, TensorRange
from edge_inception.spec import INPUT_NAME, OUTPUT_NAME, Progress, no_progress

_MAGNITUDE = np.uint16(0x7FFF)
_NUM_CODES = (0x7FFF >> DROPPED_BITS) + 1
_SPATIAL_RANK = 4


def calibrate(
    graph: SimplifiedGraph,
    images: ImageSet,
    options: CalibrateOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> RangeTable:
    """Range table of every tensor that needs one; histograms beside it as .npz.

    Those are the tensors that will carry a Q/DQ pair, and those that implicit int8 needs besides:
    in residual networks what an Add adds.

    Args:
        graph: From simplify; one image input.
        images: The calibration set; labels are not used.
        options: Calibrator, preprocessing, batch, threads, sampling.
        out: Path of the .json table.
        progress: Called with images done and images in all.

    Raises:
        InputError: Unknown calibrator, empty set, unusable image, nothing to quantize, or NaN or
            infinity in the weights, the images or a tensor.
        CompileFailed: OpenVINO does not take the graph.
    """
    choose = calibrator(options.calibrator)
    chosen = images.subset(options.max_images) if options.max_images else images
    if not chosen.items:
        raise InputError(f"calibration set '{images.name}' is empty", hint="give it images")
    model = onnx.load(str(graph.path))
    place.require_finite_weights(model)
    placed = place.place(model).scale_of
    scale_of = {**placed, **{name: name for name in unobserved(model, placed)}}
    signed = frozenset(scale_of) - non_negative(model)
    del model  # the weights are not needed twice
    watcher = Watcher(graph.path, list(scale_of), signed, options)
    seen = watcher.watch(chosen, progress)
    amax = {root: choose(seen[root]) for root in dict.fromkeys(scale_of.values())}
    table = Table(
        graph=graph.sha256,
        set=chosen.name,
        set_sha256=chosen.sha256,
        num_images=len(chosen.items),
        calibrator=options.calibrator,
        preprocess=stage.plain(options.preprocess),
        tensors={
            name: TensorRange(amax=amax[root], observed_amax=seen[name].amax, scale_of=root)
            for name, root in scale_of.items()
        },
    )
    histograms = ranges.histogram_path(out)
    artifact.replace_file(histograms, lambda path: ranges.write_histograms(path, seen))
    return artifact.publish(
        RangeTable,
        out,
        ranges.table_text(table).encode(),
        provenance=calibrate_provenance(graph, images, options),
        counts={
            "num_images": len(chosen.items),
            "num_left_out": images.num_left_out,
            "num_tensors": len(seen),
            **watcher.counts,
        },
        details={"histograms_sha256": artifact.file_sha256(histograms), "engine": watcher.engine},
    )


@contextmanager
def _openvino_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-300:]
        raise CompileFailed(
            f"OpenVINO cannot run {path}: {reason}", hint="simplify the graph again"
        ) from error


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

    def __init__(
        self, path: Path, names: Sequence[str], signed: frozenset[str], options: CalibrateOptions
    ) -> None:
        self._path, self._names, self._options = path, names, options
        with _openvino_errors(path):
            core = ov.Core()
            model = core.read_model(str(path))
            _fix_batch(model, path, options)
            model, sizes = _watched(model, names, signed, options)
            threads = options.threads or len(os.sched_getaffinity(0))
            wanted = {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
            }
            compiled = core.compile_model(model, "CPU", wanted)
            self._request = compiled.create_infer_request()
        self.counts = {
            "num_elements_per_image": sum(whole for whole, _ in sizes),
            "num_sampled_per_image": sum(sampled for _, sampled in sizes),
        }
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision != "f32":
            raise CompileFailed(
                f"OpenVINO computes in {precision}, wanted f32", hint="calibrate on another machine"
            )
        self.engine = {
            "precision": precision,
            "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
        }

    def watch(self, images: ImageSet, progress: Progress) -> dict[str, Observation]:
        """Statistics of every tensor over all images, streamed once."""
        tallies = {n: _Tally(amax=0.0, codes=np.zeros(_NUM_CODES, np.int64)) for n in self._names}
        done = 0
        for batch in batches(images.items, self._options.preprocess, self._options.batch):
            self._count(batch, tallies)
            done += len(batch.items)
            progress(done, len(images.items))
        return {name: _observation(name, tally) for name, tally in tallies.items()}

    def _count(self, batch: Batch, tallies: Mapping[str, _Tally]) -> None:
        size = len(batch.items)
        padding = self._options.batch - size
        padded = np.pad(batch.images, [(0, padding), (0, 0), (0, 0), (0, 0)])
        self._require_finite(INPUT_NAME, batch.images, batch)
        with _openvino_errors(self._path):
            found = self._request.infer([padded], share_inputs=True, share_outputs=True)
        outputs = (found[index][:size] for index in range(len(found)))
        for name, tally in tallies.items():
            amax, sample = next(outputs), next(outputs)
            self._require_finite(name, amax, batch)
            tally.amax = max(tally.amax, float(amax.max()))
            codes = (sample.reshape(-1).view(np.uint16) & _MAGNITUDE) >> DROPPED_BITS
            tally.codes += np.bincount(codes, minlength=_NUM_CODES)
        self._require_finite(OUTPUT_NAME, next(outputs), batch)

    def _require_finite(self, name: str, values: NDArray[np.float32], batch: Batch) -> None:
        if not np.isfinite(values).all():
            first = batch.items[0].path
            raise InputError(
                f"tensor '{name}' becomes NaN or infinite in the batch that starts with {first}",
                hint="the checkpoint or the preprocessing does not fit the model",
            )


def _observation(name: str, tally: _Tally) -> Observation:
    if tally.codes[NUM_BINS:].any():
        raise InputError(f"tensor '{name}' holds NaN", hint="the checkpoint does not fit the model")
    return Observation(amax=tally.amax, histogram=tally.codes[:NUM_BINS].copy())


def _fix_batch(model: Any, path: Path, options: CalibrateOptions) -> None:
    """Give the one image input its static shape, such as [batch, 3, height, width]."""
    source, how = model.inputs[0], options.preprocess
    shape, image = source.get_partial_shape(), list(how.image_shape)
    element = {"f32": "float32", "u8": "uint8"}.get(source.get_element_type().get_type_name())
    is_fit = element == how.element and shape.compatible(ov.PartialShape([shape[0], *image]))
    if len(model.inputs) != 1 or not is_fit:
        raise InputError(
            f"{path} takes {len(model.inputs)} inputs, the first {element} {shape}; preprocessing "
            f"gives {how.element} [N, {', '.join(map(str, image))}]",
            hint="calibrate with the preprocessing that the graph was exported with",
        )
    model.reshape([options.batch, *image])


def _watched(
    model: Any, names: Sequence[str], signed: frozenset[str], options: CalibrateOptions
) -> tuple[Any, list[tuple[int, int]]]:
    """The model with two more outputs per tensor: channel maxima, then a float16 sample.

    OpenVINO executes what the first output needs, then the second, and so on. So the logits come
    last: a tensor is looked at as soon as it exists, while it is in the cache, and can be freed.

    Returns:
        The model, and per tensor: elements per image, and how many of them are sampled.
    """
    sources = _outputs_by_name(model)
    random = np.random.default_rng(options.seed)
    results, sizes = [], []
    for name in names:
        source = sources[name]
        shape = tuple(source.get_shape())
        sample = _sampled(source, shape, options.max_positions, random)
        results.append(ops.result(_amax(source, shape, is_signed=name in signed)))
        results.append(ops.result(ops.convert(sample, "f16")))
        sizes.append((_num_elements(shape), _num_elements(results[-1].get_output_shape(0))))
    results += [ops.result(logits.get_node().input_value(0)) for logits in model.outputs]
    return ov.Model(results, model.get_parameters()), sizes


def _num_elements(shape: Sequence[int]) -> int:
    """Elements of one image in a tensor [N, ...]."""
    return int(np.prod(shape[1:]))


def _outputs_by_name(model: Any) -> dict[str, Any]:
    outputs = [output for node in model.get_ordered_ops() for output in node.outputs()]
    return {name: output for output in outputs for name in output.get_names()}


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
