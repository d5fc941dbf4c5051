"""Drop ``allowzero`` from a Reshape whose sizes have no zero."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from edge_inception.graph.check import attribute, constants, set_attributes
from edge_inception.graph.passes._contract import Pass, on_each


def plain_reshape(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Before: x -> Reshape([1, 64], allowzero = 1) -> y. After: x -> Reshape([1, 64]) -> y.

    The attribute says what a zero among the sizes means. PyTorch always writes it, older opsets
    and some engines do not know it. A Reshape stays where its sizes are not constant.
    """
    sizes = constants(model).get(node.input[1])
    is_plain = sizes is not None and 0 not in numpy_helper.to_array(sizes)
    if attribute(node, "allowzero", None) is None or not is_plain:
        return False
    set_attributes(node, "allowzero")
    return True


PASS = Pass(name="plain_reshape", call=on_each(plain_reshape, "Reshape"))
