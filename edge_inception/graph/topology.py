"""Division of a network into blocks of parallel branches, for drawings.

A layer is a node that an engine runs on its own; activations, casts, Q/DQ and reshapes belong to
the layer they follow. A layer that every path passes is a *cut*. The layers between two cuts make a
block; adjacent cuts with nothing between them make one block, a chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import onnx

from edge_inception.graph.check import integers
from edge_inception.graph.statistics import Layer, statistics
from edge_inception.graph.support_checks import label
from edge_inception.records import Record

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


class DrawnLayer(Record, frozen=True, kw_only=True):
    """A layer with its ``label``, such as ``conv 1x7``, and its costs; None means unknown.

    ``sizes`` are those of its output; a free size is given by its name. ``precision`` is int8 or
    float, None without a typed graph. ``inputs`` are indices of layers; -1 stands for the image.
    """

    name: str
    op: str
    label: str
    sizes: tuple[int | str, ...] | None
    macs: int | None
    num_parameters: int
    precision: str | None
    inputs: tuple[int, ...]


class Block(Record, frozen=True, kw_only=True):
    """The layers between two cuts and, as the last one, the later cut; or a chain of cuts.

    ``layers`` are indices of layers. ``entry`` is the index of the layer that the block reads, -1
    for the image.
    """

    name: str
    entry: int
    layers: tuple[int, ...]


class Topology(Record, frozen=True, kw_only=True):
    """The layers of a network in graph order, and the blocks that they make."""

    layers: tuple[DrawnLayer, ...]
    blocks: tuple[Block, ...]


def describe(model: onnx.ModelProto, typed: onnx.ModelProto | None = None) -> Topology:
    """Layers and blocks of a simplified graph, and each layer's precision if ``typed`` is given.

    ``typed`` is a graph that ``quantize`` made from ``model``; its Q/DQ nodes show the precision.

    Raises:
        InputError: Shapes of the graph cannot be inferred, or its nodes are out of order.
    """
    costs = {layer.name: layer for layer in statistics(model).layers}
    precisions = _precisions(typed) if typed is not None else {}
    layer_of = {value.name: IMAGE for value in model.graph.input}
    layers: list[DrawnLayer] = []
    for node in model.graph.node:
        reads = [layer_of[name] for name in node.input if name in layer_of]
        if not reads:  # computed from constants
            continue
        own = reads[0]
        if node.op_type not in _PART_OF_ANOTHER:
            own = len(layers)
            name = label(node)
            inputs = tuple(dict.fromkeys(reads))
            layers.append(_layer(node, costs.get(name), inputs, precisions.get(name)))
        layer_of.update(dict.fromkeys(node.output, own))
    in_order = blocks([layer.inputs for layer in layers], [layer.name for layer in layers])
    return Topology(layers=tuple(layers), blocks=tuple(in_order))


def _layer(
    node: onnx.NodeProto, cost: Layer | None, inputs: tuple[int, ...], precision: str | None
) -> DrawnLayer:
    word = _WORDS.get(node.op_type, node.op_type.lower())
    window = "x".join(map(str, integers(node, "kernel_shape")))
    return DrawnLayer(
        name=label(node),
        op=node.op_type,
        label=f"{word} {window}" if window else word,
        sizes=tuple(cost.sizes) if cost and cost.sizes else None,
        macs=cost.macs if cost else None,
        num_parameters=cost.num_parameters if cost else 0,
        precision=precision,
        inputs=inputs,
    )


def _precisions(typed: onnx.ModelProto) -> dict[str, str]:
    """Name of a node -> ``int8`` or ``float``.

    A node is int8 if it reads a DequantizeLinear, or if it is a Concat whose result is quantized:
    engines quantize the branches first and then join them.
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
    """Indices, in order, of the cuts: layers on every path from the image to the last layer.

    ``inputs`` are the indices that each layer reads. Since graph order is topological, a layer is a
    cut when no edge leads from before it to behind it.
    """
    readers: dict[int, int] = {}
    for index, sources in enumerate(inputs):
        for source in sources:
            readers[source] = index
    indices = []
    reaches = readers.get(IMAGE, 0)  # the last layer that the image or an earlier layer feeds
    for index in range(len(inputs)):
        if reaches <= index:
            indices.append(index)
        reaches = max(reaches, readers.get(index, index))
    return indices


def blocks(inputs: Sequence[Sequence[int]], names: Sequence[str]) -> Iterator[Block]:
    """Blocks in order; ``inputs`` are as in ``cuts``, ``names`` are the layers' names."""
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


def _block(entry: int, layers: list[int], names: Sequence[str], *, is_chain: bool = False) -> Block:
    """A block, named by the common start of its layers' names, a chain by its first and last."""
    owners = [names[index].partition("/")[0] for index in layers]
    together = zip(*(owner.split(".") for owner in owners), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, together)]
    name = ".".join(shared) or owners[-1]
    if is_chain and len(owners) > 1:
        name = f"{owners[0]} to {owners[-1]}"
    return Block(name=name, entry=entry, layers=tuple(layers))
