"""Write the mean over height and width as the pooling op that every engine knows."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper, numpy_helper

from edge_inception.graph.check import attribute, constants
from edge_inception.graph.passes._contract import Pass, topological_order

_RANK, _SPATIAL = 4, {2, 3}  # [N, C, H, W]
_FLATTENERS = frozenset(("Reshape", "Squeeze"))


def pool_head(model: onnx.ModelProto) -> bool:
    """Turn ReduceMean over [2, 3] of [N, C, H, W] into GlobalAveragePool, then Flatten.

    Before: x -> ReduceMean(keepdims=0) -> [N, C].
    After:  x -> GlobalAveragePool -> [N, C, 1, 1] -> Flatten(axis=1) -> [N, C].

    Before: x -> ReduceMean(keepdims=1) -> [N, C, 1, 1] -> Reshape | Squeeze to [N, C].
    After:  x -> GlobalAveragePool -> [N, C, 1, 1] -> Flatten(axis=1) -> [N, C].

    Before: [N, C, 1, 1] -> Reshape | Squeeze to [N, C]. After: Flatten(axis=1).
    A Reshape may hold the batch size; Flatten never does, so a dynamic batch survives.
    """
    changed = [_rewrite_mean(model, node) for node in list(model.graph.node)]
    changed += [_rewrite_reshape(model, node) for node in list(model.graph.node)]
    return any(changed)


def _rewrite_mean(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    if node.op_type != "ReduceMean" or len(_shape(model, node.input[0])) != _RANK:
        return False
    if {axis % _RANK for axis in _axes(model, node)} != _SPATIAL:
        return False
    is_kept = bool(attribute(node, "keepdims", 1))
    result = node.output[0] if is_kept else f"{node.output[0]}.pooled"
    position = list(model.graph.node).index(node)
    pool = _scoped(node, "global_average_pool")
    new = [helper.make_node("GlobalAveragePool", [node.input[0]], [result], pool)]
    if not is_kept:
        flat = _scoped(node, "flatten")
        new.append(helper.make_node("Flatten", [result], [node.output[0]], flat, axis=1))
    model.graph.node.remove(node)
    for offset, made in enumerate(new):
        model.graph.node.insert(position + offset, made)
    return True


def _rewrite_reshape(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Turn [N, C, H, W] to [N, C], where H = W = 1 and all elements keep their place, into Flatten.

    Where the last map is 1 x 1 already, onnxsim drops the mean and leaves a Squeeze.
    """
    if node.op_type not in _FLATTENERS:
        return False
    before, after = _shape(model, node.input[0]), _shape(model, node.output[0])
    if len(before) != _RANK or not before[1] or after != before[:2]:
        return False
    name = _scoped(node, "flatten")
    node.CopyFrom(helper.make_node("Flatten", [node.input[0]], [node.output[0]], name, axis=1))
    return True


def _axes(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Axes of a reduction: an attribute before opset 18, a constant input from then on."""
    if len(node.input) > 1 and node.input[1]:
        tensor = constants(model).get(node.input[1])
        return [] if tensor is None else [int(axis) for axis in numpy_helper.to_array(tensor)]
    axes = attribute(node, "axes", [])
    assert isinstance(axes, Sequence)
    return [int(axis) for axis in axes]


def _shape(model: onnx.ModelProto, name: str) -> list[int]:
    """Sizes of a tensor, 0 where free; empty when unknown."""
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    found = next((value for value in values if value.name == name), None)
    return [] if found is None else [dim.dim_value for dim in found.type.tensor_type.shape.dim]


def _scoped(node: onnx.NodeProto, op: str) -> str:
    scope = node.name.rpartition("/")[0]
    return f"{scope}/{op}"


PASS = Pass(name="pool_head", call=pool_head, ensures=topological_order)
