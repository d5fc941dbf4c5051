"""Scales for int8 without Q/DQ: which tensors get a scale, and which must share one.

TensorRT up to 10.x, and DLA up to TensorRT 10.7, quantize a float graph themselves if they are
given one scale per tensor. A layer is int8 if its input and output have scales; DLA silently runs
other layers in float16. So every tensor between layers gets a scale, and the tensors of a group
share a scale where DLA requires it. Constants get no scale: the factors by which a rewritten
average pool multiplies, 1 to 2.25, would be off by 1 % in int8.

Source: DLA Supported Layers and Restrictions, TensorRT docs (pool, concatenation);
IElementWiseLayer in NvInfer.h (both inputs); qdq-translator of
NVIDIA/Deep-Learning-Accelerator-SW (ReLU, views).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edge_inception.errors import InputError
from edge_inception.graph.check import constants, image_inputs, only_reader
from edge_inception.quant.placement import Placement, between_layers, place_pairs
from edge_inception.quant.ranges import TensorRange, group_ranges, tensor_scales

_POOLS = frozenset(("MaxPool", "AveragePool"))
VIEW_OPS = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Ops that move values without changing them: their input and output share a scale."""
_JOINS = frozenset(("Add", "Max", "Min", "Mul", "Sub", "Sum"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """The scales of a calibration cache, in graph order.

    ``scale_of`` maps a tensor to its scale, amax / 127 rounded to a float16 number. ``unscaled``
    names the input and the computed tensors without a scale: those before the first layer, and
    those from the last layer on.
    """

    scale_of: Mapping[str, np.float32]
    unscaled: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of scaled tensors, distinct scales and unscaled tensors, for a sidecar."""
        return {
            "num_scaled": len(self.scale_of),
            "num_distinct_scales": len({scale.tobytes() for scale in self.scale_of.values()}),
            "num_unscaled": len(self.unscaled),
        }


def implicit_scales(model: onnx.ModelProto, observed: Mapping[str, TensorRange]) -> Scales:
    """The scales of a graph after the rewrites for DLA, from the ranges of its simplified graph.

    Tensors that share a scale use the largest amax that was observed among them. A tensor has the
    name that it has in the simplified graph, if it exists there.

    Raises:
        InputError: A tensor between layers has no range, in the table or derived from another
            tensor's, or its scale is beyond float16.
    """
    group_of, ranges = _shared_ranges(model, observed)
    scale_of = tensor_scales({name: ranges[group_of[name]].amax for name in _inner_tensors(model)})
    computed = [value.name for value in image_inputs(model)]
    computed += [name for node in model.graph.node for name in node.output if name]
    return Scales(
        scale_of=scale_of,
        unscaled=tuple(name for name in computed if name not in scale_of),
    )


def dla_placement(
    model: onnx.ModelProto, observed: Mapping[str, TensorRange]
) -> tuple[Placement, Mapping[str, TensorRange]]:
    """The placement of Q/DQ pairs with the scales of ``implicit_scales``, and the group ranges.

    Both arguments are those of ``implicit_scales``. A graph with these pairs is for DLA with
    strongly typed networks, where all layers need scales. Any engine can compute the graph, so it
    also shows the accuracy that the calibration cache gives. A pair behind a ReLU makes a pair
    before it superfluous. The last layer has no scale behind it and keeps float weights.

    Raises:
        InputError: As ``implicit_scales``.
    """
    group_of, ranges = _shared_ranges(model, observed)
    graph, default, scaled = model.graph, place_pairs(model), _inner_tensors(model)
    inner = between_layers(graph)
    before_relu = {node.input[0] for node in graph.node if _is_sole_relu(model, node)}
    paired = [name for name in scaled if name not in before_relu]
    placement = Placement(
        group_of={name: group_of[name] for name in paired},
        readers={
            name: frozenset(i for i in inner if name in graph.node[i].input) for name in paired
        },
        weights={i: w for i, w in default.weights.items() if graph.node[i].output[0] in scaled},
        identities=default.identities,
    )
    return placement, ranges


def _shared_ranges(
    model: onnx.ModelProto, observed: Mapping[str, TensorRange]
) -> tuple[Mapping[str, str], Mapping[str, TensorRange]]:
    """Tensor -> the group that shares its scale, and group -> the largest range in it."""
    missing = tensors_to_observe(model, observed)
    if missing:
        raise InputError(
            f"the range table has no amax for {len(missing)} tensors that int8 on DLA needs, "
            f"first '{missing[0]}'",
            hint="calibrate this graph again",
        )
    group_of = _groups(model)
    return group_of, group_ranges(group_of, observed)


def tensors_to_observe(model: onnx.ModelProto, observed: Collection[str]) -> list[str]:
    """Tensors to observe besides ``observed`` so that every tensor between layers has a range.

    Plain Inceptions have no such tensor. Residual networks have the output of the convolution that
    an Add adds; networks with LRN have its input. If a ReLU follows a convolution, the output of
    the ReLU is observed instead of its input, since its range is narrower.
    """
    covered = set(observed)
    _cover_neighbours(model, covered)
    missing = []
    for name in reversed(_inner_tensors(model)):
        if name not in covered:
            missing.append(name)
            covered.add(name)
            _cover_neighbours(model, covered)
    return missing[::-1]


def _inner_tensors(model: onnx.ModelProto) -> list[str]:
    """Inner tensors, in graph order: inputs and results that nodes between layers read.

    What MatMuls alone read is left out: products of two computed tensors stay float, and OpenVINO
    fuses the Transpose before them, so that calibration could not watch its result.
    """
    graph, stored = model.graph, constants(model)
    inner = [i for i in between_layers(graph) if graph.node[i].op_type != "MatMul"]
    read = {name for index in inner for name in graph.node[index].input} - set(stored) - {""}
    computed = [value.name for value in graph.input]
    computed += [name for node in graph.node for name in node.output]
    return [name for name in computed if name in read]


def _inner_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, list[str]]]:
    """Inner nodes, those that ``between_layers`` gives, with their inputs that are no constants."""
    stored = constants(model)
    for index in sorted(between_layers(model.graph)):
        node = model.graph.node[index]
        yield node, [name for name in node.input if name and name not in stored]


def _is_sole_relu(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether ``node`` is the only reader of its input and a ReLU: the input needs no range."""
    return node.op_type == "Relu" and only_reader(model, node.input[0]) is not None


def _cover_neighbours(model: onnx.ModelProto, covered: set[str]) -> None:
    """Add to ``covered`` all tensors whose values lie in the range of covered tensors."""
    before = -1
    while len(covered) != before:
        before = len(covered)
        for node, sources in _inner_nodes(model):
            result = node.output[0]
            if node.op_type in VIEW_OPS | {"Concat"} or _is_sole_relu(model, node):
                if result in covered:
                    covered.update(sources)
                elif covered.issuperset(sources):
                    covered.add(result)
            elif node.op_type in _POOLS and sources[0] in covered:
                covered.add(result)


def _groups(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor between layers -> the tensor that names its group; a group shares a scale."""
    leader: dict[str, str] = {}

    def representative(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for node, sources in _inner_nodes(model):
        tied = sources if node.op_type in _JOINS else []
        is_same = node.op_type in _POOLS | VIEW_OPS | {"Concat"}
        if is_same or _is_sole_relu(model, node):
            tied = [*sources, node.output[0]]
        for name in tied:
            leader[representative(name)] = representative(tied[0])
    return {name: representative(name) for name in (*leader, *_inner_tensors(model))}
