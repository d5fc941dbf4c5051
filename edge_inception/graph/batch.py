"""Change of the batch size of an imported graph; a node that fixes the old size is an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph.check import constants, shape_of
from edge_inception.graph.support_checks import label

Shapes = Mapping[str, list[int | str]]
_LARGE = 1024  # elements
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
DYNAMIC_BATCH = "batch"
"""Name of the free size of an imported graph."""


def set_batch(model: onnx.ModelProto, batch: int | str, path: Path) -> None:
    """Let ``model`` take ``batch`` images, a number or the name of a free size, in place.

    A Reshape to ``[1, 1024]`` after a batch of 1 becomes a Reshape to ``[0, 1024]``, where 0 copies
    the size of its input. Shapes of all tensors are inferred again. ``path`` is for messages.

    Raises:
        InputError: An output of some node keeps the old batch; the first such node is named.
    """
    (source,) = model.graph.input
    before = shapes(model)
    old = before[source.name][0]
    if isinstance(old, int):  # also for the same batch: calibration runs several images at once
        _free_reshapes(model, old, before)
    inferred, node = _with_batch(model, before, batch)
    if node is not None:
        got = shapes(inferred).get(node.output[0]) or "no known size"
        raise InputError(
            f"{path}: node '{label(node)}' is {node.op_type}: it gives {got} for a batch of "
            f"{batch}, the graph was made for {old}",
            hint=f"use --batch {old}, or export again with a dynamic batch",
        )
    model.CopyFrom(inferred)


def possible_batch(path: Path, batch: int) -> int:
    """``batch`` if the graph at ``path`` can take that many images at once, else its own batch.

    A transformer that was exported with a fixed batch often cannot.
    """
    model = onnx.load(str(path))
    own = shape_of(model.graph.input[0])[0]
    if not isinstance(own, int) or own == batch:
        return batch
    for tensor in model.graph.initializer:  # inference reads sizes and scales, and copies all
        if math.prod(tensor.dims) > _LARGE:
            tensor.ClearField("raw_data")
    _, node = _with_batch(model, shapes(model), batch)
    return batch if node is None else own


def _with_batch(
    model: onnx.ModelProto, before: Shapes, batch: int | str
) -> tuple[onnx.ModelProto, onnx.NodeProto | None]:
    """A copy for another batch, and the first node that would keep the old one, None if none would.

    The input of ``model`` is changed too.
    """
    old = shape_of(model.graph.input[0])[0]
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    first.Clear()
    if isinstance(batch, int):
        first.dim_value = batch
    else:
        first.dim_param = batch
    _clear_shapes(model)
    inferred = _inferred(model)
    return inferred, _first_of_old_batch(model, old, before, shapes(inferred), batch)


def shapes(model: onnx.ModelProto) -> Shapes:
    """Sizes of every float tensor whose sizes ONNX's shape inference knows, by name."""
    graph = _inferred(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {
        value.name: shape_of(value)
        for value in values
        # integer tensors are left out: the output of Shape has a rank as its size, not a batch
        if value.type.tensor_type.elem_type in _FLOATS
    }


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _clear_shapes(model: onnx.ModelProto) -> None:
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _free_reshapes(model: onnx.ModelProto, old: int, known: Shapes) -> None:
    """Let each Reshape to a constant [old batch, ...] copy the batch of its input instead."""
    tensors = constants(model)
    for index, node in enumerate(model.graph.node):
        target = tensors.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is None or any(entry.name == "allowzero" and entry.i for entry in node.attribute):
            continue
        sizes = numpy_helper.to_array(target).copy()
        if known.get(node.input[0], [None])[:1] == [old] and list(sizes[:1]) == [old]:
            sizes[0] = 0
            free = f"{node.output[0]}/free_shape_{index}"
            model.graph.initializer.append(numpy_helper.from_array(sizes.astype(np.int64), free))
            node.input[1] = free


def _first_of_old_batch(
    model: onnx.ModelProto, old: int | str, before: Shapes, after: Shapes, batch: int | str
) -> onnx.NodeProto | None:
    """The first node with an output [old, ...] that does not get the batch; None if all do."""
    name = model.graph.input[0].name
    from_image = {name}
    node: onnx.NodeProto
    for node in model.graph.node:
        if not from_image.intersection(node.input):
            continue
        outputs = [output for output in node.output if output]
        from_image.update(outputs)
        for output in outputs:
            had_batch = before.get(output, [])[:1] == [old]
            has = next(iter(after.get(output, [])), None)
            # a size that inference leaves free may be right; import compares the logits later
            if had_batch and has != batch and not isinstance(has, str):
                return node
    return None
