"""Which tensors carry a Q/DQ pair: the placement, read from the graph and nothing else.

One pair per tensor, read by all of its consumers in ``QUANTIZED_OPS``, so that compilers keep one
int8 copy of it. Concat, Relu and Flatten get none: a pair behind them serves. MaxPool alone has
a pair on both sides, with one scale, since TensorRT-RTX does not move Q/DQ across it. The identity
input of a residual Add belongs here too once a residual architecture is added.

Source: "Working with Quantized Types", TensorRT docs; InceptionQDQCase in
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
    of the nodes that read the pair instead of the tensor. ``weights`` maps node index to weight.
    """

    scale_of: Mapping[str, str]
    readers: Mapping[str, frozenset[int]]
    weights: Mapping[int, Weight]


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
    scale_of: dict[str, str] = {}
    pooled: set[str] = set()
    for index, node in enumerate(graph.node):
        if node.op_type not in QUANTIZED_OPS or node.input[0] in constants:
            continue
        if node.op_type in WEIGHTED_OPS and index not in weights:
            continue
        source = scale_of.setdefault(node.input[0], node.input[0])
        if node.op_type == "MaxPool" and node.output[0] not in outputs:
            scale_of[node.output[0]] = source
            pooled.add(node.output[0])
    return Placement(
        scale_of=scale_of,
        readers={name: _readers(graph, name, pooled, weights) for name in scale_of},
        weights=weights,
    )


def _readers(
    graph: onnx.GraphProto, name: str, pooled: set[str], weights: Mapping[int, Weight]
) -> frozenset[int]:
    """Nodes that read the pair of ``name``; behind a MaxPool everyone does."""
    return frozenset(
        index
        for index, node in enumerate(graph.node)
        if name in node.input
        and (name in pooled or index in weights or node.op_type in QUANTIZED_OPS - WEIGHTED_OPS)
    )


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
