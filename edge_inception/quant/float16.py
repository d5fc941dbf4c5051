"""Conversion of a float32 graph to float16 from its first to its last layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.quant import placement

_LARGEST = float(np.finfo(np.float16).max)
_FLOAT32_OPS = frozenset(("LRN",))  # LRN sums squares; float16 overflows at the square of 256


def to_float16(model: onnx.ModelProto) -> None:
    """Make the layers of ``model`` and the nodes between them float16, in place.

    Before: input -> preparation -> layers -> head -> output, all float32.
    After:  input -> preparation -> Cast -> layers (float16) -> Cast -> head -> output.

    Nodes that prepare the image, nodes behind the last layer and LRN stay float32. A tensor that
    the float16 and the float32 part both use exists twice: the name of the float16 tensor ends in
    ``.float16``.

    Raises:
        InputError: A weight is too large for float16.
    """
    graph = model.graph
    inner = placement.between_layers(graph)
    half = [n for i, n in enumerate(graph.node) if i in inner and n.op_type not in _FLOAT32_OPS]
    full = [n for i, n in enumerate(graph.node) if i not in inner or n.op_type in _FLOAT32_OPS]
    both = _halve_weights(graph, half, full) | _crossing(graph, half, full)
    for node in half:
        node.input[:] = [f"{name}.float16" if name in both else name for name in node.input]
        node.output[:] = [f"{name}.float16" if name in both else name for name in node.output]
    nodes = [_to_half(value.name) for value in graph.input if value.name in both]
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            if name in both:
                nodes.append(_to_half(name))
            elif (full_name := name.removesuffix(".float16")) in both:
                nodes.append(_cast(name, full_name, TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input if name}


def _crossing(
    graph: onnx.GraphProto, half: Sequence[onnx.NodeProto], full: Sequence[onnx.NodeProto]
) -> set[str]:
    """Tensors that one part computes, or inputs of the graph, that the other part reads."""
    made_half = {name for node in half for name in node.output}
    read_full = _read(full) | {value.name for value in graph.output}
    stored = {tensor.name for tensor in graph.initializer}
    return (made_half & read_full) | (_read(half) - made_half - stored)


def _halve_weights(
    graph: onnx.GraphProto, half: Sequence[onnx.NodeProto], full: Sequence[onnx.NodeProto]
) -> set[str]:
    """Round the weights that ``half`` reads; the names of the weights that ``full`` reads too."""
    read_half, read_full = _read(half), _read(full)
    both = set()
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in read_half:
            continue
        if tensor.name in read_full:
            both.add(tensor.name)
            graph.initializer.append(_half(tensor, f"{tensor.name}.float16"))
        else:
            tensor.CopyFrom(_half(tensor, tensor.name))
    return both


def _to_half(name: str) -> onnx.NodeProto:
    return _cast(name, f"{name}.float16", TensorProto.FLOAT16)


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{source}.cast", to=to)


def _half(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST:
        raise InputError(
            f"weight '{tensor.name}' reaches {largest:g}, beyond float16's {_LARGEST:g}",
            hint="keep float32: --float-rest fp32, or --precision fp32",
        )
    return numpy_helper.from_array(values.astype(np.float16), name)
