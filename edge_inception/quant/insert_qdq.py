"""Simplified graph + range table -> typed graph: the stage ``quantize``.

A typed graph is an ONNX graph whose Q/DQ pairs and tensor types state the precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_inception import artifact
from edge_inception._version import __version__
from edge_inception.artifact import RangeTable, SimplifiedGraph, TypedGraph
from edge_inception.errors import InputError
from edge_inception.graph import check, dla, opsets
from edge_inception.graph.dla_rules import XAVIER
from edge_inception.graph.statistics import fill_batch
from edge_inception.graph.support_checks import opset_of
from edge_inception.quant import bias, implicit, scales, zero_points
from edge_inception.quant.float16 import to_float16
from edge_inception.quant.options import (
    FloatRest,
    QuantizeOptions,
    Rounding,
    Typing,
    policy_of,
    quantize_provenance,
    resolve,
)
from edge_inception.quant.pixels import pixel_input
from edge_inception.quant.placement import WEIGHTED_OPS, Placement, Weight, place_pairs
from edge_inception.quant.ranges import (
    ChannelMeans,
    FittedParameters,
    TensorRange,
    group_ranges,
    read_fitted,
    read_means,
    table_for,
    tensor_scales,
)
from edge_inception.quant.scales import QuantizedWeight
from edge_inception.quant.zero_points import Shift
from edge_inception.sidecar import SimplifiedDetails, TypedDetails
from edge_inception.spec import Precision, Preprocess, ShapeProfile

# Opset and the IR version that came with it. Q/DQ of float16 is legal from opset 19 on. Opset 13 is
# the first with per-channel Q/DQ, and TensorRT 8.2 reads it.
_VERSIONS: Mapping[Typing, tuple[int, int]] = {
    Typing.STRONG: (19, 9),
    Typing.WEAK: (13, 7),
    Typing.IMPLICIT: (13, 7),
    Typing.CPU: (19, 9),
}
_ZERO = "int8.zero"
_UNSIGNED_ZERO, _MIDDLE = "uint8.zero", "uint8.middle"
_ZERO_POINTS = {_ZERO: np.int8(0), _UNSIGNED_ZERO: np.uint8(0), _MIDDLE: np.uint8(128)}
_LARGEST_HALF = float(np.finfo(np.float16).max)


def quantize(
    graph: SimplifiedGraph, ranges: RangeTable | None, options: QuantizeOptions, out: Path
) -> TypedGraph:
    """The typed graph of one precision in one typing; int8 needs the range table of this graph.

    ``fp32`` is the simplified graph, byte for byte if strong and otherwise with another opset.
    ``fp16`` computes in float16 between a float32 input and output. ``int8`` has the Q/DQ pairs
    that ``place_pairs`` chooses; its other layers, the float rest, are float16 or float32. A weak
    graph keeps float32 tensors, and ``typing: weak`` in its sidecar (the .json file beside it) lets
    the builder choose float16. An implicit graph has no Q/DQ; ``write_cache`` makes its calibration
    cache from the same ranges.

    Raises:
        InputError: The range table is missing, of another graph or without a needed tensor; there
            is no Conv to quantize; weights are NaN or infinite; an op cannot be typed; values are
            beyond float16; a dimension is free that must be fixed; or the options contradict each
            other.
    """
    options = resolve(options, ranges)
    policy_of(options)  # refuses wrong options before any work
    model = check.load_graph(graph.path)
    is_plain = options.precision is Precision.FP32 and options.typing is Typing.STRONG
    is_untouched = is_plain and not options.batch and not options.is_for_dla
    is_implicit = options.typing is Typing.IMPLICIT
    is_for_dla = is_implicit or options.is_for_dla
    check.require_finite(model)
    if options.batch:
        fill_batch(model, options.batch)
    if not is_untouched:
        model = dla.rewrite(model) if is_for_dla else model
        _stamp(model, options.typing)
    counts: dict[str, int] = {"num_nodes": len(model.graph.node)}
    if is_for_dla:
        counts |= _count_dla_layers(model)
    if options.precision is Precision.INT8:
        observed = table_for(graph, ranges).tensors
        if is_implicit:
            counts |= implicit.implicit_scales(model, observed).counts
        else:
            assert ranges is not None  # table_for has checked it
            means, fitted = _read_corrections(ranges, options)
            calibrated = Calibrated(
                ranges=observed,
                fitted=fitted,
                means=means,
                preprocess=graph.details.preprocess,
            )
            counts |= _insert_pairs(model, calibrated, options)
    if _is_half(options):
        to_float16(model)
    content = graph.path.read_bytes() if is_untouched else _serialize(model)
    return artifact.publish(
        TypedGraph,
        out,
        content,
        provenance=quantize_provenance(graph, ranges, options),
        counts=counts,
        details=_details(graph.details, model, options),
    )


def _count_dla_layers(model: onnx.ModelProto) -> dict[str, int]:
    """Numbers of layers on the DLA of a Xavier, of its subgraphs, and of layers left to the GPU.

    The DLA of Xavier is older than that of Orin and takes fewer layers.
    """
    plan = dla.plan(model, XAVIER)
    return {
        "dla_layers": len(plan.verdicts) - len(plan.gpu_layers),
        "dla_subgraphs": len(plan.subgraphs),
        "gpu_layers": len(plan.gpu_layers),
    }


def _is_half(options: QuantizeOptions) -> bool:
    """Whether some layers are typed float16; in other typings the builder decides on it."""
    is_rest = options.precision is Precision.INT8 and options.float_rest is FloatRest.FP16
    is_fp16 = is_rest or options.precision is Precision.FP16
    return options.typing is Typing.STRONG and is_fp16


def _stamp(model: onnx.ModelProto, typing: Typing) -> None:
    opset, ir_version = _VERSIONS[typing]
    try:
        opsets.convert(model, opset)
    except InputError as error:
        if typing is Typing.STRONG:
            raise
        raise InputError(
            f"{error}; {typing.value} typing, for TensorRT before 10 and DLA, is written in it",
            hint=f"{error.hint}; or build for a target with TensorRT 10",
        ) from error
    model.ir_version = ir_version
    model.producer_name, model.producer_version = "edge-inception", __version__
    del model.graph.value_info[:]


def _serialize(model: onnx.ModelProto) -> bytes:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(
            f"the typed graph is not valid ONNX: {' '.join(str(error).split())}",
            hint="use --precision fp32, and report it with the graph; nothing was written",
        ) from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _details(
    simplified: SimplifiedDetails, model: onnx.ModelProto, options: QuantizeOptions
) -> TypedDetails:
    """The details for the sidecar of a typed graph; a fixed batch replaces the free profile."""
    source, result = model.graph.input[0], model.graph.output[0]
    rest = options.float_rest if options.precision is Precision.INT8 else options.precision
    is_paired = options.precision is Precision.INT8 and options.typing is not Typing.IMPLICIT
    batch = options.batch
    return TypedDetails.of(
        simplified,
        profile=ShapeProfile(min=batch, opt=batch, max=batch) if batch else simplified.profile,
        float_layers=tuple(_float_layers(model)) if is_paired else (),
        precision=options.precision,
        typing=options.typing.value,
        float_rest=rest.value,
        opset=opset_of(model),
        input=source.name,
        output=result.name,
        input_shape=tuple(check.shape_of(source)),
        output_shape=tuple(check.shape_of(result)),
    )


def _float_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the Conv and Gemm nodes with float weights, in a graph with Q/DQ pairs."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type in WEIGHTED_OPS and makers.get(node.input[1]) != "DequantizeLinear"
    ]


def _read_corrections(
    ranges: RangeTable, options: QuantizeOptions
) -> tuple[Mapping[str, ChannelMeans], FittedParameters]:
    """Channel means for local bias correction, and the fitted parameters that the options want.

    Biases stay as they are for DLA, where tensors share scales. The corrections of the trial hold
    for the graph that it chose; for another graph they are local, if the user asks for them or
    there was no trial.

    Raises:
        InputError: Corrections are asked for, or weights rounded by second order, and the table has
            neither.
    """
    fitted, chosen = read_fitted(ranges), ranges.details.chosen
    weights = fitted.weights if options.rounding is Rounding.SECOND_ORDER else {}
    if options.rounding is Rounding.SECOND_ORDER and not weights:
        raise InputError(
            f"range table {ranges.path} has no weights rounded by second order",
            hint="calibrate with 8 images or more and without --effort quick",
        )
    is_chosen = chosen is not None and (
        options.typing.value,
        options.placement,
        options.fold_zero_points,
    ) == (chosen.typing, chosen.placement, chosen.fold_zero_points)
    wanted = options.bias_correction
    if options.is_for_dla or wanted is False:
        return {}, FittedParameters(weights=weights)
    if is_chosen and fitted.corrections:
        return {}, FittedParameters(weights=weights, corrections=fitted.corrections)
    # Training (QAT) has fitted the biases already, and a trial has found whether corrections help.
    is_default = chosen is None and ranges.provenance.stage != "qat"
    means = read_means(ranges) if wanted or is_default else {}
    if not means and (wanted or is_default):
        raise InputError(
            f"range table {ranges.path} has no channel means, which bias correction needs",
            hint="calibrate with images, or quantize with --no-bias-correction",
        )
    return means, FittedParameters(weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What a graph is quantized by: ranges of tensors, and what calibration fitted.

    With ``means``, biases are corrected locally. ``preprocess`` made the images.
    """

    ranges: Mapping[str, TensorRange]
    fitted: FittedParameters
    preprocess: Preprocess
    means: Mapping[str, ChannelMeans] = field(default_factory=dict)


