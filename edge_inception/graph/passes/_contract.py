"""The record of a graph pass, and functions that passes share: running, renaming, replacing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from edge_inception.errors import EdgeInceptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One rewrite of a graph, in place, that leaves the nodes in topological order.

    ``call`` returns whether it changed anything; a second call must return False.
    """

    name: str
    call: Callable[[onnx.ModelProto], bool]

    def __call__(self, model: onnx.ModelProto) -> bool:
        """Run the pass and check the order of nodes; a wrong order is a bug of the pass."""
        is_modified = self.call(model)
        disorder = _first_disorder(model)
        assert not disorder, f"{self.name}: {disorder}"
        return is_modified


def on_each(
    rewrite: Callable[[onnx.ModelProto, onnx.NodeProto], bool], *ops: str
) -> Callable[[onnx.ModelProto], bool]:
    """The ``call`` of a pass that rewrites each node of these ops on its own."""

    def call(model: onnx.ModelProto) -> bool:
        nodes = [node for node in model.graph.node if node.op_type in ops]
        changed = [rewrite(model, node) for node in nodes]
        return any(changed)

    return call


def run_passes(passes: Sequence[Pass], model: onnx.ModelProto, *, round_number: int = 1) -> bool:
    """Run every pass once, in order, and return whether any of them changed the model.

    Raises:
        EdgeInceptionError: A pass raised an EdgeInceptionError; class and hint are the same.
        RuntimeError: A pass raised any other error, which is a bug of ours.
            Both messages name the pass, the round and the passes before it; the first error is the
            cause.
    """
    is_modified, done = False, list[Pass]()
    try:
        for each in passes:
            is_modified |= each(model)
            done.append(each)
    except Exception as error:
        before = ", ".join(each.name for each in done) or "no other"
        where = f"pass {passes[len(done)].name}, round {round_number}, after {before}"
        if isinstance(error, EdgeInceptionError):
            raise type(error)(f"{error} ({where})", hint=error.hint) from error
        raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error
    return is_modified


def _first_disorder(model: onnx.ModelProto) -> str:
    """The first node that reads a tensor before it is written; empty if nodes are in order."""
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {value.name for value in model.graph.input} | {""}
    for node in model.graph.node:
        unknown = [name for name in node.input if name not in known]
        if unknown:
            return f"node '{node.name}' reads '{unknown[0]}' before it is written"
        known |= set(node.output)
    return ""


def rename_reads(model: onnx.ModelProto, old: str, new: str) -> None:
    """Let every reader of tensor ``old`` read tensor ``new`` instead."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def replace_node(
    model: onnx.ModelProto, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]
) -> None:
    """Replace ``node`` by the nodes ``new``, at the same place in the order."""
    position = list(model.graph.node).index(node)
    del model.graph.node[position]
    for offset, each in enumerate(new):
        model.graph.node.insert(position + offset, each)


def scoped(node: onnx.NodeProto, op: str) -> str:
    """Name for a node that replaces ``node``: the module path of ``node``, a slash and ``op``."""
    scope, slash, _ = node.name.rpartition("/")
    return f"{scope}{slash}{op}"
