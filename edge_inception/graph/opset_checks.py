"""The ops that mean the same in opsets 13 to 21, so that a graph can be written in any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from edge_inception.errors import InputError
from edge_inception.graph.check import attribute
from edge_inception.graph.macs import OWN_DOMAINS

MIN_OPSET, MAX_OPSET = 13, 21

_SAME = "one definition, 13 to 21"
_TYPES = "later versions add element types only"
PORTABLE_OPS: Mapping[str, str] = {
    "Abs": _SAME,
    "Add": _TYPES,
    "ArgMax": _SAME,
    "AveragePool": "19 adds dilations and changes ceil_mode; both are refused",
    "Cast": "19 adds saturate and 8-bit floats; both are refused",
    "Clip": _SAME,
    "Concat": _SAME,
    "Conv": _SAME,
    "ConvTranspose": _SAME,
    "Div": _TYPES,
    "Elu": _SAME,
    "Exp": _SAME,
    "Expand": _SAME,
    "Flatten": _TYPES,
    "Gather": _SAME,
    "Gemm": _SAME,
    "GlobalAveragePool": _SAME,
    "GlobalMaxPool": _SAME,
    "HardSigmoid": _SAME,
    "Identity": _TYPES,
    "LRN": _SAME,
    "LeakyRelu": _TYPES,
    "LogSoftmax": _SAME,
    "MatMul": _SAME,
    "Max": _SAME,
    "MaxPool": _SAME,
    "Min": _SAME,
    "Mul": _TYPES,
    "Neg": _SAME,
    "PRelu": _TYPES,
    "Pad": "18 adds the input axes, 19 the mode wrap; both are refused",
    "Pow": _TYPES,
    "ReduceSum": "axes are an input in all; those of other reductions moved in 18",
    "Relu": _TYPES,
    "Reshape": "14 adds allowzero, which is refused",
    "Selu": _SAME,
    "Sigmoid": _SAME,
    "Slice": _SAME,
    "Softmax": _SAME,
    "Split": "18 wants num_outputs where the input split is absent; that is refused",
    "Sqrt": _SAME,
    "Squeeze": _TYPES,
    "Sub": _TYPES,
    "Tanh": _SAME,
    "TopK": _SAME,
    "Transpose": _TYPES,
    "Unsqueeze": _TYPES,
}
"""Op -> why its meaning is the same. An attribute that opset 13 lacks is refused for every op.

Source: onnx/docs/Changelog.md; the tests read the same from ``onnx.defs``.
"""

_TYPES_OF_13 = frozenset(range(TensorProto.FLOAT, TensorProto.BFLOAT16 + 1))
_MAX_PAD_INPUTS = 3  # x, pads, value


def _differing_uses(node: onnx.NodeProto) -> Iterator[tuple[str, bool, str]]:
    """Op, whether ``node`` uses a feature that differs between opsets, and how it differs."""
    ceil, sizes = attribute(node, "ceil_mode", 0), node.input[1:2]
    yield "AveragePool", bool(ceil), "with ceil_mode has another output size from opset 19 on"
    is_new = attribute(node, "to", TensorProto.UNDEFINED) not in _TYPES_OF_13
    yield "Cast", is_new, "to a type that opset 13 lacks"
    yield "Pad", len(node.input) > _MAX_PAD_INPUTS, "takes axes from opset 18 on only"
    is_wrap = attribute(node, "mode", b"constant") == b"wrap"
    yield "Pad", is_wrap, "has the mode wrap from opset 19 on only"
    yield "Split", not any(sizes), "without sizes is spelled differently from opset 18 on"


def require_portable(model: onnx.ModelProto) -> None:
    """Check that the graph computes the same under any opset from 13 to 21.

    Raises:
        InputError: A node's op is not in ``PORTABLE_OPS``, or the node uses a feature that some of
            these opsets lack or define differently.
    """
    for node in model.graph.node:
        reason = why_not_portable(node)
        if reason:
            raise InputError(
                f"node '{node.name}': {reason}",
                hint=f"ops that mean the same in opsets {MIN_OPSET} to {MAX_OPSET}: "
                f"{', '.join(sorted(PORTABLE_OPS))}",
            )


def why_not_portable(node: onnx.NodeProto) -> str:
    """The reason why a node does not mean the same in opsets 13 to 21; empty when it does."""
    if node.op_type not in PORTABLE_OPS or node.domain not in OWN_DOMAINS:
        return f"op {node.op_type} is not portable between opsets"
    oldest = onnx.defs.get_schema(node.op_type, MIN_OPSET, "")
    newer = [entry.name for entry in node.attribute if entry.name not in oldest.attributes]
    if newer:
        return f"attribute {newer[0]} of {node.op_type} is not in opset {MIN_OPSET}"
    uses = _differing_uses(node)
    return next(
        (f"{op} {reason}" for op, is_used, reason in uses if op == node.op_type and is_used), ""
    )
