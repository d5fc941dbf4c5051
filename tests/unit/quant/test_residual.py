"""Residual networks: which pairs they get, and that int8 computes what the typed graph says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from msgspec import structs
from onnx import TensorProto

from edge_inception.data import images
from edge_inception.engines import onnxruntime as reference
from edge_inception.engines import openvino as engine
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.graph import signs
from edge_inception.quant import placement
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import FloatRest, QuantizeOptions, Typing
from edge_inception.quant.ranges import read_table
from edge_inception.spec import Precision, ShapeProfile

pytestmark = pytest.mark.cpu_isa

INT8 = QuantizeOptions(precision=Precision.INT8)
SPELLINGS = {
    "strong": INT8,
    "strong_fp32": QuantizeOptions(precision=Precision.INT8, float_rest=FloatRest.FP32),
    "weak": QuantizeOptions(precision=Precision.INT8, typing=Typing.WEAK),
}


def readers(model, found):
    """Tensor -> outputs of the nodes that read its pair."""
    return {
        name: {model.graph.node[index].output[0] for index in indices}
        for name, indices in found.readers.items()
    }


def test_every_add_reads_its_identity_through_the_pair_of_its_block(residual):
    """The projection where both inputs are convolutions, else what the block's layers read."""
    model = residual()
    assert readers(model, placement.place_pairs(model)) == {
        "input": {"stem.c"},
        "stem": {"pooled"},
        "pooled": {"a1.c", "down"},
        "a1": {"a2"},
        "down": {"sum_a"},
        "x": {"b1.c", "b2.c", "sum_b"},
        "b2": {"b3.c"},
        "joined": {"b4"},
        "y": {"c1.c", "z"},
        "c1": {"c2"},
        "z": {"last.c"},
        "local": {"mean"},
        "flat": {"logits"},
    }


def test_the_convolution_of_a_residual_branch_is_added_as_it_is(residual):
    """No pair on the longer side of any Add, whichever input it is."""
    found = placement.place_pairs(residual())
    assert not {"a2", "b4", "c2"} & set(found.group_of)
    assert sorted(found.identities.values()) == ["down", "x", "y"]


@pytest.mark.parametrize("head", ["softmax", "topk"])
def test_a_head_gets_no_pair(residual, head):
    """Softmax and TopK read floats."""
    plain, with_head = placement.place_pairs(residual()), placement.place_pairs(residual(head=head))
    assert with_head.group_of == plain.group_of


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_pair_of_the_input_is_behind_the_preprocessing(residual, layout):
    """Pixels have none; the normalised image has one."""
    found = placement.place_pairs(residual(element="uint8", layout=layout)).group_of
    assert "image" in found
    assert not {"input", "preprocess/cast", "preprocess/div", "preprocess/sub"} & set(found)


def test_a_chain_of_sums_has_a_pair_on_each_short_side(residual):
    """Sum of three becomes Add of Add: the inner sum is the longer side of the outer."""
    model = residual()
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "z")
    outer = onnx.helper.make_node("Add", ["z.inner", "x"], ["z"])
    model.graph.node[index].output[0] = "z.inner"
    model.graph.node.insert(index + 1, outer)
    found = placement.place_pairs(model)
    assert found.identities[index] == "y"
    assert found.identities[index + 1] == "x"


def test_a_sum_behind_the_last_layer_stays_float(residual):
    """Two heads added: logits have no pair."""
    model = residual()
    last = model.graph.node[-1]
    twin = onnx.helper.make_node("Gemm", list(last.input), ["twin"], transB=1)
    last.output[0] = "first"
    model.graph.node.append(twin)
    model.graph.node.append(onnx.helper.make_node("Add", ["first", "twin"], ["logits"]))
    found = placement.place_pairs(model)
    assert len(found.identities) == 3
    assert not {"first", "twin"} & set(found.group_of)


def test_signs_of_a_residual_network(residual):
    """Sums and bare convolutions may be negative; LRN keeps the sign of what it scales."""
    found = signs.non_negative(residual())
    assert {"stem", "pooled", "x", "y", "last", "local", "mean", "flat"} <= found
    assert not {"input", "down", "sum_a", "z", "b4"} & found


def test_adds_are_counted(residual, save, photos, options, tmp_path):
    """Three of three; a graph without sums has no such count."""
    graph = save(residual())
    table = calibrate(graph, photos, options, tmp_path / "ranges.json")
    typed = quantize(graph, table, INT8, tmp_path / "typed.onnx")
    assert (typed.counts["adds_quantized"], typed.counts["adds_total"]) == (3, 3)


def test_an_add_of_a_constant_is_no_residual(residual):
    """A shift that follows a layer is not counted and gets no pair."""
    model = residual()
    shift = onnx.numpy_helper.from_array(np.ones((1, 12, 1, 1), np.float32), "shift")
    model.graph.initializer.append(shift)
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "last.c")
    model.graph.node[index].input[0] = "shifted"
    model.graph.node.insert(index, onnx.helper.make_node("Add", ["z", "shift"], ["shifted"]))
    assert sorted(placement.place_pairs(model).identities.values()) == ["down", "x", "y"]


