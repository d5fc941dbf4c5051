"""Write a Sum of many tensors as Adds of two."""

from __future__ import annotations

import onnx
from onnx import helper

from edge_inception.graph.passes._contract import Pass, on_each, replace_node, scoped


def sum_to_add(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: Sum(a, b, c) -> y. After: Add(a, b) -> s, Add(s, c) -> y.

    Tensors are added from left to right. A Sum of one tensor becomes an Identity. Caffe2 writes
    the additions of a residual network as Sum; engines and our Q/DQ placement handle Add.
    """
    (first, *others), result = node.input, node.output[0]
    new = []
    for index, name in enumerate(others, start=1):
        written = result if index == len(others) else f"{result}.sum{index}"
        new.append(helper.make_node("Add", [first, name], [written], scoped(node, "add")))
        first = written
    identity = scoped(node, "identity")
    replace_node(model, node, new or [helper.make_node("Identity", [first], [result], identity)])
    return True


PASS = Pass(name="sum_to_add", call=on_each(sum_to_add, "Sum"))
