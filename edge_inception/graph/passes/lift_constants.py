"""Store the values of Constant nodes as weights of the graph."""

from __future__ import annotations

import onnx

from edge_inception.graph.check import attribute
from edge_inception.graph.passes._contract import Pass, on_each


def lift_constants(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: Constant(value) -> c -> readers. After: c is an initializer.

    A Constant that holds its value in another attribute than ``value`` stays.
    """
    value = attribute(node, "value", None)
    if not isinstance(value, onnx.TensorProto):
        return False
    stored = model.graph.initializer.add()
    stored.CopyFrom(value)
    stored.name = node.output[0]
    model.graph.node.remove(node)
    return True


PASS = Pass(name="lift_constants", call=on_each(lift_constants, "Constant"))