def int8_graph(
    path: Path, calibrated: Calibrated, options: QuantizeOptions, *, keeps_layers: bool = False
) -> onnx.ModelProto:
    """The int8 graph, with float32 rest, of the simplified graph at ``path``, to try choices.

    With ``keeps_layers`` every layer computes the tensor that it computes in the simplified graph:
    no producer takes over the shift of a folded zero point.

    Raises:
        InputError: A tensor has no range, there is no Conv to quantize, no placement has this name,
            or a scale is beyond float16.
    """
    options = dataclasses.replace(options, float_rest=FloatRest.FP32)
    model = check.load_graph(path)
    _stamp(model, options.typing)
    _insert_pairs(model, calibrated, options, keeps_layers=keeps_layers)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Levels:
    """Scale of every group, offsets to subtract from the tensors of some, and unsigned groups."""

    scale_of: Mapping[str, np.float32]
    offsets: Mapping[str, NDArray[np.float64]]
    unsigned: frozenset[str] = frozenset()

    def zero_point(self, root: str, typing: Typing) -> str:
        """The name of the zero point of a group."""
        if typing is not Typing.CPU:
            return _ZERO
        return _UNSIGNED_ZERO if root in self.unsigned else _MIDDLE


def _levels(
    model: onnx.ModelProto, placement: Placement, calibrated: Calibrated, options: QuantizeOptions
) -> _Levels:
    """The levels of all activations: all 255 for tensors that cannot be negative, if possible."""
    unsigned, folded = frozenset[str](), frozenset[str]()
    if options.typing is Typing.CPU:
        unsigned = zero_points.unsigned(model, placement)
    elif options.fold_zero_points:
        folded = zero_points.foldable(model, placement)
    ranges = group_ranges(placement.group_of, calibrated.ranges)
    scale_of = _group_scales(zero_points.fold_ranges(ranges, unsigned | folded), options)
    steps = zero_points.ZERO_POINT
    offsets = {root: np.array([steps * float(scale_of[root])]) for root in folded}
    uses_offsets = options.typing is Typing.CPU or options.fold_zero_points
    pixels = pixel_input(model, placement, calibrated.preprocess) if uses_offsets else None
    if pixels:
        scale_of[pixels.root] = np.float32(pixels.scale)
        offsets[pixels.root] = pixels.offset
    return _Levels(scale_of=scale_of, offsets=offsets, unsigned=unsigned)


