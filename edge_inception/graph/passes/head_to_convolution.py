"""Write the classifier's head as a pool of fixed size and a 1 x 1 convolution."""

from __future__ import annotations

from typing import NamedTuple

import onnx
from onnx import helper

from edge_inception.graph.check import attribute, constants, known_shape, only_reader
from edge_inception.graph.passes._affine import (
    has_own_weights,
    output_channels,
    own_bias,
    set_values,
    to_float64,
)
from edge_inception.graph.passes._contract import Pass, replace_node, scoped, topological_order

_BIAS = 2  # position among the inputs of Gemm


class _Head(NamedTuple):
    pool: onnx.NodeProto
    flatten: onnx.NodeProto
    gemm: onnx.NodeProto


def head_to_convolution(model: onnx.ModelProto) -> bool:
    """For engines without GlobalAveragePool, and without Flatten before a Gemm.

    Before: x [N, C, H, W] -> GlobalAveragePool -> Flatten -> Gemm(w [M, C], b) -> y [N, M].
    After:  x -> AveragePool(H x W) -> Conv(w [M, C, 1, 1], b) -> Flatten -> y.

    What the Flatten wrote is gone, and what the convolution writes has a new name, so that every
    name still means the same values: a range table of the graph before stays true.

    Stays where H or W is free, a tensor between has other readers, a weight is shared, or the Gemm
    has a factor alpha.
    """
    changed = [_rewrite(model, node) for node in list(model.graph.node)]
    return any(changed)


def _rewrite(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    head = _head_at(model, node)
    size = known_shape(model, node.input[0])[2:] if head else []
    if head is None or not size or not all(size):
        return False
    known = constants(model)
    weight = known[head.gemm.input[1]]
    _, classes = output_channels(head.gemm, known)
    bias = [own_bias(model, head.gemm, classes).name] if len(head.gemm.input) > _BIAS else []
    matrix = to_float64(weight)
    matrix = matrix if attribute(head.gemm, "transB", 0) else matrix.T
    set_values(weight, matrix.reshape(*matrix.shape, *(1 for _ in size)))
    pooled, result = head.pool.output[0], head.gemm.output[0]
    maps = f"{result}.maps"
    pool, conv, flatten = (
        scoped(head.pool, "average_pool"),
        scoped(head.gemm, "conv"),
        scoped(head.flatten, "flatten"),
    )
    made = (
        helper.make_node("AveragePool", head.pool.input, [pooled], pool, kernel_shape=size),
        helper.make_node("Conv", [pooled, weight.name, *bias], [maps], conv),
        helper.make_node("Flatten", [maps], [result], flatten, axis=1),
    )
    for old, new in zip(head, made, strict=True):
        replace_node(model, old, [new])
    _forget_shape(model, head.flatten.output[0])
    return True


def _head_at(model: onnx.ModelProto, pool: onnx.NodeProto) -> _Head | None:
    """The head that begins with ``pool``."""
    if pool.op_type != "GlobalAveragePool":
        return None
    flatten = only_reader(model, pool.output[0])
    if flatten is None or flatten.op_type != "Flatten" or attribute(flatten, "axis", 1) != 1:
        return None
    gemm = only_reader(model, flatten.output[0])
    if gemm is None or gemm.op_type != "Gemm":
        return None
    is_plain = attribute(gemm, "alpha", 1.0) == 1.0 and not attribute(gemm, "transA", 0)
    return _Head(pool, flatten, gemm) if is_plain and has_own_weights(model, gemm) else None


def _forget_shape(model: onnx.ModelProto, name: str) -> None:
    """Drop the recorded shape of a tensor that is gone."""
    kept = [value for value in model.graph.value_info if value.name != name]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


PASS = Pass(name="head_to_convolution", call=head_to_convolution, ensures=topological_order)
