"""Fold batch norm and arithmetic with constants into the Conv or Gemm before it."""

from __future__ import annotations

import onnx

from edge_inception.graph.check import constants
from edge_inception.graph.passes._affine import (
    apply_to_output,
    has_own_weights,
    output_channels,
    read_chain,
)
from edge_inception.graph.passes._contract import Pass, on_each


def fold_affine(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Fold nodes behind a Conv or Gemm that compute gain * x + shift per channel.

    Before: x -> Conv(w, b) -> BatchNormalization -> Mul(c) -> Add(d) -> y.
    After:  x -> Conv(w', b') -> y.

    The chain may hold BatchNormalization, and Mul, Add, Sub and Div by a constant, such as the
    scale of a residual branch or the Scale layer that Caffe puts after its norm. The chain is
    multiplied out in float64 and rounded once. It ends where a tensor has several readers or is an
    output of the graph, or where a constant varies within a channel. Nothing is folded into a
    weight that is shared or not constant.
    """
    if not has_own_weights(model, node):
        return False
    rank, channels = output_channels(node, constants(model))
    chain, affine = read_chain(model, node.output[0], rank=rank, channels=channels)
    if not chain:
        return False
    apply_to_output(model, node, affine)
    node.output[0] = chain[-1].output[0]
    for each in chain:
        model.graph.node.remove(each)
    return True


PASS = Pass(name="fold_affine", call=on_each(fold_affine, "Conv", "Gemm"))
