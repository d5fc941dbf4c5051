"""Reading of ONNX files, checks that later stages rely on, small queries and edits of graphs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from edge_inception.errors import InputError
from edge_inception.spec import HEAD_SCOPE

_SCOPES = "pkg.torch.onnx.name_scopes"


def load_graph(path: Path) -> onnx.ModelProto:
    """The ONNX model at ``path`` with its weights in memory.

    Raises:
        InputError: The file is missing, not ONNX, truncated or without nodes, or its external
            weights are missing.
    """
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise InputError(
            f"cannot read graph {path}: {error.strerror}", hint="check the path"
        ) from error
    except DecodeError as error:
        raise InputError(
            f"{path} is truncated or not an ONNX file", hint="export the model again"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise InputError(
            f"{path} is not an ONNX graph: it has no nodes or no opset", hint="check the path"
        )
    _load_external(model, path)
    _require_whole_weights(model, path)
    return model


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    external = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    if not external:
        return
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        location = {entry.key: entry.value for entry in external[0].external_data}.get("location")
        raise InputError(
            f"{path} keeps {len(external)} weights in '{location}', which cannot be read",
            hint="put that file beside it",
        ) from error


def _require_whole_weights(model: onnx.ModelProto, path: Path) -> None:
    tensor = TensorProto()
    try:
        for tensor in model.graph.initializer:
            numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: weight '{tensor.name}' is truncated or malformed: {error}",
            hint="export the model again",
        ) from error


def module_path(node: onnx.NodeProto) -> str:
    """The PyTorch module of a node that torch exported, such as ``features.4.branch1.0``, or empty.

    The last scope that torch writes is no module.
    """
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    names = [name for name in scopes.strip("[]").replace("'", "").split(", ") if name]
    return names[-2] if len(names) > 1 else ""


def make_names_unique(model: onnx.ModelProto) -> None:
    """Number nodes that share a name, since ONNX names should be unique."""
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        seen[node.name] += 1
        if node.name and seen[node.name] > 1:
            node.name = f"{node.name}_{seen[node.name] - 1}"


def node_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Number of nodes of every op, sorted by op."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def require_plain_opset(model: onnx.ModelProto) -> None:
    """Check that the graph uses ONNX's own operators only.

    Raises:
        InputError: The graph imports other operator sets, or none.
    """
    sets = {entry.domain or "ai.onnx" for entry in model.opset_import}
    if sets != {"ai.onnx"}:
        raise InputError(
            f"graph imports operator sets {', '.join(sorted(sets))}; wanted ai.onnx alone",
            hint="export without custom operators",
        )


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes of a tensor; a free size is given by its name, or ``?`` if it has none."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in dims]


def without_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` whose output is the input of its head; ``model`` itself without one."""
    head = [node for node in model.graph.node if node.name.startswith(HEAD_SCOPE)]
    if not head:
        return model
    bare = copy.deepcopy(model)
    graph = bare.graph
    for node in head:
        graph.node.remove(node)
    del graph.output[:]
    logits = helper.make_tensor_value_info(head[0].input[0], TensorProto.FLOAT, [None, None])
    graph.output.append(logits)
    return bare


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The graph's one input that is not a weight; ``require_image_classifier`` has checked it."""
    (source,) = image_inputs(model)
    return source


