"""A network as blocks of parallel branches, as JSON that is drawn where no onnx is.

A layer is a node that an engine runs on its own; activations, casts, Q/DQ and reshapes belong to
the layer they follow. A layer that every path passes is a *cut*; what lies between two cuts is a
block, and cuts in a row are one block, a chain.

The record, ``schema`` "edge-inception/layers", ``schema_version`` 1: ``layers`` in graph order,
each ``name``, ``op``, ``label`` such as ``conv 1x7``, ``sizes`` of its output or null, ``macs``,
``num_parameters``, ``precision`` or null, ``inputs`` (indices of layers, -1 is the image); and
``blocks``, each ``name``, ``entry`` (an index or -1), ``layers`` and ``exit`` (indices, ``exit`` is
the last of ``layers``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import onnx

from edge_inception.graph.check import integers
from edge_inception.graph.statistics import Layer, statistics
from edge_inception.graph.support_checks import label

SCHEMA = "edge-inception/layers"
SCHEMA_VERSION = 1
IMAGE = -1
_PART_OF_ANOTHER = frozenset(
    (
        "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Dropout", "Flatten", "Identity",
        "LeakyRelu", "QuantizeLinear", "Relu", "Reshape", "Sigmoid", "Softmax", "Squeeze",
        "Transpose", "Unsqueeze",
    )
)  # fmt: skip
_WORDS: Mapping[str, str] = {
    "Conv": "conv", "MaxPool": "max", "AveragePool": "avg", "GlobalAveragePool": "mean",
    "ReduceMean": "mean", "Concat": "concat", "Gemm": "dense", "MatMul": "dense", "Add": "add",
    "Mul": "scale",
}  # fmt: skip


def describe(model: onnx.ModelProto, typed: onnx.ModelProto | None = None) -> dict[str, Any]:
    """The record of a simplified graph.

    Args:
        model: The simplified graph.
        typed: What quantize made of it, for the precision of each layer.

    Raises:
        InputError: Its shapes cannot be inferred, or its nodes are out of order.
    """
    costs = {layer.name: layer for layer in statistics(model).layers}
    precisions = _precisions(typed) if typed is not None else {}
    made = {value.name: IMAGE for value in model.graph.input}
    layers: list[dict[str, Any]] = []
    for node in model.graph.node:
        reads = [made[name] for name in node.input if name in made]
        if not reads:  # computed from constants
            continue
        own = reads[0]
        if node.op_type not in _PART_OF_ANOTHER:
            own = len(layers)
            name = label(node)
            inputs = list(dict.fromkeys(reads))
            layers.append(_layer(node, costs.get(name), inputs, precisions.get(name)))
        made.update(dict.fromkeys(node.output, own))
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "layers": layers,
        "blocks": list(blocks([layer["inputs"] for layer in layers], [x["name"] for x in layers])),
    }


def _layer(
    node: onnx.NodeProto, cost: Layer | None, inputs: list[int], precision: str | None
) -> dict[str, Any]:
    word = _WORDS.get(node.op_type, node.op_type.lower())
    window = "x".join(map(str, integers(node, "kernel_shape")))
    return {
        "name": label(node),
        "op": node.op_type,
        "label": f"{word} {window}" if window else word,
        "sizes": list(cost.sizes) if cost and cost.sizes else None,
        "macs": cost.macs if cost else None,
        "num_parameters": cost.num_parameters if cost else 0,
        "precision": precision,
        "inputs": inputs,
    }


def _precisions(typed: onnx.ModelProto) -> dict[str, str]:
    """Name of a node -> ``int8`` or ``float``.

    A node is int8 that reads a DequantizeLinear, and a Concat whose result is quantized: engines
    join the branches after they are.
    """
    makers = {name: node.op_type for node in typed.graph.node for name in node.output}
    quantized = {n.input[0] for n in typed.graph.node if n.op_type == "QuantizeLinear"}
    return {
        label(node): "int8"
        if makers.get(node.input[0]) == "DequantizeLinear"
        or (node.op_type == "Concat" and node.output[0] in quantized)
        else "float"
        for node in typed.graph.node
        if node.input and node.op_type not in _PART_OF_ANOTHER
    }


def cuts(inputs: Sequence[Sequence[int]]) -> list[int]:
    """Layers that every path from the image to the last layer passes, in order.

    A layer is one when no edge jumps over it: graph order is topological.
    """
    readers: dict[int, int] = {}
    for index, sources in enumerate(inputs):
        for source in sources:
            readers[source] = index
    found = []
    reaches = readers.get(IMAGE, 0)  # the last layer that the image or an earlier one feeds
    for index in range(len(inputs)):
        if reaches <= index:
            found.append(index)
        reaches = max(reaches, readers.get(index, index))
    return found


def blocks(inputs: Sequence[Sequence[int]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Blocks in order: what lies between two cuts with the later one, or a chain of cuts."""
    entry, chain = IMAGE, list[int]()
    last = IMAGE
    for cut in cuts(inputs):
        inner = range(last + 1, cut + 1)
        if len(inner) == 1:
            entry = entry if chain else last
            chain.append(cut)
        else:
            if chain:
                yield _block(entry, chain, names, is_chain=True)
            chain = []
            yield _block(last, list(inner), names)
        last = cut
    if chain:
        yield _block(entry, chain, names, is_chain=True)


def _block(
    entry: int, layers: list[int], names: Sequence[str], *, is_chain: bool = False
) -> dict[str, Any]:
    """A block, named by the parts that all names in it start with, a chain by its ends."""
    owners = [names[index].partition("/")[0] for index in layers]
    together = zip(*(owner.split(".") for owner in owners), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, together)]
    name = ".".join(shared) or owners[-1]
    if is_chain and len(owners) > 1:
        name = f"{owners[0]} to {owners[-1]}"
    return {"name": name, "entry": entry, "layers": layers, "exit": layers[-1]}