def _insert_pairs(
    model: onnx.ModelProto,
    calibrated: Calibrated,
    options: QuantizeOptions,
    *,
    keeps_layers: bool = False,
) -> dict[str, int]:
    """Put Q/DQ pairs into ``model`` and return the counts for its sidecar.

    Before: x -> Conv(w) -> y. After: x -> Q -> DQ -> Conv(w.int8 -> DQ) -> y.
    """
    if options.is_for_dla:
        placement, observed = implicit.dla_placement(model, calibrated.ranges)
        calibrated = dataclasses.replace(calibrated, ranges=observed)
    else:
        placement = place_pairs(model, policy_of(options), options.keep)
    counts = _counts(model, placement)
    levels = _levels(model, placement, calibrated, options)
    graph = model.graph
    weights = _quantize_weights(graph, placement, calibrated.fitted)
    num_corrected = _correct_biases(model, placement, calibrated, levels.scale_of, weights)
    changes = {"groups_folded": len(levels.offsets), "biases_corrected": num_corrected}
    counts |= {name: number for name, number in changes.items() if number}
    shifts = zero_points.fold(model, placement, levels.offsets, weights, moves=not keeps_layers)
    pairs = {
        name: _activation_pair(
            name, root, levels.zero_point(root, options.typing), shifts.get(name)
        )
        for name, root in placement.group_of.items()
    }
    for name, readers in placement.readers.items():
        for index in readers:
            _read_pair_instead(graph.node[index], name)
    for index, weight in placement.weights.items():
        _read_pair_instead(graph.node[index], weight.name)
    added = _add_weights(graph, weights, options.typing)
    _add_nodes(graph, added, pairs, {index for one in shifts.values() for index in one.dropped})
    _add_constants(graph, levels.scale_of)
    return counts


