"""Search for the tensors of a graph that cannot hold a negative value."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from edge_inception.graph.check import constants

_NON_NEGATIVE = frozenset(("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax"))
_KEEP_SIGN = frozenset(
    ("AveragePool", "Cast", "Flatten", "GlobalAveragePool", "Identity", "LRN", "MaxPool", "Reshape")
) | {"GlobalMaxPool", "Squeeze", "Transpose", "Unsqueeze"}
_JOIN = frozenset(("Add", "Concat", "Div", "Min", "Mul"))


def non_negative(model: onnx.ModelProto) -> frozenset[str]:
    """Names of tensors that cannot be negative, such as a ReLU's output and a Concat of only these.

    Constants are not among them.
    """
    known, names = constants(model), set[str]()

    def is_positive(name: str) -> bool:
        constant = known.get(name)
        return name in names or (
            constant is not None and bool((numpy_helper.to_array(constant) >= 0).all())
        )

    for node in model.graph.node:
        kind, (data, *others) = node.op_type, node.input or [""]
        if (
            kind in _NON_NEGATIVE
            or (kind in _KEEP_SIGN and is_positive(data))
            or (kind in _JOIN and all(map(is_positive, node.input)))
            or (kind == "Max" and any(map(is_positive, node.input)))
            or (kind == "Clip" and any(map(is_positive, others[:1])))  # the lower end
        ):
            names.add(node.output[0])
    return frozenset(names)