def elements(model):
    """Tensor -> element type, as ONNX's own inference sees it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("head", ["logits", "softmax", "topk"])
def test_float16_leaves_preparation_lrn_and_head_in_float32(residual, save, tmp_path, layout, head):
    """The checker accepts the graph, and only what lies between the layers is float16."""
    graph = save(residual(element="uint8", layout=layout, head=head))
    options = QuantizeOptions(precision=Precision.FP16)
    model = onnx.load(str(quantize(graph, None, options, tmp_path / "typed.onnx").path))
    found = elements(model)
    full = {"preprocess/cast", "preprocess/div", "image", "last", "local", "logits"}
    assert {found[name] for name in full} == {TensorProto.FLOAT}
    half = {"image.float16", "stem", "pooled", "x", "z", "last.float16", "local.float16", "flat"}
    assert {found[name] for name in half} == {TensorProto.FLOAT16}
    assert found["input"] == TensorProto.UINT8


def test_a_weight_of_both_parts_is_kept_in_both_types(residual, save, tmp_path):
    """A constant that the head and a layer share is float32 for one and float16 for the other."""
    model = residual()
    two = onnx.numpy_helper.from_array(np.float32(2.1).reshape(()), "two")
    model.graph.initializer.append(two)
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "last.c")
    model.graph.node[index].input[0] = "doubled"
    model.graph.node.insert(index, onnx.helper.make_node("Mul", ["z", "two"], ["doubled"]))
    model.graph.node[-1].output[0] = "halved"
    model.graph.node.append(onnx.helper.make_node("Mul", ["halved", "two"], ["logits"]))
    options = QuantizeOptions(precision=Precision.FP16)
    found = onnx.load(str(quantize(save(model), None, options, tmp_path / "typed.onnx").path))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in found.graph.initializer}
    assert values["two"] == np.float32(2.1)
    assert values["two.float16"] == np.float16(2.1)


def decibels(got, wanted):
    noise = np.square(got - wanted).sum() + 1e-12 * np.square(wanted).sum()  # 120 dB: float32
    return 10 * np.log10(np.square(wanted).sum() / noise)


@pytest.mark.parametrize("name", SPELLINGS)
def test_openvino_computes_the_typed_graph(residual, save, photos, options, tmp_path, name):
    """All blocks, LRN and both signs: OpenVINO's int8 engine equals onnxruntime on the same graph.

    Between the pairs OpenVINO computes in float32, so a value next to the edge of two levels may
    fall to either, and with a float16 rest onnxruntime rounds every tensor: that leaves 47 dB here.
    A saturated sum or a lost scale leaves 25 dB or less; quantization itself leaves 20 to 30.
    """
    graph = save(residual())
    table = calibrate(graph, photos, options, tmp_path / "ranges.json")
    typed = quantize(graph, table, SPELLINGS[name], tmp_path / "typed.onnx")
    batch = np.stack([images.load_image(item.path, options.preprocess) for item in photos.items])
    answers = []
    for backend in (engine.BACKEND, reference.BACKEND):
        compiled = backend.compile(typed, CompileOptions(), tmp_path / f"engine{backend.suffix}")
        with backend.open(compiled, SessionOptions(threads=1)) as session:
            answers.append(session.run(batch))
    assert decibels(*answers) > 35


def test_a_dynamic_batch_of_a_residual_network(residual, save, photos, options, tmp_path):
    """Eleven images at once and one by one give the same logits in the int8 engine."""
    graph = save(residual(batch="batch"))
    table = calibrate(graph, photos, options, tmp_path / "ranges.json")
    typed = quantize(graph, table, SPELLINGS["strong_fp32"], tmp_path / "typed.onnx")
    batch = np.stack([images.load_image(item.path, options.preprocess) for item in photos.items])
    profile = CompileOptions(profile=ShapeProfile(min=1, opt=4, max=11))
    compiled = engine.BACKEND.compile(typed, profile, tmp_path / "engine.blob")
    with engine.BACKEND.open(compiled, SessionOptions(threads=1)) as session:
        together = session.run(batch)
        single = np.concatenate([session.run(one[None]) for one in batch])
    assert decibels(together, single) > 35


@pytest.mark.parametrize("name", ["strong", "weak"])
@pytest.mark.parametrize(
    ("element", "layout", "head"),
    [("float32", "NCHW", "logits"), ("uint8", "NCHW", "softmax"), ("uint8", "NHWC", "topk")],
)
def test_tensorrt_rtx_compiles_every_part(  # noqa: PLR0913, PLR0917 -- one graph, all its ends
    residual, save, photos, options, tmp_path, name, element, layout, head
):
    """Residual sums in int8, LRN, pixels and heads: NVIDIA's compiler takes them, convs in int8."""
    pytest.importorskip("tensorrt_rtx_bindings")
    from edge_inception.engines import tensorrt_rtx

    pixels = structs.replace(options.preprocess, element=element, layout=layout)
    graph = save(residual(element=element, layout=layout, head=head), preprocess=pixels)
    how = replace(options, preprocess=pixels)
    table = calibrate(graph, photos, how, tmp_path / "ranges.json")
    typed = quantize(graph, table, SPELLINGS[name], tmp_path / "typed.onnx")
    path = tmp_path / f"engine{tensorrt_rtx.BACKEND.suffix}"
    details = tensorrt_rtx.BACKEND.compile(typed, CompileOptions(), path).details
    convs = sum(node.op_type == "Conv" for node in onnx.load(str(typed.path)).graph.node)
    assert details.layers["correlation"] == {"Int8": convs}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_calibration_from_pixels_equals_that_from_floats(
    residual, save, photos, options, tmp_path, layout
):
    """The graph normalises as ``images`` does, so every tensor has the same range."""
    plain = calibrate(save(residual()), photos, options, tmp_path / "plain.json")
    how = replace(
        options, preprocess=structs.replace(options.preprocess, element="uint8", layout=layout)
    )
    graph = save(residual(element="uint8", layout=layout))
    folded = calibrate(graph, photos, how, tmp_path / "folded.json")
    wanted = {
        ("image" if n == "input" else n): r.amax for n, r in read_table(plain).tensors.items()
    }
    found = {name: tensor.amax for name, tensor in read_table(folded).tensors.items()}
    assert found == pytest.approx(wanted, rel=1e-5)  # float32 sums in another order
