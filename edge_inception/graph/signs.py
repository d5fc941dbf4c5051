"""Search for the tensors of a graph that cannot hold a negative value."""

from __future__ import annotations

import onnx

_KEEP_SIGN = frozenset(
    ("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Identity", "LRN")
)
_JOIN = frozenset(("Concat", "Add"))


def non_negative(model: onnx.ModelProto) -> frozenset[str]:
    """Names of tensors after a ReLU or sigmoid, and after pools, concats or sums of only these."""
    names: set[str] = set()
    for node in model.graph.node:
        data = node.input if node.op_type in _JOIN else node.input[:1]
        is_kept = node.op_type in _KEEP_SIGN | _JOIN and names.issuperset(data)
        if is_kept or node.op_type in {"Relu", "Sigmoid"}:
            names.add(node.output[0])
    return frozenset(names)