def _add_nodes(
    graph: onnx.GraphProto,
    first: Sequence[onnx.NodeProto],
    pairs: Mapping[str, Sequence[onnx.NodeProto]],
    dropped: Collection[int],
) -> None:
    """Put ``first`` before all nodes, each pair behind its tensor, and leave out ``dropped``."""
    nodes = [*first, *(pair for value in graph.input for pair in pairs.get(value.name, ()))]
    for index, node in enumerate(graph.node):
        if index not in dropped:
            nodes.append(node)
            nodes += [pair for name in node.output for pair in pairs.get(name, ())]
    check.replace_items(graph.node, nodes)


def _add_constants(graph: onnx.GraphProto, scale_of: Mapping[str, np.float32]) -> None:
    """Add zero points and scales, and remove every constant that no node reads."""
    constants = {**_ZERO_POINTS, **{f"{root}.scale": scale for root, scale in scale_of.items()}}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    read = {name for node in graph.node for name in node.input}
    check.replace_items(graph.initializer, (t for t in graph.initializer if t.name in read))


def _correct_biases(
    model: onnx.ModelProto,
    placement: Placement,
    calibrated: Calibrated,
    scale_of: Mapping[str, np.float32],
    weights: Mapping[Weight, QuantizedWeight],
) -> int:
    """Correct biases by channel means, or by what was fitted; the number of corrected layers."""
    if calibrated.means:
        used = {root: float(scale) for root, scale in scale_of.items()}
        return bias.correct_biases(model, placement, calibrated.means, used, weights)
    corrections = calibrated.fitted.corrections
    layers = [node for node in model.graph.node if node.output[0] in corrections]
    for node in layers:
        bias.add_to_bias(model, node, corrections[node.output[0]])
    return len(layers)


def _activation_pair(name: str, root: str, zero: str, shift: Shift | None) -> list[onnx.NodeProto]:
    """The nodes behind ``name``: its shift, if it has a folded zero point, and its pair."""
    source = shift.source if shift else name
    return [*(shift.nodes if shift else ()), *_pair(name, f"{root}.scale", zero, source=source)]


