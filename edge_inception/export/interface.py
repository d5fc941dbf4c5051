"""Preprocessing before the network and a head (softmax or top-k) after it, as nodes of the graph.

Both are added to a float graph, float32 [N, 3, H, W] -> [N, classes]: to an exported one by the
stage ``export``, to an imported one by the stage ``interface``. Their nodes are named
``preprocess/...`` and ``head/...``; later stages keep these nodes in float32.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from edge_inception import artifact
from edge_inception.artifact import Graph
from edge_inception.data import images
from edge_inception.errors import InputError
from edge_inception.export.options import InterfaceOptions, interface_provenance
from edge_inception.graph import parity
from edge_inception.graph.check import image_input, load_graph
from edge_inception.spec import HEAD_SCOPE, PREPROCESS_SCOPE, Head, Preprocess

_WHITE = 255.0
_DYNAMIC_BATCH = 2  # number of images in the comparison of a graph with a dynamic batch


def add_interface(graph: Graph, options: InterfaceOptions, out: Path) -> Graph:
    """Write a copy of an imported graph with the preprocessing and head that ``options`` ask for.

    The default options add no node.

    Raises:
        InputError: The graph cannot be read, the head asks for more classes than the graph has, or
            the graph's outputs from uint8 pixels are not exactly those from normalised floats.
    """
    model = load_graph(graph.path)
    facts = graph.details
    preprocess = replace(facts.preprocess, element=options.element, layout=options.layout)
    check_top_k(options.head, facts.num_classes)
    add_preprocessing_and_head(model, preprocess, options.head)
    content: bytes = model.SerializeToString(deterministic=True)
    return artifact.publish(
        Graph,
        out,
        content,
        provenance=interface_provenance(graph, options),
        counts=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        details=replace(
            facts,
            preprocess=preprocess,
            head_text=str(options.head),
            output=options.head.outputs[0],
            input_shape=(facts.input_shape[0], *preprocess.image_shape),
        ),
    )


def add_preprocessing_and_head(model: onnx.ModelProto, preprocess: Preprocess, head: Head) -> None:
    """Add the head to ``model`` in place, and the preprocessing of uint8 pixels.

    With another ``element`` than uint8 the graph takes normalised floats and gets no preprocessing.

    Raises:
        InputError: A top-k head asks for more classes than the graph has, or onnxruntime's outputs
            from uint8 pixels are not exactly those from normalised floats.
    """
    if preprocess.element == "uint8":
        plain = onnx.ModelProto()
        plain.CopyFrom(model)
        add_preprocessing(model, preprocess)
        _require_same_logits(plain, model, preprocess)
    add_head(model, head)


def add_preprocessing(model: onnx.ModelProto, preprocess: Preprocess) -> None:
    """Change ``model`` in place to take uint8 pixels, normalised in it as by ``images.normalise``.

    Before: input float32 [N, 3, H, W] -> nodes.
    After:  input uint8 -> Cast -> [Transpose, for NHWC] -> Div(255) -> Sub(mean) -> Div(std) ->
            nodes. The channels of the pixels are in ``preprocess.channel_order``.
    """
    graph = model.graph
    source = image_input(model)
    constants = {
        "white": np.array(_WHITE, np.float32),
        "mean": np.array(preprocess.mean, np.float32).reshape(1, 3, 1, 1),
        "std": np.array(preprocess.std, np.float32).reshape(1, 3, 1, 1),
    }
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Cast", "cast", "", {"to": TensorProto.FLOAT})
    ]
    if preprocess.layout == "NHWC":
        steps.append(("Transpose", "transpose", "", {"perm": (0, 3, 1, 2)}))
    steps += [("Div", "div", "white", {}), ("Sub", "sub", "mean", {}), ("Div", "div_1", "std", {})]
    nodes, value = [], source.name
    for op, name, constant, attributes in steps:
        result = PREPROCESS_SCOPE + name
        inputs = [value, PREPROCESS_SCOPE + constant] if constant else [value]
        nodes.append(helper.make_node(op, inputs, [result], result, **attributes))
        value = result
    for node in graph.node:
        node.input[:] = [value if name == source.name else name for name in node.input]
    for name, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(array, PREPROCESS_SCOPE + name))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    batch = _batch(source)
    shape = (batch, *preprocess.image_shape)
    source.CopyFrom(helper.make_tensor_value_info(source.name, TensorProto.UINT8, shape))


def add_head(model: onnx.ModelProto, head: Head) -> None:
    """Replace the outputs of ``model`` by those of ``head``, in place; other heads change nothing.

    Before: nodes -> logits.
    softmax: nodes -> logits -> Softmax -> probabilities.
    topk:    nodes -> logits -> Softmax -> TopK -> scores, classes.

    Raises:
        InputError: The head asks for more classes than the model has.
    """
    if head.kind not in {"softmax", "topk"}:
        return
    graph = model.graph
    (output,) = graph.output
    logits, batch = output.name, _batch(output)
    num_classes = output.type.tensor_type.shape.dim[1].dim_value
    softmax, topk = f"{HEAD_SCOPE}softmax", f"{HEAD_SCOPE}top_k"
    first = softmax if head.kind == "topk" else head.outputs[0]
    graph.node.append(helper.make_node("Softmax", [logits], [first], softmax, axis=1))
    del graph.output[:]
    if head.kind == "topk":
        check_top_k(head, num_classes)
        count = f"{HEAD_SCOPE}k"
        graph.initializer.append(numpy_helper.from_array(np.array([head.k], np.int64), count))
        graph.node.append(
            helper.make_node("TopK", [softmax, count], list(head.outputs), topk, axis=1)
        )
    width = head.k or num_classes
    for name, kind in zip(head.outputs, (TensorProto.FLOAT, TensorProto.INT64), strict=False):
        graph.output.append(helper.make_tensor_value_info(name, kind, [batch, width]))


def check_top_k(head: Head, num_classes: int) -> None:
    """Refuse a top-k head that asks for more classes than the model has.

    Raises:
        InputError: ``head.k`` is larger than ``num_classes``.
    """
    if head.k > num_classes:
        raise InputError(
            f"head {head} asks for {head.k} classes, the model has {num_classes}",
            hint=f"wanted topk:1 to topk:{num_classes}",
        )


def _batch(value: onnx.ValueInfoProto) -> int | str:
    size = value.type.tensor_type.shape.dim[0]
    return size.dim_value or size.dim_param or "batch"


def _require_same_logits(
    plain: onnx.ModelProto, folded: onnx.ModelProto, preprocess: Preprocess
) -> None:
    batch = _batch(image_input(plain))
    count = batch if isinstance(batch, int) else _DYNAMIC_BATCH
    shape = (count, *preprocess.input_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    floats = np.ascontiguousarray(images.normalise(pixels, preprocess).transpose(0, 3, 1, 2))
    if preprocess.layout != "NHWC":
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    expected, got = parity.run(plain, floats), parity.run(folded, pixels)
    if not np.array_equal(expected, got):
        difference = float(np.abs(expected - got).max())
        raise InputError(
            "from uint8 pixels the graph computes other logits than from floats, by "
            f"{difference:.1e}",
            hint="report it with the architecture's name, or leave --fold-preprocessing out",
        )
