"""Write the mean over height and width as the pooling op that every engine knows."""

from __future__ import annotations

import math

import onnx
from onnx import helper, numpy_helper

from edge_inception.graph.check import attribute, constants, integers, known_shape
from edge_inception.graph.passes._contract import Pass, replace_node, scoped

_RANK, _SPATIAL = 4, {2, 3}  # [N, C, H, W]
_FLATTENERS = frozenset(("Reshape", "Squeeze"))


def pool_head(model: onnx.ModelProto) -> bool:
    """Turn means over whole maps into GlobalAveragePool, and Reshape or Squeeze into Flatten.

    Before: x -> ReduceMean over [2, 3], keepdims=0 -> [N, C].
    After:  x -> GlobalAveragePool -> [N, C, 1, 1] -> Flatten(axis=1) -> [N, C].

    Before: x -> ReduceMean over [2, 3] | AveragePool of one window, the map -> [N, C, 1, 1].
    After:  x -> GlobalAveragePool -> [N, C, 1, 1].

    Before: [N, C, H, W] -> Reshape | Squeeze to [N, C H W]. After: Flatten(axis=1).
    A Reshape may contain the batch size; Flatten does not, so it works with a dynamic batch.
    """
    changed = [_rewrite_mean(model, node) for node in list(model.graph.node)]
    changed += [_rewrite_pool(model, node) for node in list(model.graph.node)]
    changed += [_rewrite_reshape(model, node) for node in list(model.graph.node)]
    return any(changed)


def _rewrite_mean(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    if node.op_type != "ReduceMean" or len(known_shape(model, node.input[0])) != _RANK:
        return False
    if {axis % _RANK for axis in _axes(model, node)} != _SPATIAL:
        return False
    is_kept = bool(attribute(node, "keepdims", 1))
    result = node.output[0] if is_kept else f"{node.output[0]}.pooled"
    pool = scoped(node, "global_average_pool")
    new = [helper.make_node("GlobalAveragePool", [node.input[0]], [result], pool)]
    if not is_kept:
        flat = scoped(node, "flatten")
        new.append(helper.make_node("Flatten", [result], [node.output[0]], flat, axis=1))
    replace_node(model, node, new)
    return True


def _rewrite_pool(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Turn an AveragePool whose one window holds every pixel into GlobalAveragePool.

    Padding in that window must not count in the average: Caffe2 pads a 6 x 6 map for a 7 x 7
    window.
    """
    if node.op_type != "AveragePool":
        return False
    before, after = known_shape(model, node.input[0]), known_shape(model, node.output[0])
    kernel, pads = integers(node, "kernel_shape"), integers(node, "pads", [0] * 4)
    is_one_window = len(before) == _RANK and after[2:] == [1, 1] and all(before[2:])
    if not is_one_window or (any(pads) and attribute(node, "count_include_pad", 0)):
        return False
    ends = [side - pad for side, pad in zip(kernel, pads[:2], strict=True)]
    is_whole = all(end >= size for end, size in zip(ends, before[2:], strict=True))
    if not is_whole or attribute(node, "auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}:
        return False
    name = scoped(node, "global_average_pool")
    node.CopyFrom(helper.make_node("GlobalAveragePool", node.input, node.output, name))
    return True


def _rewrite_reshape(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Turn a Reshape or Squeeze from [N, C, H, W] to [N, C H W] into Flatten.

    Such a Squeeze is left by onnxsim, which drops a mean over a 1 x 1 map.
    """
    if node.op_type not in _FLATTENERS:
        return False
    before, after = known_shape(model, node.input[0]), known_shape(model, node.output[0])
    if len(before) != _RANK or len(after) != 2 or not after[1]:  # noqa: PLR2004 -- [N, C H W]
        return False
    if after[1] != math.prod(before[1:]):
        return False
    name = scoped(node, "flatten")
    node.CopyFrom(helper.make_node("Flatten", [node.input[0]], [node.output[0]], name, axis=1))
    return True


def _axes(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Axes of a reduction: an attribute before opset 18, a constant input from then on."""
    if len(node.input) > 1 and node.input[1]:
        tensor = constants(model).get(node.input[1])
        return [] if tensor is None else [int(axis) for axis in numpy_helper.to_array(tensor)]
    return integers(node, "axes")


PASS = Pass(name="pool_head", call=pool_head)
