"""The placement of Q/DQ pairs: which tensors carry a pair, by the graph and a policy.

A tensor has at most one pair, which all its consumers in ``WEIGHTED_OPS`` and ``POOL_OPS`` read, so
that compilers keep one int8 copy of the tensor. The inputs of Concat, Relu and Flatten get no pair
for these ops, since a pair behind them is enough. Only MaxPool has a pair on both sides, with the
same scale, since TensorRT-RTX does not move Q/DQ across it. This is the default policy;
``policies`` lists the others.

A residual Add reads its identity input through the pair that the convolutions of its block read.
It reads the output of the last convolution without a pair, so that convolution, sum and ReLU become
one int8 kernel. The identity is the input with fewer nodes between it and the network's input; if
both inputs are outputs of convolutions, it is the projection.

LRN, Softmax, TopK, nodes that prepare the image and nodes behind the last layer get no pair.

A group is the tensors that share a scale, with the layers that read them through their pairs. The
precision search ranks groups, and ``keep`` names the groups that stay float.

Source: "Working with Quantized Types", TensorRT docs; InceptionQDQCase and ResNet50V1QDQCase in
tools/tensorflow-quantization, NVIDIA/TensorRT v8.6.1.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from edge_inception.errors import InputError
from edge_inception.graph.check import channel_axis
from edge_inception.quant.policies import SANDWICH, Policy, Residual

WEIGHTED_OPS = frozenset(("Conv", "Gemm"))
POOL_OPS = frozenset(("AveragePool", "GlobalAveragePool", "MaxPool"))
_LAYERS = (
    WEIGHTED_OPS | POOL_OPS | {"ConvTranspose", "MatMul", "QuantizeLinear", "DequantizeLinear"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A float initializer that becomes int8: its name, and the axis of its output channels."""

    name: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The tensors and weights of a graph that are quantized.

    ``group_of`` maps every tensor with a pair to the root of its group: the tensor that the group
    is named after and whose scale it uses. The root is the tensor itself, for a MaxPool output the
    tensor that was pooled, and with ``tie_concat`` the first of the tensors around the Concat.
    ``readers`` maps a tensor with a pair to the indices of the nodes that read the pair instead of
    the tensor. ``weights`` maps the index of a node to its weight that becomes int8. ``identities``
    maps the index of a residual Add that reads a pair to its identity input. ``kept`` has the names
    of the groups that stay float and have no pair.
    """

    group_of: Mapping[str, str]
    readers: Mapping[str, frozenset[int]]
    weights: Mapping[int, Weight]
    identities: Mapping[int, str]
    kept: frozenset[str] = frozenset()


def place_pairs(
    model: onnx.ModelProto, policy: Policy = SANDWICH, keep: Collection[str] = frozenset()
) -> Placement:
    """The placement of Q/DQ pairs in a simplified graph by a policy.

    A Conv or Gemm whose weight is not an initializer stays float. Groups named in ``keep`` have no
    pair, and the layers that read them have float weights.

    Raises:
        InputError: ``keep`` names no group of this graph.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    weights = {
        index: Weight(name=node.input[1], axis=channel_axis(node))
        for index, node in enumerate(graph.node)
        if node.op_type in WEIGHTED_OPS and node.input[1] in constants
    }
    makers = {name: node.op_type for node in graph.node for name in node.output}
    identities = {} if policy.residual is Residual.FLOAT else _identities(graph, constants)
    read = {
        index: frozenset(node.input[:1]) - constants
        for index, node in enumerate(graph.node)
        if index in weights or (policy.pools and _is_quantized_pool(node, makers))
    }
    is_both = policy.residual is Residual.BOTH
    for index, identity in identities.items():
        read[index] = frozenset(graph.node[index].input if is_both else (identity,))
    group_of = _find_groups(graph, read, policy)
    if policy.tie_concat:
        _tie_concats(graph, group_of, read, constants)
    placement = Placement(
        group_of=group_of,
        readers={name: frozenset(i for i in read if name in read[i]) for name in group_of},
        weights=weights,
        identities=identities,
    )
    _require_groups(placement, keep)
    return _keep_float(placement, {*keep, *_end_groups(placement, graph, policy)})


def _is_quantized_pool(node: onnx.NodeProto, makers: Mapping[str, str]) -> bool:
    """Whether ``node`` is a pool, but not an average between a convolution and its ReLU.

    Values before a ReLU have both signs, and rounding them gains nothing: the engine averages what
    the convolution computes.
    """
    is_inner = node.op_type == "AveragePool" and makers.get(node.input[0]) in WEIGHTED_OPS
    return node.op_type in POOL_OPS and not is_inner


def group_readers(placement: Placement) -> dict[str, list[int]]:
    """Group -> indices of the nodes that read one of its pairs, ascending."""
    read: dict[str, set[int]] = {root: set() for root in placement.group_of.values()}
    for name, root in placement.group_of.items():
        read[root] |= placement.readers[name]
    return {root: sorted(indices) for root, indices in read.items()}


