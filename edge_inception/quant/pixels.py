"""The input of an int8 graph without any rounding: its pixels are whole numbers, as int8 is.

Preprocessing makes x = (p / 255 - mean) / std from pixels p = 0..255. With the scale 1 / (255 std)
the 256 values of a channel are 256 steps of int8, once a constant per channel is subtracted. The
layers that read the input get this constant back in their biases, as with folded zero points:

    before  x - Q(max |x| / 127) - DQ - Conv(W, c)
    after   x - Sub(offset) - Q(1 / (255 std)) - DQ - Conv(W, c + sum(W offset))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_inception.graph import check
from edge_inception.quant.placement import Placement
from edge_inception.quant.zero_points import ZERO_POINT, takes_shift
from edge_inception.spec import Preprocess

_TOP = 255.0  # the largest pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelInput:
    """The group of the input, the scale of its pairs, and the constant per channel [3] to subtract.

    The steps of the input minus ``offset`` are those of int8, -128..127.
    """

    root: str
    scale: float
    offset: NDArray[np.float64]


def pixel_input(
    model: onnx.ModelProto, placement: Placement, preprocess: Preprocess
) -> PixelInput | None:
    """The input whose pairs can hold pixels exactly, or None.

    All channels must have one ``std``, since a tensor has one scale. Nothing but layers with int8
    weights and without padding may read the pair: padding inserts 0, which is no pixel.
    """
    name = model.graph.input[0].name
    members = [member for member, root in placement.group_of.items() if root == name]
    stds = set(preprocess.std)
    if preprocess.element != "float32" or members != [name] or len(stds) > 1:
        return None
    is_plain = all(
        takes_shift(model, index, placement, name)
        and check.attribute(model.graph.node[index], "group", 1) == 1
        for index in placement.readers[name]
    )
    if not is_plain:
        return None
    std = stds.pop()
    offset = (ZERO_POINT / _TOP - np.array(preprocess.mean)) / std
    return PixelInput(root=name, scale=1 / (_TOP * std), offset=offset)
