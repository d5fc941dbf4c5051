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

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_inception.graph import check
from edge_inception.graph.signs import non_negative
from edge_inception.quant.bias import add_to_bias, has_plain_bias
from edge_inception.quant.placement import WEIGHTED_OPS, Placement, Weight
from edge_inception.quant.ranges import TensorRange
from edge_inception.quant.scales import QuantizedWeight

ZERO_POINT = 128.0
"""Number of levels by which a tensor without negative values is shifted down."""

_SHARE_OF_AMAX = 127.0 / 255.0  # the scale amax / 255 is that of a symmetric tensor of this amax


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How a tensor x becomes x - 128 s: by ``nodes`` before its Q, or by its producers.

    ``source`` is the shifted tensor. ``dropped`` has the indices of the ReLUs that go.
    """

    source: str
    nodes: tuple[onnx.NodeProto, ...] = ()
    dropped: frozenset[int] = frozenset()


def fold_ranges(
    ranges: Mapping[str, TensorRange], folded: Collection[str]
) -> dict[str, TensorRange]:
    """Group -> its range, for folded groups that of the symmetric tensor with the same scale."""
    return {
        root: replace(one, amax=one.amax * _SHARE_OF_AMAX) if root in folded else one
        for root, one in ranges.items()
    }


def fold(
    model: onnx.ModelProto,
    placement: Placement,
    offsets: Mapping[str, NDArray[np.float64]],
    weights: Mapping[Weight, QuantizedWeight],
    *,
    moves: bool = True,
) -> dict[str, Shift]:
    """Subtract ``offsets`` from the tensors of their groups, before pairs are inserted.

    An offset has one number, or one per channel. The biases of the layers that read a tensor get
    its offset back. The result maps every tensor that has to be shifted to its shift; the output of
    a MaxPool is shifted with its input. With ``moves`` producers take over what they can.
    """
    makers = {node.output[0]: node for node in model.graph.node}
    shifts: dict[str, Shift] = {}
    for name, root in placement.group_of.items():
        if root not in offsets:
            continue
        offset = offsets[root]
        for index in placement.readers[name]:
            if index in placement.weights:
                quantized = weights[placement.weights[index]]
                matrix = np.moveaxis(quantized.values.astype(np.float64), quantized.axis, 0)
                sums = matrix.reshape(*matrix.shape[:2], -1).sum(axis=2)
                add_to_bias(model, model.graph.node[index], (sums * offset).sum(axis=1))
        if name != root and makers[name].op_type == "MaxPool":
            continue
        relus = _movable_relus(model, placement, name) if moves else []
        shifts[name] = _move(model, name, offset, relus) if relus else _sub(model, name, offset)
    return shifts


def unsigned(model: onnx.ModelProto, placement: Placement) -> frozenset[str]:
    """The groups whose tensors cannot be negative; a uint8 with zero point 0 holds these."""
    positive = non_negative(model)
    groups = placement.group_of.items()
    return frozenset(placement.group_of.values()) - {r for n, r in groups if n not in positive}


def foldable(model: onnx.ModelProto, placement: Placement) -> frozenset[str]:
    """The groups whose tensors can carry a folded zero point.

    No tensor of the group may be negative, and every reader of its pairs must be a layer with int8
    weights that pads nothing (padding inserts 0, which would mean 128 s), or a MaxPool inside the
    group. All readers of a MaxPool's output must read its pair, since it is shifted already.
    """
    positive = non_negative(model)
    members: dict[str, list[str]] = {}
    for name, root in placement.group_of.items():
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
        is_plain = all(takes_shift(model, index, placement, root) for index in reads)
        if positive.issuperset(names) and is_whole and all(is_pooled) and is_plain:
            folded.add(root)
    return frozenset(folded)


def takes_shift(model: onnx.ModelProto, index: int, placement: Placement, root: str) -> bool:
    """Whether the node ``index`` can read shifted values of the group ``root``."""
    node = model.graph.node[index]
    if node.op_type == "MaxPool":
        return placement.group_of.get(node.output[0]) == root
    if index not in placement.weights:
        return False
    return has_plain_bias(model, node) and not check.is_padded(node)


def _readers(model: onnx.ModelProto) -> dict[str, list[int]]:
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(model.graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    return readers


def _sub(model: onnx.ModelProto, name: str, offset: NDArray[np.float64]) -> Shift:
    """A shift by a node of its own, for a tensor that something else reads too."""
    constant, shifted = f"{name}.offset", f"{name}.folded"
    shape = (1, -1, 1, 1) if offset.size > 1 else ()
    array = offset.astype(np.float32).reshape(shape)
    model.graph.initializer.append(numpy_helper.from_array(array, constant))
    node = helper.make_node("Sub", [name, constant], [shifted], name=shifted)
    return Shift(source=shifted, nodes=(node,))


def _move(
    model: onnx.ModelProto, name: str, offset: NDArray[np.float64], relus: Collection[int]
) -> Shift:
    """A shift by the biases of the layers before the ReLUs ``relus``, which go."""
    makers = {node.output[0]: node for node in model.graph.node}
    for index in relus:
        relu = model.graph.node[index]
        layer = makers[relu.input[0]]
        add_to_bias(model, layer, -offset)
        layer.output[0] = relu.output[0]
    return Shift(source=name, dropped=frozenset(relus))


def _movable_relus(model: onnx.ModelProto, placement: Placement, name: str) -> list[int]:
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
        if tensor not in makers:
            return []
        node = graph.node[makers[tensor]]
        if tensor != name and (len(readers[tensor]) > 1 or tensor in outputs):
            return []
        if node.op_type == "Concat":
            open_tensors += node.input
            continue
        layer = graph.node[makers[node.input[0]]] if node.input[0] in makers else None
        is_ours = (
            layer is not None and layer.op_type in WEIGHTED_OPS and has_plain_bias(model, layer)
        )
        if node.op_type != "Relu" or not is_ours or len(readers[node.input[0]]) > 1:
            return []
        relus.append(makers[tensor])
    return relus
