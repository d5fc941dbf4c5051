"""Checks that an imported graph can be handled; an error names the node, its op and the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import onnx
from onnx import TensorProto

from edge_inception.errors import InputError
from edge_inception.graph.check import attribute, constants, image_inputs, shape_of
from edge_inception.graph.macs import OWN_DOMAINS

OPSETS = range(7, 25)  # the opsets that can be imported, 7 to 24
_NCHW, _RGB = 4, 3
# The opset that adds training_mode to BatchNormalization; before, a second output means training.
_TRAINING_SINCE = 14

# Kind of refused op -> reason, hint, ops.
_REASONS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "quantized": (
        "the graph is already quantized",
        "import the float graph that it was made from",
        (
            "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv",
            "QLinearMatMul", "ConvInteger", "MatMulInteger",
        ),
    ),
    "control flow": (
        "engines take no control flow",
        "export for inference with a fixed image size",
        ("If", "Loop", "Scan"),
    ),
    "sequence": (
        "it handles sequences or optionals, not tensors",
        "export a model whose input and output are plain tensors",
        (
            "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
            "SequenceLength", "SequenceMap", "SplitToSequence", "ConcatFromSequence", "Optional",
            "OptionalGetElement", "OptionalHasElement",
        ),
    ),
    "random": (
        "its output is random",
        "export for inference, after model.eval()",
        (
            "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
            "RandomUniformLike",
        ),
    ),
    "size": (
        "the size of its output depends on the pixels",
        "export the classifier alone, without pre- or postprocessing",
        ("Compress", "NonMaxSuppression", "NonZero", "Unique"),
    ),
}  # fmt: skip
_REFUSED = {op: (why, hint) for why, hint, ops in _REASONS.values() for op in ops}


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators; 0 when the graph imports none."""
    return max((e.version for e in model.opset_import if e.domain in OWN_DOMAINS), default=0)


def label(node: onnx.NodeProto) -> str:
    """The name of a node for messages; for an unnamed node, the names of the tensors it writes."""
    return str(node.name) or f"-> {', '.join(filter(None, node.output))}"


def require_supported(model: onnx.ModelProto, path: Path) -> None:
    """Check the opset, the weights and every node of an imported graph.

    Raises:
        InputError: The opset is not 7 to 24, a weight is sparse, or a node cannot be handled.
    """
    opset = opset_of(model)
    if opset not in OPSETS:
        raise InputError(
            f"{path} is of opset {opset or 'none'}, wanted {OPSETS[0]} to {OPSETS[-1]}",
            hint="export with opset_version=18",
        )
    if model.graph.sparse_initializer:
        raise InputError(
            f"{path} has {len(model.graph.sparse_initializer)} sparse weights, wanted dense ones",
            hint="export without sparse initializers",
        )
    for node in model.graph.node:
        for why, hint in _objections(node, model, opset):
            raise InputError(f"{path}: node '{label(node)}' is {node.op_type}: {why}", hint=hint)


def _objections(
    node: onnx.NodeProto, model: onnx.ModelProto, opset: int
) -> Iterator[tuple[str, str]]:
    if node.domain not in OWN_DOMAINS:
        yield (
            f"operator of domain '{node.domain}', not of ONNX",
            "export without custom operators; save before onnxruntime optimises the graph",
        )
    elif node.op_type in _REFUSED:
        yield _REFUSED[node.op_type]
    elif not onnx.defs.has(node.op_type, opset, ""):
        yield f"opset {opset} has no such operator", "check the file with onnx.checker"
    elif _is_training(node, model, opset):
        yield "it is in training mode", "export for inference, after model.eval()"


def _is_training(node: onnx.NodeProto, model: onnx.ModelProto, opset: int) -> bool:
    if node.op_type == "BatchNormalization":
        if opset >= _TRAINING_SINCE:
            return bool(attribute(node, "training_mode", 0))
        return len([name for name in node.output if name]) > 1
    if node.op_type == "Dropout" and len(node.input) > 2:  # noqa: PLR2004 -- data, ratio, mode
        flag = constants(model).get(node.input[2])
        return flag is None or bool(onnx.numpy_helper.to_array(flag))
    return False


def require_image_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """The one input that is not a weight, checked to be float32 [N, 3, H, W].

    Raises:
        InputError: There is not exactly one input, or its type, rank or channels are others.
    """
    inputs = image_inputs(model)
    if len(inputs) != 1:
        _refuse_values(path, "inputs", inputs, "one image")
    source = inputs[0]
    shape = shape_of(source)
    if source.type.tensor_type.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(source.type.tensor_type.elem_type).lower()
        raise InputError(
            f"{path}: input '{source.name}' is {kind}, wanted float32 [N, 3, H, W]",
            hint="export without preprocessing; --fold-preprocessing adds it to the graph",
        )
    if len(shape) == _NCHW and shape[3] == _RGB and shape[1] != _RGB:
        raise InputError(
            f"{path}: input '{source.name}' is {shape}, channels last, wanted [N, 3, H, W]",
            hint="export with channels first (tf2onnx: --inputs-as-nchw)",
        )
    if len(shape) != _NCHW or shape[1] != _RGB:
        _refuse_values(path, "input", [source], "[N, 3, H, W]")
    return source


def require_class_output(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """The one output, checked to be float32.

    Raises:
        InputError: There is not exactly one output, or its type is not float32.
    """
    outputs = list(model.graph.output)
    if len(outputs) != 1:
        _refuse_values(path, "outputs", outputs, "one, the logits")
    output: onnx.ValueInfoProto = outputs[0]
    if output.type.tensor_type.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(output.type.tensor_type.elem_type).lower()
        raise InputError(
            f"{path}: output '{output.name}' is {kind}, wanted float32 [N, classes]",
            hint="export the model without ArgMax or TopK; --head topk:K adds it",
        )
    return output


def _refuse_values(
    path: Path, role: str, values: list[onnx.ValueInfoProto], wanted: str
) -> NoReturn:
    got = ", ".join(f"'{value.name}' {shape_of(value)}" for value in values) or "none"
    raise InputError(
        f"{path} has {role} {got}, wanted {wanted}",
        hint="an image classifier maps one [N, 3, H, W] to [N, classes]",
    )
