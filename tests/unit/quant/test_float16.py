"""Casting a graph to float16: what changes, what must not, what is refused."""

from __future__ import annotations

import numpy as np
import onnx
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