def _find_groups(
    graph: onnx.GraphProto, read: dict[int, frozenset[str]], policy: Policy
) -> dict[str, str]:
    """Tensor with a pair -> its group; adds the readers of MaxPool outputs to ``read``."""
    outputs = {value.name for value in graph.output}
    group_of: dict[str, str] = {}
    root_of: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        for source in sorted(read.get(index, ()), key=list(node.input).index):
            group_of.setdefault(source, root_of.get(source, source))
        if node.op_type != "MaxPool" or not policy.pools:
            continue
        root_of[node.output[0]] = group_of[node.input[0]]
        if policy.maxpool_outputs and node.output[0] not in outputs:
            group_of[node.output[0]] = root_of[node.output[0]]
            _add_readers(graph, node.output[0], read, policy)
    return group_of


def _add_readers(
    graph: onnx.GraphProto, name: str, read: dict[int, frozenset[str]], policy: Policy
) -> None:
    """Let all readers of a MaxPool output read its pair, except Adds that stay float."""
    for index, node in enumerate(graph.node):
        is_float = node.op_type == "Add" and policy.residual is Residual.FLOAT
        if name in node.input and not is_float:
            read[index] = read.get(index, frozenset()) | {name}


def _tie_concats(
    graph: onnx.GraphProto,
    group_of: dict[str, str],
    read: dict[int, frozenset[str]],
    constants: set[str],
) -> None:
    """Give the inputs of a Concat the group of its output, if the output has one.

    Groups that meet at a Concat become one group, named after the first of them. Of nested Concats
    the outer one comes first, so that the output of the inner Concat then has its group.
    """
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Concat" or node.output[0] not in group_of:
            continue
        sources = [name for name in node.input if name not in constants]
        joined = {group_of[name] for name in (*sources, node.output[0]) if name in group_of}
        first = next(root for root in group_of.values() if root in joined)
        group_of |= {name: first for name, root in group_of.items() if root in joined}
        group_of |= dict.fromkeys(sources, first)
        read[index] = frozenset(sources)


def _require_groups(placement: Placement, keep: Collection[str]) -> None:
    """Check that ``keep`` names groups of the placement."""
    known = set(placement.group_of.values())
    for name in keep:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.0)
            raise InputError(
                f"no group '{name}' to keep in float",
                hint=f"did you mean one of {', '.join(near)}? a group is called what the range "
                f"table calls scale_of; this graph has {len(known)}",
            )


def _end_groups(placement: Placement, graph: onnx.GraphProto, policy: Policy) -> set[str]:
    """The groups that the first and last weighted layers read, as many as the policy states."""
    layers = sorted(placement.weights)
    last = layers[len(layers) - policy.float_last :]
    chosen = {graph.node[index].input[0] for index in (*layers[: policy.float_first], *last)}
    return {placement.group_of[name] for name in chosen if name in placement.group_of}


def _keep_float(placement: Placement, kept: Collection[str]) -> Placement:
    """The placement without the pairs of the groups ``kept``; the layers that read them are float.

    An Add that also reads a group that is not kept keeps reading that group's pair.
    """
    removed = {name for name, root in placement.group_of.items() if root in kept}
    is_float = {index for name in removed for index in placement.readers[name]}
    return Placement(
        group_of={n: root for n, root in placement.group_of.items() if n not in removed},
        readers={n: indices for n, indices in placement.readers.items() if n not in removed},
        weights={i: weight for i, weight in placement.weights.items() if i not in is_float},
        identities={i: n for i, n in placement.identities.items() if n not in removed},
        kept=frozenset(kept),
    )


def _identities(graph: onnx.GraphProto, constants: set[str]) -> dict[int, str]:
    """Index of every Add of two computed tensors that lies between layers -> its identity input."""
    depth = dict.fromkeys(constants | {value.name for value in graph.input}, 0)
    inner, identities = between_layers(graph), {}
    for index, node in enumerate(graph.node):
        level = 1 + max((depth[name] for name in node.input if name), default=0)
        depth |= dict.fromkeys(node.output, level)
        if node.op_type == "Add" and index in inner and not constants.intersection(node.input):
            identities[index] = min(node.input, key=lambda name: depth[name])
    return identities


def between_layers(graph: onnx.GraphProto) -> frozenset[int]:
    """Indices of the layers, and of all nodes with a layer both before and behind them.

    A layer is a node that has weights, pools or quantizes. All other nodes, which are left out,
    prepare the image or follow the last layer.
    """
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type in _LAYERS or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()
    indices = []
    for index, node in reversed(list(enumerate(graph.node))):
        is_layer = node.op_type in _LAYERS
        if is_layer or before.intersection(node.output):
            before.update(node.input)
            if is_layer or behind.intersection(node.output):
                indices.append(index)
    return frozenset(indices)
