"""What a pass is: a record of plain functions that changes a model in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One rewrite.

    ``requires`` and ``ensures`` return why the model is not as they want it, or an empty string.
    ``call`` returns whether it changed anything; called again it must return False.
    """

    name: str
    call: Callable[[onnx.ModelProto], bool]
    requires: Callable[[onnx.ModelProto], str] = lambda _: ""
    ensures: Callable[[onnx.ModelProto], str] = lambda _: ""

    def __call__(self, model: onnx.ModelProto) -> bool:
        """Run it between its two checks; a broken check is a bug of ours, so it asserts."""
        before = self.requires(model)
        assert not before, f"{self.name} requires: {before}"
        is_modified = self.call(model)
        after = self.ensures(model)
        assert not after, f"{self.name} ensures: {after}"
        return is_modified


def topological_order(model: onnx.ModelProto) -> str:
    """Name the first node that reads a tensor nobody wrote before it."""
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {value.name for value in model.graph.input} | {""}
    for node in model.graph.node:
        unknown = [name for name in node.input if name not in known]
        if unknown:
            return f"node '{node.name}' reads '{unknown[0]}' before it is written"
        known |= set(node.output)
    return ""


def rename_reads(model: onnx.ModelProto, old: str, new: str) -> None:
    """Let every reader of tensor ``old`` read ``new``."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def replace_node(
    model: onnx.ModelProto, node: onnx.NodeProto, made: Sequence[onnx.NodeProto]
) -> None:
    """Put ``made`` where ``node`` stands."""
    position = list(model.graph.node).index(node)
    del model.graph.node[position]
    for offset, each in enumerate(made):
        model.graph.node.insert(position + offset, each)


def scoped(node: onnx.NodeProto, op: str) -> str:
    """Name of an op that takes the place of ``node``: in the module that ``node`` came from."""
    scope, slash, _ = node.name.rpartition("/")
    return f"{scope}{slash}{op}"
