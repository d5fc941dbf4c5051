"""Write the classifier's head as a pool of fixed size and 1 x 1 convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import helper

from edge_inception.graph.check import attribute, constants, known_shape, only_reader, replace_items
from edge_inception.graph.passes._affine import (
    has_own_weights,
    output_channels,
    own_bias,
    set_values,
    to_float64,
)
from edge_inception.graph.passes._contract import Pass, on_each, replace_node, scoped

_BIAS = 2  # position among the inputs of Gemm


def head_to_convolution(model: onnx.ModelProto, pool: onnx.NodeProto) -> bool:
    """Rewrite the head for engines without GlobalAveragePool, and without Flatten before a Gemm.

    Before: x [N, C, H, W] -> GlobalAveragePool -> Flatten -> Gemm(w [M, C], b) -> y [N, M].
    After:  x -> AveragePool(H x W) -> Conv(w [M, C, 1, 1], b) -> Flatten -> y.

    Further Relu and Gemm layers of the head move before the Flatten too. A tensor that keeps its
    name keeps its values, so a table of value ranges by name stays valid; only the output of the
    last convolution has a new name.

    The head stays where H or W is free, a tensor in it has several readers, a weight is shared, or
    the Gemm has a factor alpha or transposes its input.
    """
    size = known_shape(model, pool.input[0])[2:]
    flatten = only_reader(model, pool.output[0])
    if flatten is None or flatten.op_type != "Flatten" or attribute(flatten, "axis", 1) != 1:
        return False
    layers = list(_layers(model, flatten.output[0]))
    if not layers or not size or not all(size):
        return False
    flat, result = flatten.output[0], layers[-1].output[0]
    maps = f"{result}.maps"
    _forget_shapes(model, [flat, *(layer.output[0] for layer in layers[:-1])])
    convolutions = _convolutions(model, layers, rank=len(size))
    convolutions[-1].output[0] = maps
    name = scoped(pool, "average_pool")
    head = helper.make_node("AveragePool", pool.input, [flat], name, kernel_shape=size)
    tail = helper.make_node("Flatten", [maps], [result], flatten.name, axis=1)
    model.graph.node.remove(flatten)
    replace_node(model, pool, [head])
    for old, new in zip(layers, convolutions, strict=True):
        replace_node(model, old, [new, tail] if old is layers[-1] else [new])
    return True


def _layers(model: onnx.ModelProto, name: str) -> Iterator[onnx.NodeProto]:
    """The Gemms that follow tensor ``name``, and the Relus between them; the last is a Gemm."""
    waiting: list[onnx.NodeProto] = []
    while (node := only_reader(model, name)) is not None:
        name = node.output[0]
        waiting.append(node)
        if node.op_type == "Relu":
            continue
        if not _is_plain_gemm(model, node):
            return
        yield from waiting
        waiting.clear()


def _is_plain_gemm(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    if node.op_type != "Gemm" or attribute(node, "transA", 0):
        return False
    return attribute(node, "alpha", 1.0) == 1.0 and has_own_weights(model, node)


def _convolutions(
    model: onnx.ModelProto, layers: Sequence[onnx.NodeProto], *, rank: int
) -> list[onnx.NodeProto]:
    """The layers as Conv and Relu nodes; the weights get ``rank`` more axes, of size 1."""
    known = constants(model)
    convolutions = []
    for layer in layers:
        if layer.op_type == "Relu":
            convolutions.append(helper.make_node("Relu", layer.input, layer.output, layer.name))
            continue
        weight = known[layer.input[1]]
        _, classes = output_channels(layer, known)
        bias = [own_bias(model, layer, classes).name] if len(layer.input) > _BIAS else []
        matrix = to_float64(weight)
        matrix = matrix if attribute(layer, "transB", 0) else matrix.T
        set_values(weight, matrix.reshape(*matrix.shape, *(1 for _ in range(rank))))
        inputs = [layer.input[0], weight.name, *bias]
        convolutions.append(helper.make_node("Conv", inputs, layer.output, scoped(layer, "conv")))
    return convolutions


def _forget_shapes(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Drop the recorded shapes of ``names``, which get four axes; inference restores them later."""
    shapes = model.graph.value_info
    replace_items(shapes, (value for value in shapes if value.name not in names))


PASS = Pass(name="head_to_convolution", call=on_each(head_to_convolution, "GlobalAveragePool"))
