"""Move a Pad into the convolution or pool that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from edge_inception.graph.check import (
    attribute,
    constants,
    integers,
    known_shape,
    readers,
    set_attributes,
)
from edge_inception.graph.passes._contract import Pass
from edge_inception.graph.signs import non_negative

_EXPLICIT = frozenset((b"NOTSET", b"VALID"))
_LOWEST = float(np.finfo(np.float32).min)  # some exporters write this for minus infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Padding:
    """A Pad of tensor ``source``: padding per axis of space, and the value of the padding."""

    source: str
    begins: Sequence[int]
    ends: Sequence[int]
    value: float


def fold_pad(model: onnx.ModelProto) -> bool:
    """Before: x -> Pad(p) -> Conv | AveragePool | MaxPool (pads q). After: x -> the same (p + q).

    TensorFlow's SAME padding, which is asymmetric for even maps, is exported so. A Pad moves into

    1. a Conv, if the Pad fills with zeros.
    2. an AveragePool, if the Pad fills with zeros. These zeros count as pixels, so
       count_include_pad becomes 1; a pool whose own padding does not count keeps its Pad.
    3. a MaxPool, if the Pad fills with minus infinity, or with zeros where no pixel is negative.

    The Pad stays where it pads batch or channels, or by a size that is negative or not constant.
    It also stays where a pool has ceil_mode or dilations, or would be padded by its kernel's size.
    """
    positive = non_negative(model)
    is_modified = False
    for node in list(model.graph.node):
        padding = _read(model, node) if node.op_type == "Pad" else None
        if padding is None:
            continue
        for reader in readers(model, node.output[0]):
            if _takes(reader, padding, is_positive=padding.source in positive):
                _move(reader, padding)
                is_modified = True
    return is_modified


def _read(model: onnx.ModelProto, node: onnx.NodeProto) -> _Padding | None:
    """The padding of a Pad node; None unless constant, not negative and on axes of space only."""
    known = constants(model)
    is_constant = all(name in known for name in node.input[1:] if name)
    if not is_constant or attribute(node, "mode", b"constant") != b"constant":
        return None
    source, sizes, value, axes = (*node.input, "", "")[:4]
    pads = [int(size) for size in numpy_helper.to_array(known[sizes])]
    num_padded, rank = len(pads) // 2, len(known_shape(model, source))
    padded = numpy_helper.to_array(known[axes]).tolist() if axes else range(num_padded)
    places = [axis % rank if rank else axis for axis in padded]
    if min((*pads, *places)) < 0 or (axes and not rank):
        return None
    begins, ends = np.zeros((2, rank or num_padded), np.int64)
    begins[places], ends[places] = pads[:num_padded], pads[num_padded:]
    if begins[:2].any() or ends[:2].any():
        return None
    fill = float(numpy_helper.to_array(known[value]).reshape(-1)[0]) if value else 0.0
    return _Padding(source=source, begins=begins[2:].tolist(), ends=ends[2:].tolist(), value=fill)


def _takes(node: onnx.NodeProto, padding: _Padding, *, is_positive: bool) -> bool:
    """Whether ``node`` gives the same numbers if it pads by itself instead of the Pad."""
    if node.input[0] in node.input[1:] or attribute(node, "auto_pad", b"NOTSET") not in _EXPLICIT:
        return False
    if node.op_type == "Conv":
        return padding.value == 0
    if node.op_type == "AveragePool":
        is_counted = attribute(node, "count_include_pad", 0) or not any(_pads(node, padding))
        return padding.value == 0 and bool(is_counted) and _is_plain(node, padding)
    if node.op_type == "MaxPool":
        is_ignored = padding.value <= _LOWEST or (padding.value == 0 and is_positive)
        return is_ignored and len(node.output) == 1 and _is_plain(node, padding)
    return False


def _is_plain(pool: onnx.NodeProto, padding: _Padding) -> bool:
    """Whether windows have no dilation, no ceil_mode, and at least one pixel each."""
    kernel = integers(pool, "kernel_shape")
    is_dense = all(step == 1 for step in integers(pool, "dilations"))
    is_small = all(
        pad < side for pad, side in zip(_sum(pool, padding), (*kernel, *kernel), strict=True)
    )
    return is_dense and is_small and not attribute(pool, "ceil_mode", 0)


def _pads(node: onnx.NodeProto, padding: _Padding) -> list[int]:
    return integers(node, "pads", [0] * 2 * len(padding.begins))


def _sum(node: onnx.NodeProto, padding: _Padding) -> list[int]:
    added = (*padding.begins, *padding.ends)
    return [old + new for old, new in zip(_pads(node, padding), added, strict=True)]


def _move(node: onnx.NodeProto, padding: _Padding) -> None:
    counted = {"count_include_pad": 1} if node.op_type == "AveragePool" else {}
    set_attributes(node, "auto_pad", pads=_sum(node, padding), **counted)
    node.input[0] = padding.source


PASS = Pass(name="fold_pad", call=fold_pad)
