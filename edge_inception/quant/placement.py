"""Which tensors carry a Q/DQ pair: the placement, read from the graph and a policy.

One pair per tensor, read by all of its consumers in ``WEIGHTED_OPS`` and ``POOL_OPS``, so that
compilers keep one int8 copy of it. Concat, Relu and Flatten get none: a pair behind them serves.
MaxPool alone has a pair on both sides, with one scale, since TensorRT-RTX does not move Q/DQ across
it. That is the default; ``policies`` lists the others.

A residual Add reads its identity through the pair that the convolutions of its block read, and the
convolution it adds as it is: then convolution, sum and ReLU are one int8 kernel. The identity is
the input with fewer nodes between it and the network's input; where both are convolutions, that is
the projection.

LRN, Softmax, TopK, what prepares the image and what follows the last layer get no pair.

Tensors with one scale, and the layers that read them through their pairs, are a group: what the
precision search weighs and ``keep`` names.

Source: "Working with Quantized Types", TensorRT docs; InceptionQDQCase and ResNet50V1QDQCase in
tools/tensorflow-quantization, NVIDIA/TensorRT v8.6.1.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_inception.errors import InputError
from edge_inception.quant.policies import SANDWICH, Policy, Residual

WEIGHTED_OPS = frozenset(("Conv", "Gemm"))
POOL_OPS = frozenset(("AveragePool", "GlobalAveragePool", "MaxPool"))
_LAYERS = (
    WEIGHTED_OPS | POOL_OPS | {"ConvTranspose", "MatMul", "QuantizeLinear", "DequantizeLinear"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A float initializer that becomes int8: its name and its output channel axis."""

    name: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the pairs go.

    ``scale_of`` maps every tensor with a pair to the tensor that its group is named after, whose
    scale it uses: itself, for a MaxPool output the tensor that was pooled, and with
    ``tie_concat`` the first of those around the Concat. ``readers`` maps it to the indices of the
    nodes that read the pair instead of the tensor. ``weights`` maps node index to weight,
    ``identities`` that of every residual Add that reads a pair to its identity input.
    ``kept`` are the groups that have none because they stay float.
    """

    scale_of: Mapping[str, str]
    readers: Mapping[str, frozenset[int]]
    weights: Mapping[int, Weight]
    identities: Mapping[int, str]
    kept: frozenset[str] = frozenset()


def place(
    model: onnx.ModelProto, policy: Policy = SANDWICH, keep: Collection[str] = frozenset()
) -> Placement:
    """The placement of a simplified graph.

    A Conv or Gemm whose weight is not a constant stays float; counting it is the caller's business.

    Args:
        model: Simplified.
        policy: Which tensors get a pair.
        keep: Names of groups that stay float: no pair, and float weights where they are read.

    Raises:
        InputError: ``keep`` names no group of this graph.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    weights = {
        index: Weight(name=node.input[1], axis=_channel_axis(node))
        for index, node in enumerate(graph.node)
        if node.op_type in WEIGHTED_OPS and node.input[1] in constants
    }
    identities = {} if policy.residual is Residual.FLOAT else _identities(graph, constants)
    read = {
        index: frozenset(node.input[:1]) - constants
        for index, node in enumerate(graph.node)
        if index in weights or (node.op_type in POOL_OPS and policy.pools)
    }
    is_both = policy.residual is Residual.BOTH
    for index, identity in identities.items():
        read[index] = frozenset(graph.node[index].input if is_both else (identity,))
    scale_of = _scales(graph, read, policy)
    if policy.tie_concat:
        _tie_concats(graph, scale_of, read, constants)
    found = Placement(
        scale_of=scale_of,
        readers={name: frozenset(i for i in read if name in read[i]) for name in scale_of},
        weights=weights,
        identities=identities,
    )
    return _without(found, {*_required(found, keep), *_ends(found, graph, policy)})


