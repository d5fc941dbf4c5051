"""A float32 graph -> the same graph in float16, with float32 input and output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.spec import HEAD_SCOPE, PREPROCESS_SCOPE

_LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: onnx.ModelProto) -> None:
    """Change ``model`` in place: float32 tensors become float16 between a Cast in and a Cast out.

    Before: input -> [preprocess] -> nodes -> [head] -> outputs.
    After:  input -> [preprocess] -> Cast -> nodes (float16) -> Cast -> [head] -> outputs.
    The two ends that ``interface`` adds stay float32.

    Raises:
        InputError: A weight is beyond float16.
    """
    graph = model.graph
    front = [node for node in graph.node if _is_end(node, PREPROCESS_SCOPE)]
    back = [node for node in graph.node if _is_end(node, HEAD_SCOPE)]
    inner = [node for node in graph.node if node not in front and node not in back]
    kept = {name for node in (*front, *back) for name in node.input}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_half(tensor))
    sources = front[-1].output if front else [value.name for value in graph.input]
    results = back[0].input[:1] if back else [value.name for value in graph.output]
    renamed = {name: f"{name}.float16" for name in (*sources, *results)}
    for node in inner:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    before = [_cast(name, renamed[name], TensorProto.FLOAT16) for name in sources]
    after = [_cast(renamed[name], name, TensorProto.FLOAT) for name in results]
    nodes = [*front, *before, *inner, *after, *back]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _is_end(node: onnx.NodeProto, scope: str) -> bool:
    """Whether ``interface`` added it; a Q/DQ pair behind it has its name too."""
    return node.name.startswith(scope) and not node.op_type.endswith("Linear")


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
