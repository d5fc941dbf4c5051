"""Reading, folding and writing of affine nodes, which compute gain * x + shift per channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_inception.graph.check import attribute, channel_axis, constants, only_reader, readers
from edge_inception.graph.passes._contract import replace_node, scoped

Float64 = NDArray[np.float64]

_X_AND_WEIGHT = 2  # number of inputs of a Conv or Gemm before the bias


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """The map gain * source + shift: two finite float64 [C], and the name of a tensor."""

    source: str
    gain: Float64
    shift: Float64


def read_chain(
    model: onnx.ModelProto, name: str, *, rank: int, channels: int
) -> tuple[list[onnx.NodeProto], Affine]:
    """The chain of affine nodes that follows tensor ``name``, and the affine map of the chain.

    The chain ends at a tensor that has several readers or is an output of the graph. The channels
    of the tensor, of ``rank`` axes, are axis 1.
    """
    known = constants(model)
    chain: list[onnx.NodeProto] = []
    gain, shift = np.ones(channels), np.zeros(channels)
    result = name
    while (reader := only_reader(model, result)) is not None:
        affine = read_affine(reader, known, rank=rank, channels=channels)
        if affine is None or affine.source != result:
            break
        gain, shift = affine.gain * gain, affine.gain * shift + affine.shift
        chain.append(reader)
        result = reader.output[0]
    return chain, Affine(source=name, gain=gain, shift=shift)


def read_affine(
    node: onnx.NodeProto, known: Mapping[str, TensorProto], *, rank: int, channels: int
) -> Affine | None:
    """The affine map that ``node`` applies to its one input that is not a constant.

    That input has ``rank`` axes, and its ``channels`` are axis 1. The result is None where the node
    is not arithmetic with one finite constant per channel, or would broadcast the input to another
    shape.
    """
    if node.op_type == "BatchNormalization":
        affine = _read_norm(node, known)
    else:
        affine = _read_arithmetic(node, known, rank, channels)
    if affine is None:
        return None
    is_finite = np.isfinite(affine.gain).all() and np.isfinite(affine.shift).all()
    return affine if is_finite and affine.gain.shape == (channels,) else None


def _read_norm(node: onnx.NodeProto, known: Mapping[str, TensorProto]) -> Affine | None:
    is_trained = attribute(node, "training_mode", 0) or len(node.output) > 1
    if is_trained or not all(name in known for name in node.input[1:]):
        return None
    gamma, beta, mean, variance = (to_float64(known[name]) for name in node.input[1:5])
    epsilon = attribute(node, "epsilon", 1e-5)
    assert isinstance(epsilon, float)
    gain = gamma / np.sqrt(variance + epsilon)
    return Affine(source=node.input[0], gain=gain, shift=beta - mean * gain)


_Rule = Callable[[Float64], tuple[Float64, Float64]]
_ONE = np.float64(1)
# (op, position of the constant c among the inputs) -> function from c to gain and shift
_RULES: Mapping[tuple[str, int], _Rule] = {
    ("Mul", 0): lambda c: (c, 0 * c),
    ("Mul", 1): lambda c: (c, 0 * c),
    ("Div", 1): lambda c: (_ONE / c, 0 * c),
    ("Add", 0): lambda c: (np.ones_like(c), c),
    ("Add", 1): lambda c: (np.ones_like(c), c),
    ("Sub", 0): lambda c: (-np.ones_like(c), c),
    ("Sub", 1): lambda c: (np.ones_like(c), -c),
}


def _read_arithmetic(
    node: onnx.NodeProto, known: Mapping[str, TensorProto], rank: int, channels: int
) -> Affine | None:
    places = [index for index, name in enumerate(node.input) if name in known]
    rule = _RULES.get((node.op_type, places[0])) if len(places) == 1 else None
    if rule is None:
        return None
    constant = _by_channel(to_float64(known[node.input[places[0]]]), rank, channels)
    if constant is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # read_affine refuses the infinite gain
        gain, shift = rule(constant)
    return Affine(source=node.input[1 - places[0]], gain=gain, shift=shift)


def _by_channel(values: Float64, rank: int, channels: int) -> Float64 | None:
    """A constant as [C] if it broadcasts to [N, C, ...] and varies along C only, else None."""
    if values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if values.size != shape[1] or shape[1] not in {1, channels}:
        return None
    return np.broadcast_to(values.reshape(-1), (channels,))


def to_float64(tensor: TensorProto) -> Float64:
    """Values of a constant as float64."""
    return np.asarray(numpy_helper.to_array(tensor), dtype=np.float64)


def set_values(tensor: TensorProto, values: Float64) -> None:
    """Replace the values of a tensor, rounded to its element type; its name and type stay."""
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))


def has_own_weights(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether a Conv or Gemm alone reads its weight and bias, both constant, and may be changed."""
    if node.op_type not in {"Conv", "Gemm"} or attribute(node, "beta", 1.0) != 1.0:
        return False
    known = constants(model)
    outputs = {value.name for value in model.graph.output}
    weights = [name for name in node.input[1:] if name]
    is_own = all(
        name in known and name not in outputs and len(readers(model, name)) == 1 for name in weights
    )
    if not is_own or len({node.input[0], *weights}) != len(weights) + 1:
        return False
    # Gemm's bias may also be [N, C], a row per image, or broadcast the result to another shape.
    _, channels = output_channels(node, known)
    return all(
        known[name].dims[-1:] in ([], [1], [channels]) and _is_row(known[name])
        for name in weights[1:]
    )


