"""Casting a graph to float16: what changes, what must not, what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edge_inception.errors import InputError
from edge_inception.quant.float16 import to_float16


def stamped(model):
    """float16 Q/DQ and IR version 9 need opset 19."""
    model.opset_import[0].version, model.ir_version = 19, 9
    return model


def test_one_cast_in_and_one_cast_out(model):
    """Everything between the two casts is float16, as ONNX's type inference sees it."""
    to_float16(stamped(model))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert len(kinds) == 15  # 13 tensors between the nodes and the two behind and before the casts
    assert set(kinds.values()) == {TensorProto.FLOAT16}
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast"]
    assert casts == ["input", "logits.float16"]


def test_weights_are_rounded_to_nearest(model):
    """Every weight is NumPy's float16 of the original."""
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    to_float16(stamped(model))
    for tensor in model.graph.initializer:
        assert (numpy_helper.to_array(tensor) == before[tensor.name].astype(np.float16)).all()


def test_integers_stay_integers(model):
    """int8 weights and shapes are not touched."""
    steps = np.array([-127, 0, 127], np.int8)
    model.graph.initializer.append(numpy_helper.from_array(steps, "steps"))
    to_float16(stamped(model))
    assert (numpy_helper.to_array(model.graph.initializer[-1]) == steps).all()


def test_a_weight_beyond_float16_is_named(model):
    """70000 would become infinity."""
    tensor = next(t for t in model.graph.initializer if t.name == "head.b")
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, 7e4, np.float32), "head.b"))
    with pytest.raises(InputError, match=r"weight 'head.b' reaches 70000"):
        to_float16(stamped(model))


def float16_answer(body, **weights):
    """onnxruntime's answers of a graph before and after, and the graph after."""
    signature = "(float[1,3,8,8] input) => (float[1,4,a,b] logits)"
    text = f'<ir_version: 9, opset_import: ["" : 19]> graph {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in weights.items()
    )
    images = np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float32)

    def run():
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return session.run(None, {"input": images})[0]

    before = run()
    to_float16(model)
    return before, run(), model


KERNEL = np.random.default_rng(1).standard_normal((4, 3, 1, 1)).astype(np.float32)
SECOND = np.random.default_rng(4).standard_normal((4, 4, 1, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("r = Resize(a, , scales) l = Relu(r)", {"scales": np.array([1, 1, 2, 2], np.float32)}),
        (
            "m = Greater(a, zero) c = Cast<to=1>(m) l = Mul(a, c)",
            {"zero": np.zeros(1, np.float32)},
        ),
        ("s = Shape(a) f = ConstantOfShape<value = float[1] {2.0}>(s) l = Mul(a, f)", {}),
        ("l = Celu(a)", {}),
        ("n = ReduceL2(a, axes) l = Div(a, n)", {"axes": np.array([1])}),
    ],
)
def test_numbers_that_are_not_halved(body, weights):
    """Celu, scales of a Resize and sums of squares stay float32; casts and constants follow."""
    body = f"a = Conv(input, w) {body} logits = Conv(l, v)"
    before, after, model = float16_answer(body, w=KERNEL, v=SECOND, **weights)
    # float16 has 11 bits: each of at most 5 roundings moves a value by 2**-11 of the largest
    assert np.abs(before - after).max() <= 5 * 2**-11 * np.abs(before).max()
    stored = {t.name: t.data_type for t in model.graph.initializer}
    assert stored["w"] == stored["v"] == TensorProto.FLOAT16
    assert stored.get("scales", TensorProto.FLOAT) == TensorProto.FLOAT


def test_a_shape_that_crosses_keeps_its_type():
    """A size that the float16 part computes and the last Reshape reads is no float."""
    body = "a = Conv(input, w) s = Shape(a) l = Conv(a, v) r = Relu(l) logits = Reshape(r, s)"
    before, after, _ = float16_answer(body, w=KERNEL, v=SECOND)
    assert np.abs(before - after).max() <= 5 * 2**-11 * np.abs(before).max()
