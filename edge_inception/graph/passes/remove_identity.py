"""Remove nodes that return their input."""

from __future__ import annotations

import onnx

from edge_inception.graph.check import readers
from edge_inception.graph.passes._contract import Pass, rename_reads

_OPS = frozenset(("Identity", "Dropout"))


def remove_identity(model: onnx.ModelProto) -> bool:
    """Before: x -> Identity -> y -> readers. After: x -> readers.

    A Dropout counts as an identity if nothing reads its mask and it has no input training_mode.
    Where y is an output of the graph, the node that writes x writes y instead. If x is then an
    input or another output of the graph, the node stays, since both names must remain.
    """
    identities = [node for node in model.graph.node if _is_identity(model, node)]
    bypassed = [node for node in identities if _bypass(model, node)]
    for node in bypassed:
        model.graph.node.remove(node)
    return bool(bypassed)


def _is_identity(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    if node.op_type not in _OPS or len(node.input) > 2:  # noqa: PLR2004 -- data, ratio
        return False
    return not any(readers(model, name) for name in node.output[1:])


def _bypass(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    source, result = node.input[0], node.output[0]
    outputs = {value.name for value in model.graph.output}
    if result not in outputs:
        rename_reads(model, result, source)
        return True
    writer = next((other for other in model.graph.node if source in other.output), None)
    if writer is None or source in outputs:
        return False
    writer.output[list(writer.output).index(source)] = result
    rename_reads(model, source, result)
    return True


PASS = Pass(name="remove_identity", call=remove_identity)