def _is_row(tensor: TensorProto) -> bool:
    return all(size == 1 for size in tensor.dims[:-1])


def output_channels(node: onnx.NodeProto, known: Mapping[str, TensorProto]) -> tuple[int, int]:
    """Rank of the output of a Conv or Gemm, and the output's number of channels."""
    weight = known[node.input[1]]
    return len(weight.dims), weight.dims[channel_axis(node)]


def apply_to_output(model: onnx.ModelProto, node: onnx.NodeProto, affine: Affine) -> None:
    """Fold ``gain * output + shift`` into the weight and bias of a Conv or Gemm."""
    weight = constants(model)[node.input[1]]
    axis = channel_axis(node)
    shape = [-1 if each == axis else 1 for each in range(len(weight.dims))]
    bias = own_bias(model, node, len(affine.gain))
    set_values(weight, to_float64(weight) * affine.gain.reshape(shape))
    set_values(bias, to_float64(bias) * affine.gain + affine.shift)


def own_bias(model: onnx.ModelProto, node: onnx.NodeProto, channels: int) -> TensorProto:
    """The bias [channels] of a Conv or Gemm; where it has none, a bias of zeros is added."""
    known = constants(model)
    name = node.input[_X_AND_WEIGHT] if len(node.input) > _X_AND_WEIGHT else ""
    if not name:
        name = f"{node.output[0]}.bias"
        dtype = helper.tensor_dtype_to_np_dtype(known[node.input[1]].data_type)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(channels, dtype), name))
        del node.input[_X_AND_WEIGHT:]
        node.input.append(name)
    bias = constants(model)[name]
    values = to_float64(bias)
    if values.shape != (channels,):  # Gemm's C may be a scalar or a row
        set_values(bias, np.broadcast_to(values.reshape(-1), (channels,)))
    return bias


def write_affine(
    model: onnx.ModelProto, node: onnx.NodeProto, affine: Affine, *, rank: int, element: int
) -> None:
    """Replace ``node`` by Mul(gain) and Add(shift): [1, C, 1, ...] of ONNX type ``element``."""
    result = node.output[0]
    dtype = helper.tensor_dtype_to_np_dtype(element)
    for name, values in (("gain", affine.gain), ("shift", affine.shift)):
        array = np.asarray(values, dtype).reshape(1, -1, *(1,) * (rank - 2))
        model.graph.initializer.append(numpy_helper.from_array(array, f"{result}.{name}"))
    gain, scaled, shift = f"{result}.gain", f"{result}.scaled", f"{result}.shift"
    steps = (
        helper.make_node("Mul", [affine.source, gain], [scaled], scoped(node, "mul")),
        helper.make_node("Add", [scaled, shift], [result], scoped(node, "add")),
    )
    replace_node(model, node, steps)
