"""Write the sizes of a Split out, where only their number is given."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edge_inception.graph.check import attribute, known_shape, set_attributes
from edge_inception.graph.passes._contract import Pass, on_each


def split_sizes(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: x [N, 7] -> Split(num_outputs = 2). After: x -> Split(sizes = [4, 3]).

    ``num_outputs`` is new in opset 18. A Split stays where the size of its axis is unknown or free.
    """
    count, axis = attribute(node, "num_outputs", None), attribute(node, "axis", 0)
    shape = known_shape(model, node.input[0])
    assert isinstance(axis, int)
    if not isinstance(count, int) or not shape or not shape[axis]:
        return False
    chunk = -(-shape[axis] // count)
    sizes = [chunk] * (count - 1) + [shape[axis] - chunk * (count - 1)]
    name = f"{node.output[0]}.sizes"
    model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    set_attributes(node, "num_outputs")
    node.input[:] = [node.input[0], name]
    return True


PASS = Pass(name="split_sizes", call=on_each(split_sizes, "Split"))
