"""Write the axes of reductions as attributes, as before opset 18."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from edge_inception.graph.check import attribute, constants, set_attributes
from edge_inception.graph.passes._contract import Pass, on_each

# Without ReduceSum, whose axes are an input from opset 13 on.
OPS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSumSquare",
)  # fmt: skip
_X_AND_AXES = 2


def reduction_axes(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: x -> ReduceMean(axes = [2, 3] as an input) -> y. After: axes as an attribute.

    A reduction stays where its axes are not constant, or are empty and mean that nothing is
    reduced. The constant of the axes stays in the graph.
    """
    axes = constants(model).get(node.input[1]) if len(node.input) == _X_AND_AXES else None
    if axes is None:
        return False
    values = numpy_helper.to_array(axes).tolist()
    if values:
        set_attributes(node, "noop_with_empty_axes", axes=values)
    elif attribute(node, "noop_with_empty_axes", 0):
        return False
    del node.input[1:]
    return True


PASS = Pass(name="reduction_axes", call=on_each(reduction_axes, *OPS))
