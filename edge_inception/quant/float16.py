"""A float32 graph -> the same graph in float16, with float32 input and output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError

_LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: onnx.ModelProto) -> None:
    """Change ``model`` in place: float32 tensors become float16 between a Cast in and a Cast out.

    Before: input -> nodes -> logits. After: input -> Cast -> nodes (float16) -> Cast -> logits.

    Raises:
        InputError: A weight is beyond float16.
    """
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_half(tensor))
    renamed = {value.name: f"{value.name}.float16" for value in (*graph.input, *graph.output)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    before = [_cast(v.name, renamed[v.name], TensorProto.FLOAT16) for v in graph.input]
    after = [_cast(renamed[v.name], v.name, TensorProto.FLOAT) for v in graph.output]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{source}.cast", to=to)


def _half(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST:
        raise InputError(
            f"weight '{tensor.name}' reaches {largest:g}, beyond float16's {_LARGEST:g}",
            hint="keep float32: --float-rest fp32, or --precision fp32",
        )
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)
