"""Write a batch norm that no convolution takes in as a product and a sum."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_inception.graph.check import constants, known_shape
from edge_inception.graph.passes._affine import read_affine
from edge_inception.graph.passes._contract import Pass, replace_node, scoped, topological_order


def spell_norm(model: onnx.ModelProto) -> bool:
    """Before: x -> BatchNormalization -> y. After: x -> Mul(gain) -> Add(shift) -> y.

    gain = gamma / sqrt(var + epsilon) and shift = beta - mean * gain, [1, C, 1, ...], in float64
    and rounded once. Engines type a Mul and an Add as they type any other; a norm they may keep in
    float32. Stays where the rank of x is unknown or a statistic is no constant.
    """
    changed = [_spell(model, node) for node in list(model.graph.node)]
    return any(changed)


def _spell(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    if node.op_type != "BatchNormalization" or node.input[1] not in constants(model):
        return False
    known = constants(model)
    gamma, rank = known[node.input[1]], len(known_shape(model, node.input[0]))
    affine = read_affine(node, known, rank=rank, channels=gamma.dims[0])
    if affine is None or not rank:
        return False
    source, result = node.input[0], node.output[0]
    shape = (1, -1, *(1,) * (rank - 2))
    dtype = helper.tensor_dtype_to_np_dtype(gamma.data_type)
    for name, values in (("gain", affine.gain), ("shift", affine.shift)):
        array = np.asarray(values, dtype=dtype).reshape(shape)
        model.graph.initializer.append(numpy_helper.from_array(array, f"{result}.{name}"))
    steps = (
        helper.make_node(
            "Mul", [source, f"{result}.gain"], [f"{result}.scaled"], scoped(node, "mul")
        ),
        helper.make_node(
            "Add", [f"{result}.scaled", f"{result}.shift"], [result], scoped(node, "add")
        ),
    )
    replace_node(model, node, steps)
    return True


PASS = Pass(name="spell_norm", call=spell_norm, ensures=topological_order)
