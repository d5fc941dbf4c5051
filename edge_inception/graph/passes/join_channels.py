"""Write arithmetic on each channel of an image separately as one Mul and one Add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edge_inception.graph.check import attribute, constants, known_shape
from edge_inception.graph.passes._affine import Affine, read_affine, write_affine
from edge_inception.graph.passes._contract import Pass, on_each

_RANK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Channel:
    """The channel gain * source[:, index] + shift."""

    source: str
    index: int
    gain: float
    shift: float


def join_channels(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Join nodes that split an image into channels, scale and shift each, and concatenate them.

    Before: x -> Gather(i) -> Unsqueeze -> Mul(a_i) -> Add(b_i), for every i -> Concat -> y.
    After:  x -> Mul(a) -> Add(b) -> y, with a and b of shape [1, C, 1, 1].

    PyTorch exports torchvision's ``transform_input`` so. A Slice may take a channel too. The nodes
    stay where a channel is missing, out of order, or from another tensor than the graph's input.
    """
    traced = [_trace(model, name) for name in node.input]
    channels = [each for each in traced if each is not None]
    if len(channels) != len(traced) or len({each.source for each in channels}) != 1:
        return False
    source = channels[0].source
    shape = _shape_of_image(model, source)
    is_whole = shape and [each.index for each in channels] == list(range(shape[1]))
    if not is_whole or attribute(node, "axis", 1) not in {1, 1 - len(shape)}:
        return False
    affine = Affine(
        source=source,
        gain=np.array([each.gain for each in channels]),
        shift=np.array([each.shift for each in channels]),
    )
    write_affine(model, node, affine, rank=len(shape), element=TensorProto.FLOAT)
    return True


def _shape_of_image(model: onnx.ModelProto, name: str) -> list[int]:
    """[N, C, H, W] of a float32 input of the graph; empty for any other tensor."""
    for value in model.graph.input:
        if value.name == name and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            return known_shape(model, name)
    return []


def _trace(model: onnx.ModelProto, name: str) -> _Channel | None:
    """The channel that tensor ``name`` [N, 1, H, W] was computed from, with its gain and shift."""
    known = constants(model)
    writers = {output: node for node in model.graph.node for output in node.output}
    gain, shift = 1.0, 0.0
    while (node := writers.get(name)) is not None:
        affine = read_affine(node, known, rank=_RANK, channels=1)
        if affine is None:
            break
        gain, shift = gain * float(affine.gain[0]), gain * float(affine.shift[0]) + shift
        name = affine.source
    if node is None:
        return None
    taken = _taken_by_slice(node, known) or _taken_by_gather(node, writers, known)
    if taken is None:
        return None
    return _Channel(source=taken[0], index=taken[1], gain=gain, shift=shift)


def _taken_by_slice(
    node: onnx.NodeProto, known: Mapping[str, TensorProto]
) -> tuple[str, int] | None:
    """Names x and channel i if ``node`` is a Slice x[:, i : i + 1], else None."""
    if node.op_type != "Slice" or not all(name in known for name in node.input[1:]):
        return None
    start, end, axes, *step = (numpy_helper.to_array(known[name]) for name in node.input[1:])
    is_single = start.size == 1 and int(end[0]) == int(start[0]) + 1 and int(start[0]) >= 0
    is_plain = axes.tolist() == [1] and all(each.tolist() == [1] for each in step)
    return (node.input[0], int(start[0])) if is_single and is_plain else None


def _taken_by_gather(
    node: onnx.NodeProto, writers: Mapping[str, onnx.NodeProto], known: Mapping[str, TensorProto]
) -> tuple[str, int] | None:
    """Name x and channel i if ``node`` is the Unsqueeze of a Gather x[:, i], else None."""
    if node.op_type != "Unsqueeze" or _constant(node, known).tolist() != [1]:
        return None
    gather = writers.get(node.input[0])
    if gather is None or gather.op_type != "Gather" or attribute(gather, "axis", 0) != 1:
        return None
    index = _constant(gather, known)
    return (gather.input[0], int(index)) if index.shape == () else None


def _constant(node: onnx.NodeProto, known: Mapping[str, TensorProto]) -> NDArray[np.int64]:
    """The constant that is the second input of a node; an empty array if it is not constant."""
    tensor = known.get(node.input[1])
    return np.empty(0, np.int64) if tensor is None else numpy_helper.to_array(tensor)


PASS = Pass(name="join_channels", call=on_each(join_channels, "Concat"))
