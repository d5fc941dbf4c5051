"""Conversion of a graph to another ONNX opset; a node that has no equal there is an error.

Which opset is for what: docs/architecture.md, "Opsets".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import helper, inliner, version_converter

from edge_inception.errors import InputError
from edge_inception.graph import check
from edge_inception.graph.check import attribute
from edge_inception.graph.passes import (
    explicit_padding,
    lift_constants,
    plain_reshape,
    reduction_axes,
    slice_shape,
    split_sizes,
)
from edge_inception.graph.support_checks import label, opset_of

OPSET = 18
"""The opset of graphs between import and quantize.

It has LayerNormalization and HardSwish, which engines know by name. Newer ops are expanded.
"""
_OLDER = (
    lift_constants.PASS,  # before the passes that read axes
    explicit_padding.PASS,  # opset 19 changed ceil_mode
    reduction_axes.PASS,  # this and those below for opsets before 18
    split_sizes.PASS,
    plain_reshape.PASS,
    slice_shape.PASS,
)

# Op -> the opset that changed its meaning where its schema does not show it, and which nodes.
# Source: onnx/docs/Changelog.md. The tests compare converted graphs with ONNX's own test data.
_CHANGED: Mapping[str, tuple[int, Callable[[onnx.NodeProto], object]]] = {
    "AveragePool": (19, lambda node: attribute(node, "ceil_mode", 0)),
    "GridSample": (20, lambda node: attribute(node, "mode", b"") != b"nearest"),
    "GroupNormalization": (21, lambda _: True),
    "RoiAlign": (16, lambda _: True),
}
_IS_FUNCTION = ("has_function", "has_context_dependent_function")  # flags of a schema


def convert(model: onnx.ModelProto, opset: int) -> None:
    """Write ``model`` in ``opset``, in place; its function stays.

    To 18 and below, onnx's converter raises it. Downwards, ops that ``opset`` lacks are expanded
    into ONNX's own definitions of them, and other nodes are spelled as before.

    Raises:
        InputError: A node has no equal in ``opset``; the message names it.
    """
    have = opset_of(model)
    if have == opset:
        return
    if have < min(opset, OPSET):
        _raise_opset(model, opset)
        return
    if have > opset:
        _expand(model, opset)
    for each in _OLDER if opset < OPSET else _OLDER[:2]:
        each.call(model)  # without the check of order, which a foreign graph need not keep
    for node in model.graph.node:
        reason = _why_not(node, have, opset)
        if reason:
            raise InputError(
                f"node '{label(node)}' is {node.op_type}, which cannot be written in opset "
                f"{opset}: {reason}",
                hint=f"export with opset_version={opset}, or without {node.op_type}",
            )
    check.set_opset(model, opset)
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)


def _raise_opset(model: onnx.ModelProto, opset: int) -> None:
    try:
        converted = version_converter.convert_version(model, opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise InputError(
            f"onnx cannot convert opset {opset_of(model)} to {opset}: "
            f"{next(iter(str(error).splitlines()), type(error).__name__)}",
            hint=f"export with opset_version={opset}",
        ) from error
    model.CopyFrom(converted)
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)


def _expand(model: onnx.ModelProto, opset: int) -> None:
    """Replace ops that ``opset`` lacks by the nodes that ONNX defines them with, in place.

    Raises:
        InputError: onnx cannot expand an op.
    """
    have = opset_of(model)
    while names := {n.op_type for n in model.graph.node if _is_expanded(n, have, opset)}:
        typed = onnx.ModelProto()
        typed.CopyFrom(model)
        # The inliner knows the type of a weight only if it is listed as a value.
        typed.graph.value_info.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
        )
        ids = [("", name) for name in sorted(names)]
        try:
            inlined = inliner.inline_selected_functions(typed, ids, inline_schema_functions=True)
        except RuntimeError as error:
            raise InputError(
                f"onnx cannot write {', '.join(sorted(names))} in opset {opset}: {error}",
                hint=f"export with opset_version={opset}",
            ) from error
        weights = check.constants(model)
        values = inlined.graph.value_info
        check.replace_items(values, [value for value in values if value.name not in weights])
        model.CopyFrom(inlined)


def _is_expanded(node: onnx.NodeProto, have: int, opset: int) -> bool:
    schema = onnx.defs.get_schema(node.op_type, have, "")
    is_function = any(getattr(schema, flag) for flag in _IS_FUNCTION)
    is_other = not onnx.defs.has(node.op_type, opset, "") or _has_changed(node, have, opset)
    # CastLike comes with such definitions; its second input would stop the folding of constants.
    return bool(is_function and (is_other or node.op_type == "CastLike"))


def _has_changed(node: onnx.NodeProto, have: int, opset: int) -> bool:
    changed, is_concerned = _CHANGED.get(node.op_type, (0, bool))
    is_between = min(have, opset) < changed <= max(have, opset)
    return is_between and bool(is_concerned(node))


def _why_not(node: onnx.NodeProto, have: int, opset: int) -> str:
    """The reason why a node does not mean the same in ``opset``; empty when it does."""
    if not onnx.defs.has(node.op_type, opset, ""):
        return f"it is new in opset {onnx.defs.get_schema(node.op_type, have, '').since_version}"
    ours, theirs = (onnx.defs.get_schema(node.op_type, version, "") for version in (have, opset))
    if ours.since_version == theirs.since_version:
        return ""
    if _has_changed(node, have, opset):
        return f"opset {_CHANGED[node.op_type][0]} changed what it computes"
    unknown = [entry.name for entry in node.attribute if entry.name not in theirs.attributes]
    defaults = {name: ours.attributes[name].default_value for name in unknown}
    check.set_attributes(
        node, *(n for n in unknown if _value(defaults[n]) == attribute(node, n, None))
    )
    left = next((entry.name for entry in node.attribute if entry.name in defaults), "")
    if left:
        return f"attribute {left} is not in opset {opset}"
    if len(node.input) > theirs.max_input or len(node.input) < theirs.min_input:
        return f"it has {len(node.input)} inputs, other than in opset {opset}"
    return ""


def _value(default: onnx.AttributeProto) -> object:
    """The value of a schema's default, None where it has none."""
    return helper.get_attribute_value(default) if default.type else None
