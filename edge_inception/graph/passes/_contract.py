"""The record of a graph pass, and what the passes share: running, renaming, replacing nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from edge_inception.errors import EdgeInceptionError


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
        """Run the pass between its two checks; a failed check is a bug of ours, so it asserts."""
        before = self.requires(model)
        assert not before, f"{self.name} requires: {before}"
        is_modified = self.call(model)
        after = self.ensures(model)
        assert not after, f"{self.name} ensures: {after}"
        return is_modified


def run_passes(passes: Sequence[Pass], model: onnx.ModelProto, *, round_number: int = 1) -> bool:
    """Run every pass once, in order, and return whether one of them changed something.

    Args:
        passes: The passes.
        model: The model that is changed in place.
        round_number: Number of this round, from 1 on, for the message of an error.

    Raises:
        EdgeInceptionError: A pass raised one; this one has its class and its hint.
        RuntimeError: A pass raised anything else, which is a bug of ours.
            Both name the pass and those that ran before it, and are chained to the first error.
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


def topological_order(model: onnx.ModelProto) -> str:
    """Why the nodes are out of order, naming the first that reads too early; empty if in order."""
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
    """Put ``new`` where ``node`` stands."""
    position = list(model.graph.node).index(node)
    del model.graph.node[position]
    for offset, each in enumerate(new):
        model.graph.node.insert(position + offset, each)


def scoped(node: onnx.NodeProto, op: str) -> str:
    """Name of a node that replaces ``node``: ``op``, in the module that ``node`` came from."""
    scope, slash, _ = node.name.rpartition("/")
    return f"{scope}{slash}{op}"
