"""TensorRT's calibration cache -> a range table: the stage ``import_ranges``.

A cache holds a scale, under the ONNX name, for every tensor that TensorRT did not fuse away. A
tensor without a line gets the range of a neighbour, as in NVIDIA's Q/DQ translator. A pool or a
view (an op that only moves values) passes a range on in both directions, a ReLU from its input to
its output, a Concat from its output to its inputs, or the largest range of all inputs to its
output. An output of the graph neither gives a range nor gets one, since logits and the head behind
them say nothing about the layers.

Source: qdq-translator of NVIDIA/Deep-Learning-Accelerator-SW; ``readScalesFromCalibrationCache`` of
trtexec, NVIDIA/TensorRT.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import onnx

from edge_inception import artifact, stage
from edge_inception.artifact import RangeTable, SimplifiedGraph, file_sha256
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.quant import observe, ranges
from edge_inception.quant.implicit import VIEW_OPS
from edge_inception.quant.options import IMPORT_RANGES, CalibrateOptions
from edge_inception.quant.placement import POOL_OPS
from edge_inception.quant.ranges import ChannelMeans, Table, TensorRange
from edge_inception.quant.scales import LEVELS
from edge_inception.sidecar import RangeTableDetails
from edge_inception.spec import Progress, no_progress

_HEADER = re.compile(r"TRT-\d+-(\w+)")
_MAX_NAMES = 3  # largest number of tensors named in a message


def import_cache(
    graph: SimplifiedGraph,
    cache: Path,
    images: ImageSet | None,
    options: CalibrateOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> RangeTable:
    """The range table of ``graph`` with the scales of a calibration cache: amax = 127 * scale.

    The table has no histograms. If images are given, channel means are measured on them with the
    preprocessing, batch and threads of ``options``; without means there is no bias correction.
    ``progress`` counts the images of the means.

    Raises:
        InputError: The file is no cache, or a range that the graph needs is neither in the cache
            nor follows from a range in it.
    """
    algorithm, scales = read_cache(cache)
    watched = observe.find_watched_tensors(graph)
    model = onnx.load(str(graph.path), load_external_data=False)
    computed = {name for node in model.graph.node for name in node.output}
    computed |= {value.name for value in model.graph.input}
    in_cache = {name: LEVELS * scale for name, scale in scales.items() if name in computed}
    not_in_graph = [name for name in scales if name not in computed]
    amax = fill_ranges(model, in_cache)
    missing = [root for root in dict.fromkeys(watched.group_of.values()) if root not in amax]
    if missing:
        others = f"; {len(not_in_graph)} of its names are not in the graph: "
        raise InputError(
            f"{cache} has no scale for {len(missing)} tensors, nor one that it follows from: "
            f"{_first_names(missing)}{others + _first_names(not_in_graph) if not_in_graph else ''}",
            hint="import it into the graph that TensorRT calibrated, or calibrate with images",
        )
    tensors = {
        name: TensorRange(amax=amax[root], observed_amax=amax[root], scale_of=root)
        for name, root in watched.group_of.items()
    }
    digest = file_sha256(cache)
    means: Mapping[str, ChannelMeans] = {}
    parents = {"graph": graph.sha256, "cache": digest}
    if images:
        means = observe.measure_means(watched, tensors, images, options, progress=progress)
        parents["images"] = images.sha256
    table = Table(
        schema=ranges.SCHEMA,
        graph=graph.sha256,
        set=cache.name,
        set_sha256=images.sha256 if images else digest,
        num_images=0,
        calibrator=algorithm,
        preprocess=options.preprocess,
        tensors=tensors,
    )
    return artifact.publish(
        RangeTable,
        out,
        ranges.table_text(table).encode(),
        provenance=stage.provenance(IMPORT_RANGES, parents=parents, options=options),
        counts={
            "num_tensors": len(tensors),
            "num_from_cache": sum(root in in_cache for root in watched.group_of.values()),
            "num_not_in_graph": len(not_in_graph),
        },
        details=RangeTableDetails(
            not_in_graph=tuple(not_in_graph),
            beside=ranges.write_statistics(out, {}, means, ranges.FittedParameters()),
        ),
    )


def read_cache(path: Path) -> tuple[str, dict[str, float]]:
    """The calibrator's name and the scale of every tensor, from a calibration cache.

    Raises:
        InputError: The file is not readable, its header or a line is malformed, a scale is not
            positive, or a tensor occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read calibration cache {path}", hint="check the path") from error
    header = _HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        raise InputError(
            f"{path} is no calibration cache: its first line is '{lines[0] if lines else ''}'",
            hint="wanted one such as TRT-8502-EntropyCalibration2",
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        name, _, bits = line.rpartition(": ")
        scale = _scale(bits)
        if not name or name in scales or not (math.isfinite(scale) and scale > 0):
            raise InputError(
                f"{path}, line {number}: '{line}'",
                hint="wanted a tensor's name once, and the bits of a positive float32 in hex",
            )
        scales[name] = scale
    return header[1], scales


def _scale(bits: str) -> float:
    """A float32 from its bits in hex; TensorRT omits leading zeros. NaN if they are malformed."""
    try:
        return float(struct.unpack(">f", bytes.fromhex(bits.strip().zfill(8)))[0])
    except (ValueError, struct.error):
        return math.nan


def fill_ranges(model: onnx.ModelProto, given: Mapping[str, float]) -> dict[str, float]:
    """Tensor -> amax, given or that of a neighbour, in turn; outputs of the graph are left out."""
    outputs = {value.name for value in model.graph.output}
    amax = {name: value for name, value in given.items() if name not in outputs}
    before = -1
    while len(amax) != before:
        before = len(amax)
        for node in model.graph.node:
            if node.output[0] not in outputs:
                _fill_from_neighbours(node, amax)
    return amax


def _fill_from_neighbours(node: onnx.NodeProto, amax: dict[str, float]) -> None:
    """Give the inputs of a node the amax of its output and the reverse, where one is missing."""
    result = node.output[0]
    if node.op_type in POOL_OPS | VIEW_OPS | {"Relu"}:
        _copy_amax(amax, node.input[0], result)
    if node.op_type in POOL_OPS | VIEW_OPS:
        _copy_amax(amax, result, node.input[0])
    if node.op_type == "Concat":
        if all(name in amax for name in node.input):
            amax.setdefault(result, max(amax[name] for name in node.input))
        for name in node.input:
            _copy_amax(amax, result, name)


def _copy_amax(amax: dict[str, float], source: str, target: str) -> None:
    if source in amax:
        amax.setdefault(target, amax[source])


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
