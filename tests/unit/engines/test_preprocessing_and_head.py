"""Engines whose graph takes pixels and answers with a head, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import sidecars
import torch
from onnx import TensorProto, helper, numpy_helper

from edge_inception import artifact
from edge_inception.artifact import Provenance, TypedGraph
from edge_inception.data import images
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.errors import InputError
from edge_inception.export import interface
from edge_inception.spec import Head, Precision, Preprocess, ShapeProfile

pytestmark = pytest.mark.cpu_isa

CLASSES, BATCH = 7, 2
HEADS_AND_INPUTS = [
    ("uint8", "NCHW", Head(kind="softmax")),
    ("uint8", "NHWC", Head(kind="topk", k=3)),
    ("float32", "NCHW", Head(kind="topk", k=CLASSES)),
]


def normalise_then(layers, pixels, how):
    """Logits of PyTorch on pixels [N, H, W, 3]."""
    floats = torch.from_numpy(images.normalise(pixels, how).transpose(0, 3, 1, 2).copy())
    conv, weight, bias = (torch.from_numpy(layer) for layer in layers)
    hidden = torch.relu(torch.nn.functional.conv2d(floats, conv, padding=1)).mean(dim=(2, 3))
    return hidden @ weight.T + bias


@pytest.fixture
def case(tmp_path):
    """``case(element, layout, head)``: typed graph, its preprocessing, and its layers."""

    def make(element, layout, head):
        rng = np.random.default_rng(5)
        shapes = {"conv": (4, 3, 3, 3), "fc": (CLASSES, 4), "bias": (CLASSES,)}
        layers = {k: rng.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
        how = Preprocess(
            input_size=(8, 9),
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.3, 0.4),
            element=element,
            layout=layout,
        )
        nodes = [
            helper.make_node("Conv", ["input", "conv"], ["c"], "c/conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "c/relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["g"], "global_average_pool"),
            helper.make_node("Flatten", ["g"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "fc", "bias"], ["logits"], "fc", transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [BATCH, 3, 8, 9])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, CLASSES])],
            [numpy_helper.from_array(v, k) for k, v in layers.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        interface.add_preprocessing_and_head(model, how, head)
        typed = artifact.publish(
            TypedGraph,
            tmp_path / "typed.onnx",
            model.SerializeToString(),
            provenance=Provenance(
                stage="quantize", parents={}, options={}, tools={}, source="test"
            ),
            details=sidecars.typed(
                precision=Precision.FP32,
                num_classes=CLASSES,
                head_text=str(head),
                input_shape=(BATCH, *how.image_shape),
            ),
        )
        return typed, how, list(layers.values())

    return make


def compiled(name, typed):
    backend = backends.backend(name)
    options = CompileOptions(profile=ShapeProfile(min=BATCH, opt=BATCH, max=BATCH))
    return backend.compile(typed, options, typed.path.with_name(f"engine{backend.suffix}"))


def fed(pixels, how):
    values = pixels if how.element == "uint8" else images.normalise(pixels, how)
    return values if how.layout == "NHWC" else values.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("element", "layout", "head"), HEADS_AND_INPUTS)
def test_sessions_answer_as_pytorch(case, name, element, layout, head):
    """Probabilities [N, classes] of pixels; of a top-k head 0 outside the k largest; any N."""
    typed, how, layers = case(element, layout, head)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 9, 3), np.uint8)
    wanted = torch.softmax(normalise_then(layers, pixels, how), dim=1)
    if head.kind == "topk":
        top = torch.topk(wanted, head.k, dim=1)
        wanted = torch.zeros_like(wanted).scatter(1, top.indices, top.values)
    with backends.backend(name).open(compiled(name, typed), SessionOptions(threads=1)) as session:
        got = session.run(fed(pixels, how))
    assert got.dtype == np.float32
    assert np.abs(got - wanted.numpy()).max() < 1e-5  # float32 sums and exponentials, other order


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("element", "layout", "message"),
    [
        ("uint8", "NHWC", "the engine takes uint8 [N, 8, 9, 3], got float32 [1, 3, 8, 9]"),
        ("float32", "NCHW", "the engine takes float32 [N, 3, 8, 9], got uint8 [1, 3, 8, 9]"),
    ],
)
def test_the_other_element_is_refused(case, name, element, layout, message):
    """An engine names what it takes: floats are no pixels, and pixels no floats."""
    typed, _, _ = case(element, layout, Head())
    other = np.zeros((1, 3, 8, 9), np.uint8 if element == "float32" else np.float32)
    session = backends.backend(name).open(compiled(name, typed), SessionOptions(threads=1))
    with session, pytest.raises(InputError) as caught:
        session.run(other)
    assert str(caught.value) == message


@pytest.mark.parametrize(("element", "layout", "head"), HEADS_AND_INPUTS)
def test_rtx_compiles_them(case, element, layout, head):
    """TensorRT-RTX's own parser takes pixels, softmax and top-k."""
    pytest.importorskip("tensorrt_rtx_bindings")
    typed, _, _ = case(element, layout, head)
    engine = compiled("tensorrt_rtx", typed)
    assert engine.path.read_bytes()[:4] == b"vtrt"
