"""Move an average pool behind the 1 x 1 convolution that reads it."""

from __future__ import annotations

import onnx

from edge_inception.graph.check import attribute, constants, integers, is_padded, only_reader
from edge_inception.graph.passes._contract import Pass, on_each


def pool_behind_conv(model: onnx.ModelProto, pool: onnx.NodeProto) -> bool:
    """Rewrite the pool branch of an Inception block so that the pool reads fewer channels.

    Before: x -> AveragePool(stride 1) -> Conv(1 x 1, w, b) -> y.
    After:  x -> Conv(1 x 1, w, b) -> AveragePool(stride 1) -> y.

    Both are linear: one acts on channels and the other on pixels, so that they commute. The bias
    commutes as well if each average is over real pixels, whose shares sum to 1; a pool that counts
    padding stays before a convolution with a bias. In int8 the convolution then reads the same Q/DQ
    pair as the other branches. Nothing is moved if the convolution has more output channels than
    input channels, or if the pool has another reader.
    """
    conv = only_reader(model, pool.output[0])
    if conv is None or not _is_pointwise(model, conv) or conv.input[0] != pool.output[0]:
        return False
    is_biased = len(conv.input) > 2 and bool(conv.input[2])  # noqa: PLR2004 -- x, w, b
    is_exact = not (is_padded(pool) and attribute(pool, "count_include_pad", 0) and is_biased)
    if any(step != 1 for step in integers(pool, "strides")) or not is_exact:
        return False
    result, middle = conv.output[0], f"{conv.output[0]}.unpooled"
    conv.input[0], conv.output[0] = pool.input[0], middle
    pool.input[0], pool.output[0] = middle, result
    second = onnx.NodeProto()
    second.CopyFrom(pool)
    pool.CopyFrom(conv)  # the convolution takes the place of the pool in the order of nodes
    conv.CopyFrom(second)
    return True


def _is_pointwise(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether ``node`` is a 1 x 1 convolution with constant weights that adds no channels."""
    weight = constants(model).get(node.input[1]) if node.op_type == "Conv" else None
    if weight is None or any(integers(node, "pads")) or attribute(node, "group", 1) != 1:
        return False
    is_dense = all(step == 1 for step in (*integers(node, "strides"), *weight.dims[2:]))
    return is_dense and weight.dims[0] <= weight.dims[1]


PASS = Pass(name="pool_behind_conv", call=on_each(pool_behind_conv, "AveragePool"))
