"""TensorRT's calibration cache -> a range table: the stage ``import_ranges``.

A cache holds a scale for every tensor that TensorRT kept apart, under its ONNX name. What it has no
line for is filled from what has the same range, as NVIDIA's Q/DQ translator does: over pools and
views from either side, over a ReLU forwards, over Concat from the output to the inputs, or from the
largest of all inputs to the output. Never onto or from an output of the graph: logits and what
lies behind them say nothing of the layers.

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
from edge_inception.quant.ranges import Table, TensorRange
from edge_inception.quant.scales import LEVELS
from edge_inception.sidecar import RangeTableDetails
from edge_inception.spec import Progress, no_progress

_HEADER = re.compile(r"TRT-\d+-(\w+)")
_NAMED = 3  # tensors named in a message


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

    It has no histograms. With images it gets the channel means for bias correction; without them
    it is quantized without.

    Args:
        graph: From simplify; its tensors have the names of the graph that TensorRT read.
        cache: The text file.
        images: To measure channel means on, or None.
        options: Preprocessing, batch and threads for that.
        out: Path of the .json table.
        progress: Called with images done and images in all.

    Raises:
        InputError: No cache, no tensor of this graph in it, or one that the graph needs is neither
            in it nor follows from one that is.
    """
    algorithm, scales = read_cache(cache)
    subject = observe.subject_of(graph)
    model = onnx.load(str(graph.path), load_external_data=False)
    made = {name for node in model.graph.node for name in node.output}
    made |= {value.name for value in model.graph.input}
    given = {name: LEVELS * scale for name, scale in scales.items() if name in made}
    foreign = [name for name in scales if name not in made]
    amax = filled(model, given)
    _require_all(cache, [root for root in subject.scale_of.values() if root not in amax], foreign)
    tensors = {
        name: TensorRange(amax=amax[root], observed_amax=amax[root], scale_of=root)
        for name, root in subject.scale_of.items()
    }
    digest = file_sha256(cache)
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
    means = (
        observe.measured_means(subject, tensors, images, options, progress=progress)
        if images
        else {}
    )
    beside = artifact.write_beside(
        out, ranges.BESIDE, lambda path: ranges.write_statistics(path, {}, means)
    )
    parents = {"graph": graph.sha256, "cache": digest}
    return artifact.publish(
        RangeTable,
        out,
        ranges.table_text(table).encode(),
        provenance=stage.provenance(
            IMPORT_RANGES,
            parents={**parents, **({"images": images.sha256} if images else {})},
            options=options,
        ),
        counts={
            "num_tensors": len(tensors),
            "num_from_cache": sum(root in given for root in subject.scale_of.values()),
            "num_not_in_graph": len(foreign),
        },
        details=RangeTableDetails(not_in_graph=tuple(foreign), beside=beside),
    )


def read_cache(path: Path) -> tuple[str, dict[str, float]]:
    """Name of the calibrator, and tensor -> scale, of TensorRT's text.

    Raises:
        InputError: Not readable, no such header, a line that is none, a scale that is not positive,
            or a tensor given twice.
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
    found: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        name, _, bits = line.rpartition(": ")
        scale = _scale(bits)
        if not name or name in found or not (math.isfinite(scale) and scale > 0):
            raise InputError(
                f"{path}, line {number}: '{line}'",
                hint="wanted a tensor's name once, and the bits of a positive float32 in hex",
            )
        found[name] = scale
    return header[1], found


def _scale(bits: str) -> float:
    """A float32 from its hex bits; TensorRT leaves leading zeros out. NaN when it is none."""
    try:
        return float(struct.unpack(">f", bytes.fromhex(bits.strip().zfill(8)))[0])
    except (ValueError, struct.error):
        return math.nan


def filled(model: onnx.ModelProto, given: Mapping[str, float]) -> dict[str, float]:
    """``given``, and the amax of every tensor that follows from it; what is given stays."""
    outputs = {value.name for value in model.graph.output}
    amax = {name: value for name, value in given.items() if name not in outputs}
    before = -1
    while len(amax) != before:
        before = len(amax)
        for node in model.graph.node:
            if node.output[0] not in outputs:
                _follow(node, amax)
    return amax


def _follow(node: onnx.NodeProto, amax: dict[str, float]) -> None:
    """Fill what lies on one side of a node from the other."""
    result = node.output[0]
    if node.op_type in POOL_OPS | VIEW_OPS | {"Relu"}:
        _share(amax, node.input[0], result)
    if node.op_type in POOL_OPS | VIEW_OPS:
        _share(amax, result, node.input[0])
    if node.op_type == "Concat":
        if all(name in amax for name in node.input):
            amax.setdefault(result, max(amax[name] for name in node.input))
        for name in node.input:
            _share(amax, result, name)


def _share(amax: dict[str, float], source: str, target: str) -> None:
    if source in amax:
        amax.setdefault(target, amax[source])


def _require_all(cache: Path, missing: list[str], foreign: list[str]) -> None:
    if missing:
        names = list(dict.fromkeys(missing))
        strangers = f"; {len(foreign)} of its names are not in the graph: {_some(foreign)}"
        raise InputError(
            f"{cache} has no scale for {len(names)} tensors, nor what it follows from: "
            f"{_some(names)}{strangers if foreign else ''}",
            hint="import it into the graph that TensorRT calibrated, or calibrate with images",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
