"""Conversion of a graph's float16, bfloat16 and double numbers to float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

_OTHERS = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))
_TYPE_ATTRIBUTES = frozenset(("to", "dtype"))  # attributes of Cast, EyeLike and similar ops


def to_float32(model: onnx.ModelProto) -> dict[str, int]:
    """Make every float of ``model`` float32, in place; return the number of tensors by old type.

    float16 and bfloat16 values stay exact; doubles are rounded. Casts between float types stay as
    casts to float32, which do nothing.
    """
    counts: Counter[str] = Counter()
    graph = model.graph
    for tensor in (*graph.initializer, *_attribute_tensors(graph)):
        if tensor.data_type in _OTHERS:
            counts[TensorProto.DataType.Name(tensor.data_type).lower()] += 1
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in graph.node:
        for entry in node.attribute:
            if entry.name in _TYPE_ATTRIBUTES and entry.i in _OTHERS:
                entry.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _OTHERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return dict(sorted(counts.items()))


def _attribute_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for node in graph.node:
        for entry in node.attribute:
            if entry.type == AttributeProto.TENSOR:
                yield entry.t