def image_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs that are not weights; in IR version 3 weights are inputs too."""
    weights = constants(model)
    return [value for value in model.graph.input if value.name not in weights]


def require_image_classifier(model: onnx.ModelProto) -> None:
    """Check types and ranks of one image input and of the outputs of a head.

    The input is float32 [N, 3, H, W], or uint8 of rank 4 where preprocessing is in the graph. The
    outputs have rank 2: one float32 output, or float32 scores and int64 classes.

    Raises:
        InputError: The number, a type or a rank of inputs or outputs is another.
    """
    inputs = image_inputs(model)
    got = [(_type_of(value), len(shape_of(value))) for value in inputs]
    if got not in _INPUTS:
        _refuse("input", inputs, "one float32 or uint8 of rank 4")
    outputs = list(model.graph.output)
    got = [(_type_of(value), len(shape_of(value))) for value in outputs]
    if got not in _OUTPUTS:
        _refuse("output", outputs, "one float32 of rank 2")


_INPUTS = [[(TensorProto.FLOAT, 4)], [(TensorProto.UINT8, 4)]]
_OUTPUTS = [[(TensorProto.FLOAT, 2)], [(TensorProto.FLOAT, 2), (TensorProto.INT64, 2)]]


def _type_of(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _refuse(role: str, values: list[onnx.ValueInfoProto], wanted: str) -> NoReturn:
    got = ", ".join(f"{value.name} {shape_of(value)}" for value in values)
    raise InputError(
        f"graph has {role}s {got or 'none'}, wanted {wanted}",
        hint="an image classifier maps [N, 3, H, W] to logits [N, classes]",
    )


def require_finite(model: onnx.ModelProto) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        InputError: A weight has such values; the message names the weight.
    """
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            num_bad = int(values.size - np.isfinite(values).sum())
            raise InputError(
                f"weight '{tensor.name}' has {num_bad} of {values.size} values NaN or infinite",
                hint="use another checkpoint",
            )


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """Value of an attribute, or ``default``, which should be that of the ONNX specification."""
    return next(
        (helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name),
        default,
    )


def integers(node: onnx.NodeProto, name: str, default: Sequence[int] = ()) -> list[int]:
    """Value of an attribute that is a list of integers, or ``default`` where it is absent."""
    numbers = attribute(node, name, default)
    assert isinstance(numbers, Sequence)
    return [int(number) for number in numbers]


def is_padded(node: onnx.NodeProto) -> bool:
    """Whether a convolution or pool pads its input."""
    auto_pad = attribute(node, "auto_pad", b"NOTSET")
    return any(integers(node, "pads")) or auto_pad not in {b"NOTSET", b"VALID"}


def channel_axis(node: onnx.NodeProto) -> int:
    """Axis of the output channels: Conv [O, I, kh, kw], Gemm [O, I] when transB else [I, O]."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def replace_items(field: Any, items: Iterable[Any]) -> None:
    """Replace the content of a repeated protobuf field; ``items`` may be taken from it."""
    kept = list(items)
    del field[:]
    field.extend(kept)


def set_opset(model: onnx.ModelProto, opset: int) -> None:
    """Let the model import this version of ONNX's own operators and no other set."""
    replace_items(model.opset_import, [helper.make_operatorsetid("", opset)])


def set_attributes(node: onnx.NodeProto, *removed: str, **values: object) -> None:
    """Remove attributes of a node, and set those of ``values``."""
    kept = [entry for entry in node.attribute if entry.name not in {*removed, *values}]
    added = [helper.make_attribute(name, value) for name, value in values.items()]
    replace_items(node.attribute, [*kept, *added])


def rename_tensors(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename tensors wherever they occur; ``names`` maps an old name to the new one."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.name = names.get(item.name, item.name)


def constants(model: onnx.ModelProto) -> Mapping[str, TensorProto]:
    """Initializers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def readers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    """Nodes that read tensor ``name``, in graph order."""
    return [node for node in model.graph.node if name in node.input]


def only_reader(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """The one node that reads ``name``; None with other readers or as an output of the graph."""
    nodes = readers(model, name)
    is_output = any(value.name == name for value in model.graph.output)
    return nodes[0] if len(nodes) == 1 and not is_output else None


def known_shape(model: onnx.ModelProto, name: str) -> list[int]:
    """Sizes of a tensor, 0 where free; empty when unknown."""
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    value = next((value for value in values if value.name == name), None)
    return [] if value is None else [dim.dim_value for dim in value.type.tensor_type.shape.dim]
