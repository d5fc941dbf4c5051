"""Which tensors carry a Q/DQ pair: the placement, read from the graph and nothing else.

One pair per tensor, read by all of its consumers in ``QUANTIZED_OPS``, so that compilers keep one
int8 copy of it. Concat, Relu and Flatten get none: a pair behind them serves. MaxPool alone has
a pair on both sides, with one scale, since TensorRT-RTX does not move Q/DQ across it.

A residual Add reads its identity through the pair that the convolutions of its block read, and the
convolution it adds as it is: then convolution, sum and ReLU are one int8 kernel. The identity is
the input with fewer nodes between it and the network's input; where both are convolutions, that is
the projection.

LRN, Softmax, TopK, what prepares the image and what follows the last layer get no pair.

Source: "Working with Quantized Types", TensorRT docs; InceptionQDQCase and ResNet50V1QDQCase in
tools/tensorflow-quantization, NVIDIA/TensorRT v8.6.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_inception.errors import InputError

WEIGHTED_OPS = frozenset(("Conv", "Gemm"))
QUANTIZED_OPS = WEIGHTED_OPS | {"AveragePool", "GlobalAveragePool", "MaxPool"}
"""Ops whose input 0 is read through a Q/DQ pair."""

_LAYERS = QUANTIZED_OPS | {"ConvTranspose", "MatMul", "QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A float initializer that becomes int8: its name and its output channel axis."""

    name: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the pairs go.

    ``scale_of`` maps every tensor with a pair, in graph order, to the tensor whose amax it uses:
    itself, or for a MaxPool output the tensor that was pooled. ``readers`` maps it to the indices
    of the nodes that read the pair instead of the tensor. ``weights`` maps node index to weight,
    ``identities`` that of every residual Add to its identity input.
    """

    scale_of: Mapping[str, str]
    readers: Mapping[str, frozenset[int]]
    weights: Mapping[int, Weight]
    identities: Mapping[int, str]


def place(model: onnx.ModelProto) -> Placement:
    """The placement of a simplified graph.

    A Conv or Gemm whose weight is not a constant stays float; counting it is the caller's business.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    weights = {
        index: Weight(name=node.input[1], axis=_channel_axis(node))
        for index, node in enumerate(graph.node)
        if node.op_type in WEIGHTED_OPS and node.input[1] in constants
    }
    identities = _identities(graph, constants)
    scale_of: dict[str, str] = {}
    pooled: set[str] = set()
    for index, node in enumerate(graph.node):
        source = _quantized_input(index, node, weights, identities)
        if source is None or source in constants:
            continue
        root = scale_of.setdefault(source, source)
        if node.op_type == "MaxPool" and node.output[0] not in outputs:
            scale_of[node.output[0]] = root
            pooled.add(node.output[0])
    return Placement(
        scale_of=scale_of,
        readers={
            name: frozenset(
                index
                for index, node in enumerate(graph.node)
                if name in node.input
                and (name in pooled or _quantized_input(index, node, weights, identities) == name)
            )
            for name in scale_of
        },
        weights=weights,
        identities=identities,
    )


def _quantized_input(
    index: int,
    node: onnx.NodeProto,
    weights: Mapping[int, Weight],
    identities: Mapping[int, str],
) -> str | None:
    """The tensor that a node reads through a pair whoever made it."""
    if node.op_type in WEIGHTED_OPS and index not in weights:
        return None
    return identities.get(index, node.input[0] if node.op_type in QUANTIZED_OPS else None)


def _identities(graph: onnx.GraphProto, constants: set[str]) -> dict[int, str]:
    """Index of every Add of two computed tensors between layers -> its identity input."""
    depth = dict.fromkeys(constants | {value.name for value in graph.input}, 0)
    inner, found = between_layers(graph), {}
    for index, node in enumerate(graph.node):
        level = 1 + max((depth[name] for name in node.input if name), default=0)
        depth |= dict.fromkeys(node.output, level)
        if node.op_type == "Add" and index in inner and not constants.intersection(node.input):
            found[index] = min(node.input, key=lambda name: depth[name])
    return found


def between_layers(graph: onnx.GraphProto) -> frozenset[int]:
    """Indices of the layers, and of all nodes with a layer both before and behind them.

    Layers have weights, pool or quantize. The rest prepares the image or follows the last layer.
    """
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type in _LAYERS or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()
    found = []
    for index, node in reversed(list(enumerate(graph.node))):
        is_layer = node.op_type in _LAYERS
        if is_layer or before.intersection(node.output):
            before.update(node.input)
            if is_layer or behind.intersection(node.output):
                found.append(index)
    return frozenset(found)


def _channel_axis(node: onnx.NodeProto) -> int:
    """Axis of the output channels: Conv [O, I, kh, kw], Gemm [O, I] when transB else [I, O]."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else 1


def require_finite_weights(model: onnx.ModelProto) -> None:
    """Check every float initializer.

    Raises:
        InputError: One holds NaN or infinity.
    """
    for name, values in float_initializers(model.graph):
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        if bad:
            raise InputError(
                f"weight '{name}' holds {bad} of {values.size} values that are NaN or infinite",
                hint="the checkpoint is broken; train or download it again",
            )


def float_initializers(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and values of every float32 initializer."""
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)
