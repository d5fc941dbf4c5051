"""Conversion of a float32 graph to float16 from its first to its last layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph.check import attribute, set_attributes
from edge_inception.graph.support_checks import opset_of
from edge_inception.quant import placement

_LARGEST = float(np.finfo(np.float16).max)
# These sum squares; float16 overflows at the square of 256.
_FLOAT32_OPS = frozenset(("LRN", "LpNormalization", "ReduceL2", "ReduceSumSquare"))


def to_float16(model: onnx.ModelProto) -> None:
    """Make the layers of ``model`` and the nodes between them float16, in place.

    Before: input -> preparation -> layers -> head -> output, all float32.
    After:  input -> preparation -> Cast -> layers (float16) -> Cast -> head -> output.

    Nodes that prepare the image, nodes behind the last layer, sums of squares, and ops and inputs
    that ONNX defines as float32, such as the scales of a Resize, stay float32. A tensor that the
    float16 and the float32 part both use exists twice: the name of the float16 tensor ends in
    ``.float16``.

    Raises:
        InputError: A weight is too large for float16.
    """
    graph = model.graph
    inner = placement.between_layers(graph)
    opset = opset_of(model)
    chosen = {i for i in inner if _has_float16(graph.node[i], opset)}
    half = [node for i, node in enumerate(graph.node) if i in chosen]
    full = [node for i, node in enumerate(graph.node) if i not in chosen]
    reads = [pair for node in half for pair in _inputs(node, opset)]
    read_half = {name for name, is_half in reads if is_half}
    read_full = {name for name, is_half in reads if not is_half}
    read_full |= {name for node in full for name in node.input}
    both = _crossing(model, half, read_half, read_full)  # before weights change their types
    both |= _halve_weights(graph, read_half, read_full)
    for node in half:
        node.input[:] = [
            f"{name}.float16" if name in both and is_half else name
            for name, is_half in _inputs(node, opset)
        ]
        node.output[:] = [f"{name}.float16" if name in both else name for name in node.output]
        _halve_attributes(node)
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


def _has_float16(node: onnx.NodeProto, opset: int) -> bool:
    """Whether a node computes in float16 by ONNX's definition and without overflow."""
    inputs = onnx.defs.get_schema(node.op_type, opset, "").inputs
    types = {kind for each in inputs for kind in each.types}
    is_defined = "tensor(float)" not in types or "tensor(float16)" in types
    return is_defined and node.op_type not in _FLOAT32_OPS


def _inputs(node: onnx.NodeProto, opset: int) -> Iterator[tuple[str, bool]]:
    """Every input of a node, and whether it may be float16 by ONNX's definition of the op."""
    formal = onnx.defs.get_schema(node.op_type, opset, "").inputs
    for index, name in enumerate(node.input):
        yield name, bool(name) and "tensor(float16)" in formal[min(index, len(formal) - 1)].types


def _halve_attributes(node: onnx.NodeProto) -> None:
    """Let a node that makes float32 of other types, or of nothing, make float16."""
    value = attribute(node, "value", None)
    if node.op_type == "Cast" and attribute(node, "to", 0) == TensorProto.FLOAT:
        set_attributes(node, to=TensorProto.FLOAT16)
    if isinstance(value, TensorProto) and value.data_type == TensorProto.FLOAT:
        set_attributes(node, value=_half(value, value.name))


def _crossing(
    model: onnx.ModelProto, half: Sequence[onnx.NodeProto], read_half: set[str], read_full: set[str]
) -> set[str]:
    """float32 tensors that one part computes, or inputs of the graph, that the other part reads."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    others = {v.name for v in values if v.type.tensor_type.elem_type != TensorProto.FLOAT}
    made_half = {name for node in half for name in node.output}
    read_full = read_full | {value.name for value in graph.output}
    stored = {tensor.name for tensor in graph.initializer}
    return (made_half & read_full | read_half - made_half - stored) - others


def _halve_weights(graph: onnx.GraphProto, read_half: set[str], read_full: set[str]) -> set[str]:
    """Round the weights that are read as float16; the names of those read as float32 too."""
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
