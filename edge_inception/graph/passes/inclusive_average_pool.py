"""Write an average pool that leaves out padding as one that counts it, times a constant map."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_inception.graph.check import attribute, integers, known_shape, set_attributes
from edge_inception.graph.passes._contract import Pass, on_each, replace_node


def inclusive_average_pool(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Rewrite average pools for engines that always divide by the size of the window.

    Before: x -> AveragePool(count_include_pad = 0, pads) -> y.
    After:  x -> AveragePool(count_include_pad = 1, pads) -> Mul(map) -> y.

    map [1, C, H, W] is the size of the window divided by the number of real pixels in it: 1 inside;
    for 3 x 3 windows, 9/6 at edges and 9/4 in corners. All channels of the map are equal; each is
    written out since DLA multiplies by one number per graph, channel or element, not per pixel.
    y keeps its name and its values. A pool stays if it has no padding, C, H or W is free, or it
    has ceil_mode or dilations.
    """
    sizes, (channels, *windows) = (
        known_shape(model, name)[first:] or [0]
        for name, first in ((node.input[0], 2), (node.output[0], 1))
    )
    kernel, pads = integers(node, "kernel_shape"), integers(node, "pads")
    is_exclusive = any(pads) and not attribute(node, "count_include_pad", 0)
    is_known = all(sizes) and bool(channels) and all(windows)
    is_plain = not attribute(node, "ceil_mode", 0) and not integers(node, "dilations")
    if not (is_exclusive and is_known and is_plain):
        return False
    strides = integers(node, "strides") or [1] * len(kernel)
    factors = np.ones(())
    for size, count, side, stride, begin in zip(
        sizes, windows, kernel, strides, pads, strict=False
    ):
        factors = np.multiply.outer(factors, side / _pixels(size, count, side, stride, begin))
    name, summed = f"{node.output[0]}.map", f"{node.output[0]}.inclusive"
    array = np.broadcast_to(factors.astype(np.float32), (1, channels, *factors.shape)).copy()
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    scale = helper.make_node("Mul", [summed, name], node.output, f"{node.output[0]}/mul")
    pool = onnx.NodeProto()
    pool.CopyFrom(node)
    set_attributes(pool, count_include_pad=1)
    pool.output[0] = summed
    replace_node(model, node, [pool, scale])
    return True


def _pixels(size: int, count: int, side: int, stride: int, begin: int) -> NDArray[np.int64]:
    """Real pixels in each window along one axis."""
    starts = np.arange(count) * stride - begin
    return np.minimum(starts + side, size) - np.maximum(starts, 0)


PASS = Pass(name="inclusive_average_pool", call=on_each(inclusive_average_pool, "AveragePool"))
