"""Remove nodes and initializers that no output depends on."""

from __future__ import annotations

import onnx

from edge_inception.graph.check import replace_items
from edge_inception.graph.passes._contract import Pass


def remove_unused(model: onnx.ModelProto) -> bool:
    """Before: nodes and initializers, some never read. After: only those an output depends on.

    Initializers listed as graph inputs (IR version 3) are taken off that list, so that no caller
    can replace a weight. Recorded shapes of removed tensors are removed too.
    """
    graph = model.graph
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(name for name in node.input if name)
    before = _sizes(model)
    replace_items(graph.node, (node for node in graph.node if needed.intersection(node.output)))
    replace_items(
        graph.initializer, (tensor for tensor in graph.initializer if tensor.name in needed)
    )
    weights = {tensor.name for tensor in graph.initializer}
    replace_items(graph.input, (value for value in graph.input if value.name not in weights))
    written = {name for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    replace_items(graph.value_info, (v for v in graph.value_info if v.name in written - outputs))
    return _sizes(model) != before


def _sizes(model: onnx.ModelProto) -> tuple[int, ...]:
    graph = model.graph
    return len(graph.node), len(graph.initializer), len(graph.input), len(graph.value_info)


PASS = Pass(name="remove_unused", call=remove_unused)
