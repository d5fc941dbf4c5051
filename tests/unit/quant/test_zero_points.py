"""Folded zero points against the same network with asymmetric uint8, which ONNX can write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_inception.graph.signs import non_negative
from edge_inception.quant import zero_points
from edge_inception.quant.insert_qdq import Calibrated, int8_graph
from edge_inception.quant.options import QuantizeOptions, Typing
from edge_inception.quant.placement import place_pairs
from edge_inception.quant.policies import policy
from edge_inception.quant.ranges import FittedParameters, TensorRange
from edge_inception.spec import Precision, Preprocess

FOLDED = QuantizeOptions(precision=Precision.INT8, placement="weighted-only", fold_zero_points=True)
RNG = np.random.default_rng(4)
AMAX = 3.0


def conv(source, shape, name, constants, **attributes):
    constants[f"{name}.w"] = RNG.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
    constants[f"{name}.b"] = RNG.normal(0, 0.1, shape[0])
    node = helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [name], name, **attributes)
    return [node]


def relu(source, name):
    return [helper.make_node("Relu", [source], [name], name)]


def network(kind):
    """One tensor, x, between layers; ``kind`` says who computes and reads it."""
    made = {}
    nodes = conv("input", (4, 3, 3, 3), "first", made, pads=[1] * 4)
    if kind == "concat":
        nodes += relu("first", "a") + conv("input", (5, 3, 1, 1), "other", made)
        nodes += relu("other", "b")
        nodes.append(helper.make_node("Concat", ["a", "b"], ["x"], "x", axis=1))
    else:
        nodes += relu("first", "x")
    width = 9 if kind == "concat" else 4
    if kind == "pool":
        nodes += [helper.make_node("MaxPool", ["x"], ["p"], "p", kernel_shape=[2, 2])]
        nodes += conv("p", (6, 4, 1, 1), "y", made)
    elif kind == "padded":
        nodes += conv("x", (6, 4, 3, 3), "y", made, pads=[1] * 4)
    elif kind == "signed":
        nodes[-1:] = [helper.make_node("Tanh", ["first"], ["x"], "x")]
        nodes += conv("x", (6, 4, 1, 1), "y", made)
    elif kind == "group":
        nodes += conv("x", (6, 2, 2, 2), "y", made, group=2)
    else:
        nodes += conv("x", (6, width, 2, 2), "y", made)
    outputs = ["y"]
    if kind == "two readers":
        nodes += [helper.make_node("Exp", ["x"], ["e"], "e")]
        outputs.append("e")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 6, 6])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in made.items()],
    )
    for value in graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def run(model, pixels):
    how = onnxruntime.SessionOptions()
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), how, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input": pixels})


def typed(model, tmp_path, options, **keywords):
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    names = {n for node in model.graph.node for n in (*node.input[:1], *node.output)} | {"a", "b"}
    ranges = {n: TensorRange(amax=AMAX, observed_amax=AMAX, scale_of=n) for n in names}
    preprocess = Preprocess(input_size=(6, 6), std=(0.2, 0.3, 0.4))  # no scale holds such pixels
    calibrated = Calibrated(ranges=ranges, fitted=FittedParameters(), preprocess=preprocess)
    return int8_graph(path, calibrated, options, **keywords)


def asymmetric(model, tmp_path, tensor):
    """The int8 graph without folding, but with uint8 and zero point 0 on ``tensor``."""
    plain = typed(model, tmp_path, replace(FOLDED, fold_zero_points=False))
    scale = np.float32(np.float16(AMAX / 255))
    for node in plain.graph.node:
        if node.name in {f"{tensor}.q", f"{tensor}.dq"}:
            node.input[1:] = ["u8.scale", "u8.zero"]
    plain.graph.initializer.append(numpy_helper.from_array(scale, "u8.scale"))
    plain.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "u8.zero"))
    return plain


CASES = {"one reader": "x", "concat": "x", "two readers": "x", "group": "x", "pool": "p"}


@pytest.mark.parametrize("keeps_layers", [False, True])
@pytest.mark.parametrize(("kind", "tensor"), CASES.items())
def test_a_folded_tensor_computes_what_uint8_does(kind, tensor, keeps_layers, tmp_path):
    model = network(kind)
    folded = typed(model, tmp_path, FOLDED, keeps_layers=keeps_layers)
    wanted = asymmetric(model, tmp_path, tensor)
    pixels = np.random.default_rng(1).normal(0, 1, (1, 3, 6, 6)).astype(np.float32)
    for one, other in zip(run(folded, pixels), run(wanted, pixels), strict=True):
        # a value on the edge between two levels may fall on either side of it
        assert np.mean(np.abs(one - other) < 1e-4) > 0.95
        assert np.abs(one - other).max() < 0.05
    shifted = [node.name for node in folded.graph.node if node.op_type == "Sub"]
    takes_over = not keeps_layers and kind in {"one reader", "concat", "group"}
    assert shifted == ([] if takes_over else [f"{tensor}.folded"])


@pytest.mark.parametrize(("kind", "tensor"), CASES.items())
def test_a_graph_for_cpus_holds_such_tensors_in_uint8(kind, tensor, tmp_path):
    """Tensors of both signs have zero point 128, which gives them the levels of int8."""
    model = network(kind)
    options = replace(FOLDED, typing=Typing.CPU, fold_zero_points=None)
    wanted = asymmetric(model, tmp_path, tensor)
    found = typed(model, tmp_path, options)
    pixels = np.random.default_rng(1).normal(0, 1, (1, 3, 6, 6)).astype(np.float32)
    for one, other in zip(run(found, pixels), run(wanted, pixels), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    zeros = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer if "uint8" in t.name}
    read = {node.input[2] for node in found.graph.node if node.op_type == "QuantizeLinear"}
    assert {int(zeros[name]) for name in read} == {0, 128}
    assert not any(node.op_type == "Sub" for node in found.graph.node)


def test_folding_halves_the_step(tmp_path):
    """The scale is amax / 255, rounded to float16 as all scales are."""
    folded = typed(network("one reader"), tmp_path, FOLDED)
    stored = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    assert stored["x.scale"] == np.float16(AMAX / 255)
    assert stored["input.scale"] == np.float16(AMAX / 127)


@pytest.mark.parametrize("kind", ["padded", "signed"])
def test_what_cannot_be_folded_is_not(kind):
    model = network(kind)
    assert zero_points.foldable(model, place_pairs(model, policy("weighted-only"))) == frozenset()


def test_groups_of_a_network(model, residual):
    """Of the block what 1x1 convolutions and the Gemm read qualifies; sums and padded do not."""
    placed = place_pairs(model, policy("weighted-only"))
    assert zero_points.foldable(model, placed) == {"pooled", "joined", "flat"}
    net = residual()
    placed = place_pairs(net, policy("sandwich"))
    assert not zero_points.foldable(net, placed) & {"x", "y", "z", "a1"}


def test_nothing_negative_becomes_folded(residual):
    net = residual()
    folded = zero_points.foldable(net, place_pairs(net, policy("weighted-only")))
    assert folded
    assert folded <= non_negative(net)


@pytest.mark.parametrize("typing", [Typing.STRONG, Typing.WEAK])
def test_typings_compute_the_same(typing, tmp_path):
    model = network("concat")
    pixels = np.random.default_rng(1).normal(0, 1, (1, 3, 6, 6)).astype(np.float32)
    one = run(typed(model, tmp_path, replace(FOLDED, typing=typing)), pixels)[0]
    np.testing.assert_allclose(one, run(typed(model, tmp_path, FOLDED), pixels)[0], atol=1e-4)
