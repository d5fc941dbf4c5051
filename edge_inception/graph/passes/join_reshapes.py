"""Write a Reshape of a Reshape as one."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_inception.graph.check import attribute, constants, known_shape, only_reader
from edge_inception.graph.passes._contract import Pass, on_each, scoped

_REST = -1  # the size that follows from the others


def join_reshapes(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: x -> Reshape -> Reshape(sizes) -> y. After: x -> Reshape(sizes) -> y.

    Before: x [N, M] -> Reshape -> Reshape [N, M] -> y. After: x -> Identity -> y.

    The norm behind a linear layer then follows its Gemm, which takes it in. A pair stays where the
    tensor between has other readers, or sizes are not constant or copied from an inner axis.
    """
    known = constants(model)
    following = only_reader(model, node.output[0])
    if following is None or following.op_type != "Reshape" or following.input[1] not in known:
        return False
    sizes = numpy_helper.to_array(known[following.input[1]]).copy()
    if 0 in sizes[:1] and _REST not in sizes:  # the first size is copied: it is what remains
        sizes[0] = _REST
    if 0 in sizes or any(attribute(each, "allowzero", 0) for each in (node, following)):
        return False
    source = known_shape(model, node.input[0])
    if source[1:] == sizes[1:].tolist() and all(source[1:]):  # then the first is equal too
        name = scoped(following, "identity")
        following.CopyFrom(helper.make_node("Identity", node.input[:1], following.output, name))
    else:
        name = f"{following.output[0]}.sizes_{len(known)}"  # a pass before may have made one
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(sizes, np.int64), name))
        following.input[:] = [node.input[0], name]
    model.graph.node.remove(node)
    return True


PASS = Pass(name="join_reshapes", call=on_each(join_reshapes, "Reshape"))
