"""interface: pixels in and heads out, against numpy, PyTorch and onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper

from edge_inception.data import images
from edge_inception.errors import InputError
from edge_inception.export import interface
from edge_inception.graph import check, parity
from edge_inception.graph.simplify import simplify_model
from edge_inception.spec import Head, Preprocess

CLASSES = 7
HOW = Preprocess(
    input_size=(6, 9), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), element="uint8"
)


@pytest.fixture
def classifier():
    """``classifier(batch)``: Conv, Relu, mean over the image, Flatten, Gemm."""

    def make(batch=1):
        rng = np.random.default_rng(5)
        weights = {
            "conv": rng.standard_normal((4, 3, 3, 3)),
            "fc.weight": rng.standard_normal((CLASSES, 4)) * 4,
            "fc.bias": rng.standard_normal(CLASSES),
        }
        nodes = [
            helper.make_node("Conv", ["data_0", "conv"], ["c"], "c/conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "c/relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["g"], "global_average_pool"),
            helper.make_node("Flatten", ["g"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [batch, 3, 6, 9])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    return make


def run(model, fed, *names):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(list(names) or None, {session.get_inputs()[0].name: fed})


def every_pixel():
    """uint8 [N, 6, 9, 3] in which each channel takes every value from 0 to 255."""
    values = np.arange(5 * 6 * 9, dtype=np.uint8).reshape(5, 6, 9)
    return np.stack([values, values[::-1], values + np.uint8(77)], axis=-1)


def shown(model, name):
    """``model`` with tensor ``name`` as another output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy


@pytest.mark.parametrize("is_simplified", [False, True])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_are_normalised_bit_for_bit(classifier, layout, is_simplified):
    """Behind the preprocessing lie exactly the floats of images.preprocess_image, for every value.

    Simplification keeps it so; the logits are then those of the floats, equal to the last bit.
    """
    plain, how = classifier("batch"), structs.replace(HOW, layout=layout)
    folded = classifier("batch")
    interface.add_preprocessing_and_head(folded, how, Head())
    if is_simplified:
        plain, folded = simplify_model(plain), simplify_model(folded)
    onnx.checker.check_model(folded, full_check=True)
    pixels = every_pixel()
    floats = images.normalise(pixels, how).transpose(0, 3, 1, 2).copy()
    fed = pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2).copy()
    seen = run(shown(folded, "preprocess/div_1"), fed, "preprocess/div_1")[0]
    assert np.array_equal(seen.view(np.uint32), floats.view(np.uint32))
    assert np.array_equal(run(folded, fed)[0], run(plain, floats)[0])
    names = [node.name for node in folded.graph.node if node.name.startswith("preprocess/")]
    turned = ["preprocess/transpose"] if layout == "NHWC" else []
    assert names == [
        "preprocess/cast",
        *turned,
        "preprocess/div",
        "preprocess/sub",
        "preprocess/div_1",
    ]


def test_pytorch_agrees(classifier):
    """The arithmetic is (x / 255 - mean) / std in float32, as torch computes it too."""
    folded = classifier(1)
    interface.add_preprocessing_and_head(folded, HOW, Head())
    pixels = every_pixel()[:1].transpose(0, 3, 1, 2).copy()
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (HOW.mean, HOW.std))
    wanted = (torch.from_numpy(pixels).float() / 255 - mean) / std
    seen = run(shown(folded, "preprocess/div_1"), pixels, "preprocess/div_1")[0]
    assert np.array_equal(seen, wanted.numpy())


def test_difference_is_refused(classifier, monkeypatch):
    """A graph whose preprocessing computes something else is never handed on."""
    monkeypatch.setattr(interface, "_WHITE", 256.0)
    with pytest.raises(InputError, match="from uint8 pixels the graph computes other logits"):
        interface.add_preprocessing_and_head(classifier(), HOW, Head())


def test_float_graph_stays(classifier):
    """float32 and logits change nothing."""
    model = classifier()
    interface.add_preprocessing_and_head(model, HOW.normalised, Head())
    assert model == classifier()


@pytest.mark.parametrize("is_simplified", [False, True])
@pytest.mark.parametrize("batch", [2, "batch"])
@pytest.mark.parametrize("head", [Head(kind="softmax"), Head(kind="topk", k=3)], ids=str)
def test_heads_are_those_of_pytorch(classifier, head, batch, is_simplified):
    """Probabilities are softmax of the logits; top-k are its largest, first the largest."""
    plain, model = classifier(batch), classifier(batch)
    interface.add_preprocessing_and_head(model, HOW.normalised, head)
    onnx.checker.check_model(model, full_check=True)
    if is_simplified:
        model = simplify_model(model)
    fed = np.random.default_rng(2).standard_normal((2, 3, 6, 9)).astype(np.float32)
    wanted = torch.softmax(torch.from_numpy(run(plain, fed)[0]), dim=1)
    got = run(model, fed)
    assert tuple(value.name for value in model.graph.output) == head.outputs
    if head.kind == "topk":
        scores, classes = torch.topk(wanted, head.k, dim=1)
        assert got[1].dtype == np.int64
        assert np.array_equal(got[1], classes.numpy())
        wanted = scores
    assert np.abs(got[0] - wanted.numpy()).max() < 1e-6  # float32 exponentials of two libraries
    assert [node.name for node in model.graph.node if node.name.startswith("head/")] == [
        "head/softmax",
        "head/top_k",
    ][: len(head.outputs)]


def test_more_classes_than_there_are(classifier):
    """The largest K is the number of classes."""
    interface.add_head(classifier(), Head(kind="topk", k=CLASSES))
    with pytest.raises(InputError) as caught:
        interface.add_head(classifier(), Head(kind="topk", k=CLASSES + 1))
    assert str(caught.value) == "head topk:8 asks for 8 classes, the model has 7"
    assert caught.value.hint == "wanted topk:1 to topk:7"


@pytest.mark.parametrize("head", [Head(kind="softmax"), Head(kind="topk", k=1)], ids=str)
def test_parity_looks_at_the_logits(classifier, head):
    """A change that a saturated softmax hides is still seen, in float and in uint8 graphs."""
    first, second = classifier(), classifier()
    bias = next(t for t in second.graph.initializer if t.name == "fc.bias")
    values = numpy_helper.to_array(bias) + np.float32(1.0)  # softmax does not see a common offset
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    for model in (first, second):
        interface.add_preprocessing(model, HOW)
        interface.add_head(model, head)
        check.require_image_classifier(model)
    assert parity.largest_difference(first, first, seed=0) == 0
    assert parity.largest_difference(first, second, seed=0) > 1e-3
