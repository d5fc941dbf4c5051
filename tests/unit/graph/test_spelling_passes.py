"""Passes that write a node as older opsets do: each keeps onnxruntime's answers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edge_inception.graph.passes import (
    explicit_padding,
    join_reshapes,
    lift_constants,
    plain_reshape,
    reduction_axes,
    slice_shape,
    split_sizes,
)

IMAGE = "(float[2,4,6,7] x) => (float[a,b,c,d] y)"
IMAGES = np.random.default_rng(3).standard_normal((2, 4, 6, 7)).astype(np.float32)


def parse(body, signature=IMAGE, opset=18, **weights):
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> graph {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def answer(model, opset=0):
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.output[0].type.tensor_type.shape.dim[:]
    twin.graph.output[0].type.tensor_type.ClearField("shape")
    if opset:
        twin.opset_import[0].version = opset
    session = onnxruntime.InferenceSession(
        twin.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": IMAGES})[0]


def assert_fires(rewrite, model, *, opset=0):
    """The pass fires once, and onnxruntime answers alike, in an older opset too."""
    before = answer(model)
    assert rewrite(model) is True
    assert rewrite(model) is False
    after = answer(model, opset)
    assert before.shape == after.shape
    assert np.allclose(before, after, rtol=1e-6, atol=1e-6)


def assert_rests(rewrite, model):
    before = model.SerializeToString(deterministic=True)
    assert rewrite(model) is False
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("op", reduction_axes.OPS)
@given(
    axes=st.lists(st.integers(-4, 3), max_size=3, unique_by=lambda axis: axis % 4),
    keepdims=st.integers(0, 1),
)
@settings(max_examples=8, deadline=None)
def test_reductions_of_any_axes(op, axes, keepdims):
    """Axes as an attribute, or all axes where none are given, mean the same before opset 18."""
    body = f"a = Abs(x) y = {op}<keepdims={keepdims}>(a, axes)"
    model = parse(body, "(float[2,4,6,7] x) => (y)", axes=np.array(axes, np.int64))
    assert_fires(reduction_axes.PASS, model, opset=13)
    assert [len(node.input) for node in model.graph.node] == [1, 1]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = ReduceMean<noop_with_empty_axes=1>(x, axes)", {"axes": np.array([], np.int64)}),
        ("y = ReduceSum(x, axes)", {"axes": np.array([2])}),
        ("s = Shape(x) r = Size(s) a = Sub(r, one) y = ReduceMean(x, a)", {"one": np.array([1])}),
    ],
)
def test_other_reductions_stay(body, weights):
    """Nothing to reduce, ReduceSum, and axes that are computed."""
    assert_rests(reduction_axes.PASS, parse(body, "(float[2,4,6,7] x) => (y)", **weights))


@given(count=st.integers(1, 3), axis=st.integers(-4, 3))
@settings(max_examples=20, deadline=None)
def test_split_into_a_number_of_parts(count, axis):
    """The last part is the smaller one; onnxruntime joins what it has split."""
    if (count - 1) * -(-IMAGES.shape[axis] // count) >= IMAGES.shape[axis]:
        return  # no part may be empty
    parts = ", ".join(f"p{index}" for index in range(count))
    body = f"{parts} = Split<axis={axis}, num_outputs={count}>(x) y = Neg(p{count - 1})"
    assert_fires(split_sizes.PASS, parse(body), opset=13)


def test_split_of_a_free_axis_stays():
    """What depends on a free size cannot be written."""
    body = "p, y = Split<axis=0, num_outputs=2>(x)"
    assert_rests(split_sizes.PASS, parse(body, "(float[n,4,6,7] x) => (float[m,4,6,7] y)"))


def test_allowzero_without_a_zero():
    """PyTorch writes it on every Reshape, where it says nothing."""
    model = parse("y = Reshape<allowzero=1>(x, s)", s=np.array([2, 4, 42, 1]))
    assert_fires(plain_reshape.PASS, model, opset=13)


def test_allowzero_with_a_zero_stays():
    """There it decides what the zero means."""
    body = "y = Reshape<allowzero=1>(x, s)"
    signature = "(float[2,0,6,7] x) => (float[a,b,c,d] y)"
    assert_rests(plain_reshape.PASS, parse(body, signature, s=np.array([0, 2, 6, 7])))


@given(start=st.none() | st.integers(-4, 3), end=st.none() | st.integers(-4, 5))
@settings(max_examples=20, deadline=None)
def test_a_part_of_a_shape(start, end):
    """The batch that a transformer reads, or any other part, counted from either end."""
    bounds = {"start": start, "end": end}
    text = ", ".join(f"{name}={value}" for name, value in bounds.items() if value is not None)
    body = f"s = Shape{f'<{text}>' if text else ''}(x) y = Cast<to=1>(s)"
    model = parse(body, "(float[2,4,6,7] x) => (float[n] y)")
    if text and bounds != {"start": 0, "end": None}:
        assert_fires(slice_shape.PASS, model, opset=13)
    else:
        before = model.SerializeToString(deterministic=True)
        assert slice_shape.PASS(model) is False
        assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("first", "second"),
    [([2, 168], [8, 42]), ([-1, 42], [0, 6, 7]), ([8, 42], [4, -1]), ([2, 4, -1], [0, 2, -1, 3])],
)
def test_a_reshape_of_a_reshape(first, second):
    """Only the last shape counts; a first size that is copied is what the others leave."""
    body = "m = Reshape(x, p) y = Reshape(m, q)"
    signature = "(float[2,4,6,7] x) => (y)"
    model = parse(body, signature, p=np.array(first), q=np.array(second))
    if 0 in second and -1 in second:
        assert_rests(join_reshapes.PASS, model)
    else:
        assert_fires(join_reshapes.PASS, model)
        assert len(model.graph.node) == 1


def test_a_reshape_and_back():
    """What returns to the same rows is no node at all."""
    body = "a = Reshape(x, r) m = Reshape(a, p) y = Reshape(m, r)"
    weights = {"r": np.array([8, 42]), "p": np.array([2, 4, 42])}
    model = parse(body, "(float[2,4,6,7] x) => (y)", **weights)
    assert join_reshapes.PASS(model) is True
    before = answer(parse(body, "(float[2,4,6,7] x) => (y)", **weights))
    assert np.array_equal(answer(model), before)


@pytest.mark.parametrize("body", ["y = Add(m, n)", "k = Neg(m) y = Reshape(k, p)"])
def test_other_reshapes_stay(body):
    """Another reader of the shape between, or another node."""
    text = f"m = Reshape(x, p) n = Reshape(m, p) {body}"
    assert_rests(join_reshapes.PASS, parse(text, "(float[2,4,6,7] x) => (y)", p=np.array([8, 42])))


def test_constants_are_stored():
    """A Constant of a tensor becomes a weight; one of a list of numbers stays."""
    model = parse("c = Constant<value = float[1] {2.5}>() y = Mul(x, c)")
    assert_fires(lift_constants.PASS, model)
    assert [tensor.name for tensor in model.graph.initializer] == ["c"]
    assert_rests(lift_constants.PASS, parse("c = Constant<value_float = 2.5>() y = Mul(x, c)"))


@given(side=st.integers(2, 4), stride=st.integers(1, 3), pad=st.integers(0, 1))
@settings(max_examples=20, deadline=None)
def test_the_last_window_of_an_average_pool(side, stride, pad):
    """ceil_mode becomes padding that does not count, unless a window begins in the padding."""
    window = (
        f"kernel_shape=[{side},{side}],strides=[{stride},{stride}],pads=[{pad},{pad},{pad},{pad}]"
    )
    model = parse(f"y = AveragePool<ceil_mode=1,{window}>(x)")
    before = answer(model)
    explicit_padding.PASS(model)
    assert np.allclose(before, answer(model), atol=1e-6)
    is_kept = any(entry.name == "ceil_mode" for entry in model.graph.node[0].attribute)
    starts = [-(-(size + 2 * pad - side) // stride) * stride for size in (6, 7)]
    assert is_kept == any(
        start >= size + pad and (size + 2 * pad - side) % stride
        for start, size in zip(starts, (6, 7), strict=True)
    )


def test_an_average_that_counts_padding_keeps_its_last_window():
    """Padding that counts cannot stand for pixels that are not there."""
    window = "kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1],count_include_pad=1"
    assert_rests(explicit_padding.PASS, parse(f"y = AveragePool<ceil_mode=1,{window}>(x)"))
