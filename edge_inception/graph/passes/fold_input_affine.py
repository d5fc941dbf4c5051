"""Fold arithmetic on the graph's input into the convolution that reads it."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from edge_inception.graph.check import attribute, constants, is_padded, known_shape, only_reader
from edge_inception.graph.passes._affine import (
    Float64,
    has_own_weights,
    own_bias,
    read_chain,
    set_values,
    to_float64,
)
from edge_inception.graph.passes._contract import Pass, replace_node, scoped

_MIN_RANK = 3  # [N, C, one axis of space]


def fold_input_affine(model: onnx.ModelProto) -> bool:
    """Fold a normalisation of the input, gain * x + shift per channel, into the first Conv.

    Before: input -> Mul(a) -> Add(b) -> Conv(w, c) -> y.
    After, without padding: input -> Conv(a w, c + sum of w b) -> y.
    After, with padding: input -> Add(b / a) -> Conv(a w, c) -> y. The Conv pads the normalised
    input with zeros, so the shift must stay before it; where a is 0, the chain stays.

    The chain may hold Mul, Add, Sub and Div by a constant; it is multiplied out in float64 and
    rounded once. It stays where the input or a tensor in it has several readers, and after the
    Cast of a uint8 input: raw pixels have no sign, so an int8 Conv that reads them would never use
    half of its input levels.
    """
    changed = [_fold(model, value) for value in model.graph.input]
    return any(changed)


def _fold(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> bool:
    shape = known_shape(model, value.name)
    if value.name in constants(model) or len(shape) < _MIN_RANK or not shape[1]:
        return False
    chain, affine = read_chain(model, value.name, rank=len(shape), channels=shape[1])
    conv = only_reader(model, chain[-1].output[0]) if chain else None
    if conv is None or not _may_change(model, conv):
        return False
    gain, shift = affine.gain, affine.shift
    kept: list[onnx.NodeProto] = []
    if not is_padded(conv):
        _move_shift(model, conv, shift)
    elif shift.any():
        is_bare_shift = len(chain) == 1 and (gain == 1).all()
        if is_bare_shift or not gain.all():
            return False
        kept = [_add(model, chain[-1], value, shift / gain)]
    weight = constants(model)[conv.input[1]]
    set_values(weight, to_float64(weight) * gain.reshape(-1, *(1,) * (len(shape) - 2)))
    conv.input[0] = kept[0].output[0] if kept else value.name
    replace_node(model, chain[-1], kept)
    for each in chain[:-1]:
        model.graph.node.remove(each)
    return True


def _may_change(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    is_plain = node.op_type == "Conv" and attribute(node, "group", 1) == 1
    return is_plain and has_own_weights(model, node)


def _move_shift(model: onnx.ModelProto, conv: onnx.NodeProto, shift: Float64) -> None:
    """Add to the bias the convolution's output for an input that is ``shift`` [C] everywhere."""
    weight = to_float64(constants(model)[conv.input[1]])
    per_channel = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    bias = own_bias(model, conv, len(weight))
    set_values(bias, to_float64(bias) + per_channel @ shift)


def _add(
    model: onnx.ModelProto, last: onnx.NodeProto, value: onnx.ValueInfoProto, shift: Float64
) -> onnx.NodeProto:
    """A node that adds ``shift`` to the input and writes the tensor that ``last`` wrote."""
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    rank = len(value.type.tensor_type.shape.dim)
    array = shift.astype(dtype).reshape(1, -1, *(1,) * (rank - 2))
    name = f"{last.output[0]}.shift"
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return helper.make_node("Add", [value.name, name], [last.output[0]], scoped(last, "add"))


PASS = Pass(name="fold_input_affine", call=fold_input_affine)
