"""Folded zero points: all 255 levels of int8 for tensors that cannot be negative.

Symmetric int8 represents such a tensor x with the levels 0..127 of -128..127. Here y = x - 128 s is
quantized instead, with the scale s = amax / 255 and the zero point 0 that TensorRT requires, so
that every level is used and the resolution doubles. The layers that read y get the constant back in
their biases: W * x = W * y + 128 s * sum(W). At run time this costs nothing where the producer can
take the constant into its bias as well. Its ReLU then goes: y saturates at -128, where x is 0.

    before  Conv(b) - Relu - x - Q(s') - DQ - Conv(W, c)
    after   Conv(b - 128 s) - y - Q(s) - DQ - Conv(W, c + 128 s sum(W))

Where something else reads x too, y = Sub(x, 128 s) is a node of its own.

Source: the algebra of "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", arXiv:1712.05877, section 2.3, with a zero point of -128.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_inception.graph import check
from edge_inception.graph.signs import non_negative
from edge_inception.quant.placement import Placement

OFFSET = 128.0
"""Levels by which a folded tensor is shifted down."""

SHARE_OF_AMAX = 127.0 / 255.0
"""A folded tensor of amax A has the scale of a symmetric tensor of amax A * SHARE_OF_AMAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """The float nodes that shift a tensor: a Sub before its Q, or none if producers take it over.

    ``dropped`` are the indices of ReLUs that go.
    """

    nodes: tuple[onnx.NodeProto, ...]
    dropped: frozenset[int]


def foldable(model: onnx.ModelProto, placement: Placement) -> frozenset[str]:
    """The groups whose tensors can carry a folded zero point.

    No tensor of the group may be negative, and every reader of its pairs must be a layer with int8
    weights that pads nothing (padding inserts 0, which would mean 128 s), or a MaxPool inside the
    group. All readers of a MaxPool's output must read its pair, since it is shifted already.
    """
    positive = non_negative(model)
    members: dict[str, list[str]] = {}
    for name, root in placement.scale_of.items():
        members.setdefault(root, []).append(name)
    readers = _readers(model)
    outputs = {value.name for value in model.graph.output}
    makers = {node.output[0]: node for node in model.graph.node}
    folded = set()
    for root, names in members.items():
        is_pooled = [makers[n].op_type == "MaxPool" for n in names if n != root and n in makers]
        inner = [n for n in names if n != root]
        is_whole = all(
            set(readers.get(n, ())) == placement.readers[n] and n not in outputs for n in inner
        )
        reads = {index for name in names for index in placement.readers[name]}
        is_plain = all(_takes_shift(model, index, placement, root) for index in reads)
        if positive.issuperset(names) and is_whole and all(is_pooled) and is_plain:
            folded.add(root)
    return frozenset(folded)


def _takes_shift(model: onnx.ModelProto, index: int, placement: Placement, root: str) -> bool:
    """Whether the node ``index`` can read shifted values of the group ``root``."""
    node = model.graph.node[index]
    if node.op_type == "MaxPool":
        return placement.scale_of.get(node.output[0]) == root
    if index not in placement.weights:
        return False
    bias = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 -- x, w, b
    if bias and bias not in check.constants(model):
        return False
    if node.op_type == "Conv":
        is_explicit = check.attribute(node, "auto_pad", b"NOTSET") in {b"NOTSET", b"VALID"}
        return is_explicit and not any(check.integers(node, "pads"))
    return check.attribute(node, "alpha", 1.0) == check.attribute(node, "beta", 1.0) == 1.0


def _readers(model: onnx.ModelProto) -> dict[str, list[int]]:
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(model.graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    return readers


def shift(model: onnx.ModelProto, placement: Placement, name: str, step: float) -> Shift:
    """Shift the tensor ``name`` by 128 ``step``; changes biases of producers that take it over.

    With a Sub, its output is ``<name>.folded``; without, ``name`` itself is shifted.
    """
    relus = _movable(model, placement, name)
    amount = np.float32(OFFSET * step)
    graph = model.graph
    if relus:
        makers = {node.output[0]: node for node in graph.node}
        for index in relus:
            relu = graph.node[index]
            layer = makers[relu.input[0]]
            add_to_bias(model, layer, -np.full(1, amount))
            layer.output[0] = relu.output[0]
        return Shift(nodes=(), dropped=frozenset(relus))
    constant = f"{name}.offset"
    graph.initializer.append(numpy_helper.from_array(np.asarray(amount), constant))
    nodes = (helper.make_node("Sub", [name, constant], [f"{name}.folded"], name=f"{name}.folded"),)
    return Shift(nodes=nodes, dropped=frozenset())


def _movable(model: onnx.ModelProto, placement: Placement, name: str) -> list[int]:
    """Indices of the ReLUs that compute ``name`` and can go, or none if one of them cannot."""
    graph = model.graph
    readers = _readers(model)
    makers = {node.output[0]: index for index, node in enumerate(graph.node)}
    outputs = {value.name for value in graph.output}
    if name in outputs or set(readers.get(name, ())) != placement.readers[name]:
        return []
    relus: list[int] = []
    open_tensors = [name]
    while open_tensors:
        tensor = open_tensors.pop()
        node = graph.node[makers[tensor]]
        if tensor != name and (len(readers[tensor]) > 1 or tensor in outputs):
            return []
        if node.op_type == "Concat":
            open_tensors += node.input
            continue
        layer = graph.node[makers[node.input[0]]] if node.input[0] in makers else None
        is_ours = layer is not None and layer.op_type in {"Conv", "Gemm"}
        if node.op_type != "Relu" or not is_ours or len(readers[node.input[0]]) > 1:
            return []
        relus.append(makers[tensor])
    return relus


def add_to_bias(model: onnx.ModelProto, layer: onnx.NodeProto, change: NDArray[np.float32]) -> None:
    """Give ``layer``, a Conv or Gemm, a bias [O] of its own: the old one plus ``change``."""
    stored = check.constants(model)
    old = layer.input[2] if len(layer.input) > 2 else ""  # noqa: PLR2004 -- x, w, b
    weight = stored[layer.input[1]]
    outputs = weight.dims[check.channel_axis(layer)]
    before = numpy_helper.to_array(stored[old]) if old else np.zeros(outputs, np.float32)
    name = f"{layer.output[0]}.bias"
    while name in stored:
        name += "_"
    after = (before.astype(np.float64) + change).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(after, name))
    layer.input[:] = [layer.input[0], layer.input[1], name]


def compensate(
    model: onnx.ModelProto, index: int, step: float, weight: NDArray[np.float32], axis: int
) -> None:
    """Add 128 ``step`` * sum(W) to the bias of the layer ``index``, which reads a shifted tensor.

    ``weight`` holds the dequantized int8 weights, with their output channels along ``axis``.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    change = OFFSET * step * weight.sum(axis=others, dtype=np.float64)
    add_to_bias(model, model.graph.node[index], change)


def folded_amax(amax: Mapping[str, float], folded: frozenset[str]) -> dict[str, float]:
    """Group -> the amax of a symmetric tensor that has the group's scale."""
    return {k: v * SHARE_OF_AMAX if k in folded else v for k, v in amax.items()}
