"""Write a part of a shape as a Slice of the whole shape."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_inception.graph.check import attribute, set_attributes
from edge_inception.graph.passes._contract import Pass, on_each, replace_node

_END = np.iinfo(np.int32).max  # past every axis


def slice_shape(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: x -> Shape(start = 0, end = 1) -> s. After: x -> Shape -> Slice(0, 1) -> s.

    The attributes are new in opset 15. PyTorch reads a free batch so.
    """
    part = attribute(node, "start", 0), attribute(node, "end", None)
    if part == (0, None):
        return False
    result = node.output[0]
    names = [f"{result}.{role}" for role in ("start", "end")]
    for name, value in zip(names, part, strict=True):
        bound = np.array([_END if value is None else value], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(bound, name))
    whole = onnx.NodeProto()
    whole.CopyFrom(node)
    set_attributes(whole, "start", "end")
    whole.output[0] = f"{result}.whole"
    name = f"{node.name}/slice" if node.name else ""
    part_of = helper.make_node("Slice", [whole.output[0], *names], [result], name)
    replace_node(model, node, [whole, part_of])
    return True


PASS = Pass(name="slice_shape", call=on_each(slice_shape, "Shape"))
