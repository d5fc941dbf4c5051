"""Write a MatMul by a constant matrix as a Gemm, the op that quantization handles."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_inception.graph.check import constants, known_shape, only_reader
from edge_inception.graph.passes._contract import Pass, on_each, replace_node, scoped

_MATRIX = 2  # rank


def matmul_to_gemm(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Turn the linear layers of a network into Gemms.

    Before: x [N, K] -> MatMul(w [K, M]) -> y. After: x -> Gemm(w) -> y.

    Before: x [N, ..., K] -> MatMul(w [K, M]) -> Add(b [M]) -> y.
    After:  x -> Reshape [N ..., K] -> Gemm(w, b) -> Reshape [N, ..., M] -> y.

    Layers that read the same x share the first Reshape. A MatMul stays where w is not constant, or
    a size of x other than the first is unknown. In rank 2, ``fold_affine`` folds the Add.
    """
    weight = constants(model).get(node.input[1])
    shape = known_shape(model, node.input[0])
    if weight is None or len(weight.dims) != _MATRIX or not all(shape[1:]) or not shape[1:]:
        return False
    if len(shape) == _MATRIX:
        node.CopyFrom(helper.make_node("Gemm", node.input, node.output, scoped(node, "gemm")))
        return True
    bias = _following_bias(model, node, weight.dims[1])
    result = (bias or node).output[0]
    rows, product = f"{node.input[0]}.rows", f"{result}.rows"
    new = [
        helper.make_node("Gemm", [rows, *node.input[1:]], [product], scoped(node, "gemm")),
        _reshape(model, product, [-1, *shape[1:-1], weight.dims[1]], result, node),
    ]
    if all(rows not in each.output for each in model.graph.node):
        new.insert(0, _reshape(model, node.input[0], [-1, shape[-1]], rows, node))
    matrix = helper.make_tensor_value_info(product, TensorProto.FLOAT, [None, weight.dims[1]])
    model.graph.value_info.append(matrix)
    if bias is not None:
        name = next(name for name in bias.input if name != node.output[0])
        new[-2].input.append(_as_row(model, name))
        model.graph.node.remove(bias)
    replace_node(model, node, new)
    return True


def _following_bias(
    model: onnx.ModelProto, node: onnx.NodeProto, channels: int
) -> onnx.NodeProto | None:
    """The Add of one constant per channel that alone reads a MatMul; None if there is none."""
    reader, known = only_reader(model, node.output[0]), constants(model)
    if reader is None or reader.op_type != "Add":
        return None
    shapes = [list(known[name].dims) for name in reader.input if name in known]
    is_row = any(shape == [1] * (len(shape) - 1) + [channels] for shape in shapes)
    return reader if is_row else None


def _as_row(model: onnx.ModelProto, name: str) -> str:
    """The name of the constant as [M]: itself, or a copy without its leading axes of size 1."""
    tensor = constants(model)[name]
    if len(tensor.dims) == 1:
        return name
    row = numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(-1), f"{name}.row")
    if row.name not in constants(model):
        model.graph.initializer.append(row)
    return row.name


def _reshape(
    model: onnx.ModelProto, source: str, sizes: list[int], result: str, node: onnx.NodeProto
) -> onnx.NodeProto:
    name = f"{result}.sizes"
    model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    return helper.make_node("Reshape", [source, name], [result], scoped(node, "reshape"))


PASS = Pass(name="matmul_to_gemm", call=on_each(matmul_to_gemm, "MatMul"))
