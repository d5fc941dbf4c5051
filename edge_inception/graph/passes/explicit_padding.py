"""Write the padding of convolutions and pools as plain numbers."""

from __future__ import annotations

from typing import NamedTuple

import onnx

from edge_inception.graph.check import (
    attribute,
    constants,
    integers,
    known_shape,
    set_attributes,
)
from edge_inception.graph.passes._contract import Pass, on_each

_MODES = frozenset((b"SAME_UPPER", b"SAME_LOWER"))


class _Axis(NamedTuple):
    """An axis of space, in pixels: input size, dilated kernel size, stride, padding at each end."""

    size: int
    reach: int
    stride: int
    begin: int
    end: int


def explicit_padding(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Replace auto_pad by pads, and ceil_mode by pads of an average pool or by nothing.

    Before: auto_pad = SAME_UPPER. After: pads, the larger half at the end.
    Before: auto_pad = SAME_LOWER. After: pads, the larger half at the beginning.
    Before: auto_pad = VALID. After: no padding.
    Before: ceil_mode = 1, (size + pads - kernel) a multiple of the stride. After: no ceil_mode.
    Before: AveragePool, ceil_mode = 1, pads that do not count. After: pads for the last window.

    A node stays as it is where a size is unknown or free, except for VALID.
    """
    mode = attribute(node, "auto_pad", None)
    if mode == b"VALID":
        set_attributes(node, "auto_pad")
        return True
    axes = _axes(model, node)
    if not axes:
        return False
    if mode in _MODES:
        pads = [_same(axis, is_upper=mode == b"SAME_UPPER") for axis in axes]
        sides = [begin for begin, _ in pads] + [end for _, end in pads]
        set_attributes(node, "auto_pad", pads=sides)
        return True
    if attribute(node, "ceil_mode", 0) and all(_fits(axis) for axis in axes):
        set_attributes(node, "ceil_mode")
        return True
    if node.op_type == "AveragePool" and attribute(node, "ceil_mode", 0):
        return _pad_last_window(node, axes)
    return False


def _pad_last_window(node: onnx.NodeProto, axes: list[_Axis]) -> bool:
    """Replace ceil_mode by pads at the end, unless pads count or a window begins in the end pads.

    From opset 19 on such a window is left out, so that ceil_mode has two meanings.
    """
    ends = []
    for axis in axes:
        steps = -(-(axis.size + axis.begin + axis.end - axis.reach) // axis.stride)
        if steps * axis.stride >= axis.size + axis.begin:
            return False
        ends.append(steps * axis.stride + axis.reach - axis.size - axis.begin)
    pads = [*(axis.begin for axis in axes), *ends]
    if attribute(node, "count_include_pad", 0) and any(integers(node, "pads")):
        return False
    set_attributes(node, "ceil_mode", "count_include_pad", pads=pads)
    return True


def _axes(model: onnx.ModelProto, node: onnx.NodeProto) -> list[_Axis]:
    """The axes of space of a node's input, with its windows; empty when a size is unknown."""
    sizes = known_shape(model, node.input[0])[2:]
    kernel = _kernel(model, node)
    if not sizes or not all(sizes) or len(kernel) != len(sizes):
        return []
    rank = len(sizes)
    strides = integers(node, "strides", [1] * rank)
    dilations = integers(node, "dilations", [1] * rank)
    pads = integers(node, "pads", [0] * 2 * rank)
    reach = [(side - 1) * step + 1 for side, step in zip(kernel, dilations, strict=True)]
    columns = (sizes, reach, strides, pads[:rank], pads[rank:])
    return [_Axis(*row) for row in zip(*columns, strict=True)]


def _kernel(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Kernel size per axis, from the attribute or from a Conv's constant weight."""
    weight = constants(model).get(node.input[1]) if node.op_type == "Conv" else None
    return integers(node, "kernel_shape", list(weight.dims[2:]) if weight is not None else [])


def _same(axis: _Axis, *, is_upper: bool) -> tuple[int, int]:
    """Padding before and after that makes room for ceil(size / stride) windows."""
    windows = -(-axis.size // axis.stride)
    total = max(0, (windows - 1) * axis.stride + axis.reach - axis.size)
    small, large = total // 2, total - total // 2
    return (small, large) if is_upper else (large, small)


def _fits(axis: _Axis) -> bool:
    return (axis.size + axis.begin + axis.end - axis.reach) % axis.stride == 0


PASS = Pass(
    name="explicit_padding", call=on_each(explicit_padding, "Conv", "AveragePool", "MaxPool")
)
