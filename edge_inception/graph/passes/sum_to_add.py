"""Write a Sum of many tensors as Adds of two."""

from __future__ import annotations

import onnx
from onnx import helper

from edge_inception.graph.passes._contract import Pass, replace_node, scoped, topological_order


def sum_to_add(model: onnx.ModelProto) -> bool:
    """Before: Sum(a, b, c) -> y. After: Add(a, b) -> s, Add(s, c) -> y.

    Tensors are added from left to right. A Sum of one tensor becomes an Identity. Caffe2 writes
    the additions of a residual network as Sum; engines and our Q/DQ placement handle Add.
    """
    changed = [node for node in list(model.graph.node) if node.op_type == "Sum"]
    for node in changed:
        replace_node(model, node, _steps(node))
    return bool(changed)


def _steps(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    first, *others = node.input
    result = node.output[0]
    if not others:
        return [helper.make_node("Identity", [first], [result], scoped(node, "identity"))]
    adds = []
    for index, name in enumerate(others, start=1):
        written = result if index == len(others) else f"{result}.sum{index}"
        adds.append(helper.make_node("Add", [first, name], [written], scoped(node, "add")))
        first = written
    return adds


PASS = Pass(name="sum_to_add", call=sum_to_add, ensures=topological_order)