def groups(placement: Placement, model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Name of every group -> names of the layers that read one of its pairs, in graph order."""
    nodes = model.graph.node
    return {
        root: tuple(nodes[index].name or nodes[index].output[0] for index in indices)
        for root, indices in group_readers(placement).items()
    }


def group_readers(placement: Placement) -> dict[str, list[int]]:
    """Name of every group -> indices of the nodes that read one of its pairs, ascending."""
    read: dict[str, set[int]] = {root: set() for root in placement.scale_of.values()}
    for name, root in placement.scale_of.items():
        read[root] |= placement.readers[name]
    return {root: sorted(indices) for root, indices in read.items()}


def _scales(
    graph: onnx.GraphProto, read: dict[int, frozenset[str]], policy: Policy
) -> dict[str, str]:
    """Tensor with a pair -> its group; enters what reads a MaxPool's output into ``read``."""
    outputs = {value.name for value in graph.output}
    scale_of: dict[str, str] = {}
    root_of: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        for source in sorted(read.get(index, ()), key=list(node.input).index):
            scale_of.setdefault(source, root_of.get(source, source))
        if node.op_type != "MaxPool" or not policy.pools:
            continue
        root_of[node.output[0]] = scale_of[node.input[0]]
        if policy.maxpool_outputs and node.output[0] not in outputs:
            scale_of[node.output[0]] = root_of[node.output[0]]
            _read_by_all(graph, node.output[0], read, policy)
    return scale_of


def _read_by_all(
    graph: onnx.GraphProto, name: str, read: dict[int, frozenset[str]], policy: Policy
) -> None:
    """Everyone reads a MaxPool through its pair, but a sum that is to be float."""
    for index, node in enumerate(graph.node):
        is_float = node.op_type == "Add" and policy.residual is Residual.FLOAT
        if name in node.input and not is_float:
            read[index] = read.get(index, frozenset()) | {name}


def _tie_concats(
    graph: onnx.GraphProto,
    scale_of: dict[str, str],
    read: dict[int, frozenset[str]],
    constants: set[str],
) -> None:
    """Give what enters a Concat the group of what leaves it, where that has one.

    Groups that meet become one, named after the first of them. Outer Concats come first, so that
    an inner one's output has its group by then.
    """
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "Concat" or node.output[0] not in scale_of:
            continue
        sources = [name for name in node.input if name not in constants]
        met = {scale_of[name] for name in (*sources, node.output[0]) if name in scale_of}
        first = next(root for root in scale_of.values() if root in met)
        scale_of |= {name: first for name, root in scale_of.items() if root in met}
        scale_of |= dict.fromkeys(sources, first)
        read[index] = frozenset(sources)


def _required(placement: Placement, keep: Collection[str]) -> Collection[str]:
    """``keep``, all of which are groups.

    Raises:
        InputError: One is not.
    """
    known = set(placement.scale_of.values())
    for name in keep:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.0)
            raise InputError(
                f"no group '{name}' to keep in float",
                hint=f"did you mean one of {', '.join(near)}? a group is called what the range "
                f"table calls scale_of; this graph has {len(known)}",
            )
    return keep


def _ends(placement: Placement, graph: onnx.GraphProto, policy: Policy) -> set[str]:
    """The groups that the first and last weighted layers read, as many as the policy says."""
    layers = sorted(placement.weights)
    last = layers[len(layers) - policy.float_last :]
    chosen = {graph.node[index].input[0] for index in (*layers[: policy.float_first], *last)}
    return {placement.scale_of[name] for name in chosen if name in placement.scale_of}


def _without(placement: Placement, kept: Collection[str]) -> Placement:
    """The placement less these groups: no pair, and whatever reads one of their tensors is float.

    A sum that reads another group as well keeps the pair of that one.
    """
    gone = {name for name, root in placement.scale_of.items() if root in kept}
    is_float = {index for name in gone for index in placement.readers[name]}
    return Placement(
        scale_of={n: root for n, root in placement.scale_of.items() if n not in gone},
        readers={n: indices for n, indices in placement.readers.items() if n not in gone},
        weights={i: weight for i, weight in placement.weights.items() if i not in is_float},
        identities={i: n for i, n in placement.identities.items() if n not in gone},
        kept=frozenset(kept),
    )


def _identities(graph: onnx.GraphProto, constants: set[str]) -> dict[int, str]:
    """Index of every Add of two computed tensors between layers -> its identity input."""
    depth = dict.fromkeys(constants | {value.name for value in graph.input}, 0)
    inner, found = between_layers(graph), {}
    for index, node in enumerate(graph.node):
        level = 1 + max((depth[name] for name in node.input if name), default=0)
        depth |= dict.fromkeys(node.output, level)
        if node.op_type == "Add" and index in inner and not constants.intersection(node.input):
            found[index] = min(node.input, key=lambda name: depth[name])
    return found


def between_layers(graph: onnx.GraphProto) -> frozenset[int]:
    """Indices of the layers, and of all nodes with a layer both before and behind them.

    Layers have weights, pool or quantize. The rest prepares the image or follows the last layer.
    """
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type in _LAYERS or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()
    found = []
    for index, node in reversed(list(enumerate(graph.node))):
        is_layer = node.op_type in _LAYERS
        if is_layer or before.intersection(node.output):
            before.update(node.input)
            if is_layer or behind.intersection(node.output):
                found.append(index)
    return frozenset(found)


def _channel_axis(node: onnx.NodeProto) -> int:
    """Axis of the output channels: Conv [O, I, kh, kw], Gemm [O, I] when transB else [I, O]."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else 1


def require_finite_weights(model: onnx.ModelProto) -> None:
    """Check every float initializer.

    Raises:
        InputError: One holds NaN or infinity.
    """
    for name, values in float_initializers(model.graph):
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        if bad:
            raise InputError(
                f"weight '{name}' holds {bad} of {values.size} values that are NaN or infinite",
                hint="the checkpoint is broken; train or download it again",
            )


def float_initializers(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and values of every float32 initializer."""
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)
