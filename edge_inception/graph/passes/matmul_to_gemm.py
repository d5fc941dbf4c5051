"""Write a MatMul by a constant matrix as a Gemm, the op that quantization handles."""

from __future__ import annotations

import onnx
from onnx import helper

from edge_inception.graph.check import constants, known_shape
from edge_inception.graph.passes._contract import Pass, scoped, topological_order

_RANK = 2


def matmul_to_gemm(model: onnx.ModelProto) -> bool:
    """Before: x [N, K] -> MatMul(w [K, M]) -> y. After: x -> Gemm(w) -> y.

    A MatMul stays where the rank of x is not 2 or is unknown, or w is not constant. ``fold_affine``
    later folds an Add of a bias after y into the Gemm.
    """
    is_modified = False
    known = constants(model)
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in known:
            continue
        is_matrix = len(known[node.input[1]].dims) == _RANK
        if is_matrix and len(known_shape(model, node.input[0])) == _RANK:
            gemm = helper.make_node("Gemm", node.input, node.output, scoped(node, "gemm"))
            node.CopyFrom(gemm)
            is_modified = True
    return is_modified


PASS = Pass(name="matmul_to_gemm", call=matmul_to_gemm, ensures=topological_order)
