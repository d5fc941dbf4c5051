"""Fold batch norm into the convolution before it."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edge_inception.graph.check import attribute, constants, readers
from edge_inception.graph.passes._contract import Pass, topological_order


def fold_batch_norm(model: onnx.ModelProto) -> bool:
    """Before: x -> Conv(w, b) -> BatchNormalization -> y. After: x -> Conv(w', b') -> y.

    w' = w * g, b' = (b - mean) * g + beta with g = gamma / sqrt(var + epsilon), in float64 and
    rounded once. Stays where the Conv has other readers or a weight that is not a constant.
    """
    is_modified = False
    for node in list(model.graph.node):
        if node.op_type != "BatchNormalization":
            continue
        conv = _conv_before(model, node)
        if conv is not None:
            _fold(model, conv, node)
            model.graph.node.remove(node)
            is_modified = True
    return is_modified


def _conv_before(model: onnx.ModelProto, norm: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Conv that only ``norm`` reads, when all their weights are constants of their own."""
    known = constants(model)
    outputs = {value.name for value in model.graph.output}
    conv = next((node for node in model.graph.node if norm.input[0] in node.output), None)
    if conv is None or conv.op_type != "Conv" or attribute(norm, "training_mode", 0):
        return None
    is_private = len(readers(model, conv.output[0])) == 1 and conv.output[0] not in outputs
    weights = (*(name for name in conv.input[1:] if name), *norm.input[1:])
    is_constant = all(name in known for name in weights)
    is_shared = any(len(readers(model, name)) > 1 for name in conv.input[1:] if name)
    return conv if is_private and is_constant and not is_shared else None


def _fold(model: onnx.ModelProto, conv: onnx.NodeProto, norm: onnx.NodeProto) -> None:
    known = constants(model)
    gamma, beta, mean, variance = (_float64(known[name]) for name in norm.input[1:5])
    epsilon = attribute(norm, "epsilon", 1e-5)
    assert isinstance(epsilon, float)
    gain = gamma / np.sqrt(variance + epsilon)
    weight = known[conv.input[1]]
    folded = _float64(weight) * gain.reshape(-1, *(1,) * (len(weight.dims) - 1))
    has_bias = len(conv.input) > 2 and bool(conv.input[2])  # noqa: PLR2004 -- x, w, b
    old_bias = _float64(known[conv.input[2]]) if has_bias else np.zeros_like(mean)
    name = conv.input[2] if has_bias else f"{norm.output[0]}.bias"
    bias = _tensor((old_bias - mean) * gain + beta, name, weight.data_type)
    weight.CopyFrom(_tensor(folded, weight.name, weight.data_type))
    if has_bias:
        known[name].CopyFrom(bias)
    else:
        model.graph.initializer.append(bias)
    del conv.input[2:]
    conv.input.append(name)
    conv.output[0] = norm.output[0]


def _float64(tensor: TensorProto) -> NDArray[np.float64]:
    return np.asarray(numpy_helper.to_array(tensor), dtype=np.float64)


def _tensor(values: NDArray[np.float64], name: str, data_type: int) -> TensorProto:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    return numpy_helper.from_array(values.astype(dtype), name)


PASS = Pass(name="fold_batch_norm", call=fold_batch_norm, ensures=topological_order)
