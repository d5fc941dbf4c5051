"""Write a batch norm that could not be folded into a convolution as a Mul and an Add."""

from __future__ import annotations

import onnx

from edge_inception.graph.check import constants, known_shape
from edge_inception.graph.passes._affine import read_affine, write_affine
from edge_inception.graph.passes._contract import Pass, on_each


def norm_to_affine(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: x -> BatchNormalization -> y. After: x -> Mul(gain) -> Add(shift) -> y.

    gain = gamma / sqrt(var + epsilon) and shift = beta - mean * gain, both [1, C, 1, ...], are
    computed in float64 and rounded once. Engines may keep a norm in float32, but compute Mul and
    Add in the graph's type. A norm stays where x's rank is unknown or another input not constant.
    """
    known = constants(model)
    if node.input[1] not in known:
        return False
    gamma, rank = known[node.input[1]], len(known_shape(model, node.input[0]))
    affine = read_affine(node, known, rank=rank, channels=gamma.dims[0])
    if affine is None or not rank:
        return False
    write_affine(model, node, affine, rank=rank, element=gamma.data_type)
    return True


PASS = Pass(name="norm_to_affine", call=on_each(norm_to_affine, "BatchNormalization"))
