"""Write a MatMul by a constant matrix as a Gemm, the op that quantization handles."""

from __future__ import annotations

import onnx
from onnx import helper

from edge_inception.graph.check import constants, known_shape
from edge_inception.graph.passes._contract import Pass, on_each, scoped

_RANK = 2


def matmul_to_gemm(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: x [N, K] -> MatMul(w [K, M]) -> y. After: x -> Gemm(w) -> y.

    A MatMul stays where the rank of x is not 2 or is unknown, or w is not constant. ``fold_affine``
    later folds an Add of a bias after y into the Gemm.
    """
    weight = constants(model).get(node.input[1])
    is_matrix = weight is not None and len(weight.dims) == _RANK
    if not is_matrix or len(known_shape(model, node.input[0])) != _RANK:
        return False
    node.CopyFrom(helper.make_node("Gemm", node.input, node.output, scoped(node, "gemm")))
    return True


PASS = Pass(name="matmul_to_gemm", call=on_each(matmul_to_gemm, "MatMul"))