def _counts(model: onnx.ModelProto, placement: Placement) -> dict[str, int]:
    ops = [node.op_type for node in model.graph.node]
    quantized = [ops[index] for index in placement.weights]
    counts = {
        "conv_quantized": quantized.count("Conv"),
        "conv_total": ops.count("Conv"),
        "gemm_quantized": quantized.count("Gemm"),
        "gemm_total": ops.count("Gemm"),
        "num_qdq_pairs": len(placement.group_of),
    }
    if placement.kept:
        counts["groups_float"] = len(placement.kept)
    num_adds = _num_adds(model)
    if num_adds:
        counts |= {"adds_quantized": len(placement.identities), "adds_total": num_adds}
    if placement.kept and not placement.weights:
        raise InputError(
            f"{len(placement.kept)} groups are kept in float and no layer is left for int8",
            hint="keep fewer, or use --precision fp16",
        )
    if not placement.kept and not counts["conv_quantized"]:
        raise InputError(
            f"no Conv to quantize: 0 of {counts['conv_total']} Conv have constant weights",
            hint="int8 needs convolutions; use --precision fp16 or fp32",
        )
    return counts


def _num_adds(model: onnx.ModelProto) -> int:
    """Number of Adds of two computed tensors; an Add of a constant is not a residual."""
    constants = check.constants(model)
    adds = (node for node in model.graph.node if node.op_type == "Add")
    return sum(not any(name in constants for name in node.input) for node in adds)


def _group_scales(
    ranges: Mapping[str, TensorRange], options: QuantizeOptions
) -> dict[str, np.float32]:
    """Scale of every group; observed values must fit float16 if other layers are float16."""
    scale_of = tensor_scales({root: one.amax for root, one in ranges.items()})
    name, reach = max(
        ((root, one.observed_amax) for root, one in ranges.items()),
        key=lambda pair: pair[1],
        default=("", 0.0),
    )
    if _is_half(options) and reach > _LARGEST_HALF:
        raise InputError(
            f"tensor '{name}' reaches {reach:g}, beyond float16's {_LARGEST_HALF:g}",
            hint="keep the float part in float32: --float-rest fp32",
        )
    return scale_of


def _read_pair_instead(node: onnx.NodeProto, name: str) -> None:
    node.input[:] = [f"{name}.dq" if source == name else source for source in node.input]


def _pair(
    name: str, scale: str, zero: str, axis: int | None = None, *, source: str = ""
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    quantize = helper.make_node(
        "QuantizeLinear", [source or name, scale, zero], [f"{name}.q"], name=f"{name}.q", axis=axis
    )
    return quantize, _dequantize(name, f"{name}.q", scale, zero, axis)


def _dequantize(
    name: str, source: str, scale: str, zero: str, axis: int | None = None
) -> onnx.NodeProto:
    return helper.make_node(
        "DequantizeLinear", [source, scale, zero], [f"{name}.dq"], name=f"{name}.dq", axis=axis
    )


def _quantize_weights(
    graph: onnx.GraphProto, placement: Placement, fitted: FittedParameters
) -> dict[Weight, QuantizedWeight]:
    """All int8 weights: the fitted values where there are any, others rounded to nearest."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = {}
    for weight in dict.fromkeys(placement.weights.values()):
        values = numpy_helper.to_array(stored[weight.name])
        steps, scale = scales.quantize_weight(values, axis=weight.axis)
        steps = fitted.weights.get(weight.name, steps)
        weights[weight] = QuantizedWeight(steps=steps, scale=scale, axis=weight.axis)
    return weights


def _add_weights(
    graph: onnx.GraphProto, weights: Mapping[Weight, QuantizedWeight], typing: Typing
) -> list[onnx.NodeProto]:
    """Add the quantized initializers of all weights, and return the nodes that read them.

    A strong graph stores int8. A weak graph stores floats that are already multiples of the scale,
    so that every parser finds the same integers, whichever way it rounds.
    """
    nodes: list[onnx.NodeProto] = []
    for weight, quantized in weights.items():
        name, axis, scale = weight.name, weight.axis, quantized.scale
        names = f"{name}.scale", f"{name}.zero"
        if typing in {Typing.STRONG, Typing.CPU}:
            graph.initializer.append(numpy_helper.from_array(quantized.steps, f"{name}.int8"))
            nodes.append(_dequantize(name, f"{name}.int8", *names, axis))
        else:
            graph.initializer.append(numpy_helper.from_array(quantized.values, f"{name}.grid"))
            nodes += _pair(name, *names, axis, source=f"{name}.grid")
        graph.initializer.append(numpy_helper.from_array(scale, names[0]))
        graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), names[1]))
    return nodes
