"""An int8 input holds all pixels exactly: against onnxruntime and the formula of preprocessing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper

from edge_inception.quant.insert_qdq import Calibrated, int8_graph
from edge_inception.quant.options import QuantizeOptions, Typing
from edge_inception.quant.pixels import pixel_input
from edge_inception.quant.placement import place_pairs
from edge_inception.quant.policies import policy
from edge_inception.quant.ranges import FittedParameters, TensorRange
from edge_inception.spec import Precision, Preprocess

OPTIONS = QuantizeOptions(
    precision=Precision.INT8, placement="weighted-only", fold_zero_points=True
)
MEAN, STD = (0.4, 0.5, 0.7), (0.25, 0.25, 0.25)
PREPROCESS = Preprocess(input_size=(16, 16), mean=MEAN, std=STD)


def network(*, pads=(0, 0, 0, 0), group=1):
    """One convolution whose weights are whole steps of int8, so that only x is rounded."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-126, 127, (6, 3 // group, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 127
    constants = {"w": weight / 128, "b": rng.normal(0, 1, 6).astype(np.float32)}
    node = helper.make_node("Conv", ["input", "w", "b"], ["y"], "conv", pads=pads, group=group)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def outputs(model, images):
    how = onnxruntime.SessionOptions()
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), how)
    return session.run(None, {"input": images})[0]


def found(model, preprocess=PREPROCESS):
    return pixel_input(model, place_pairs(model, policy("weighted-only")), preprocess)


@pytest.mark.parametrize("typing", [Typing.STRONG, Typing.CPU])
def test_every_pixel_survives(typing, tmp_path):
    """All 256 values of each channel; the graph without the exact input is off by far more."""
    model, path = network(), tmp_path / "net.onnx"
    onnx.save(model, path)
    pixels = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16)
    mean, std = (np.float32(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    images = (np.repeat(pixels, 3, axis=1) / 255 - mean) / std
    ranges = {"input": TensorRange(amax=2.8, observed_amax=2.8, scale_of="input")}
    exact = Calibrated(ranges=ranges, fitted=FittedParameters(), preprocess=PREPROCESS)
    options = replace(OPTIONS, typing=typing, fold_zero_points=typing is Typing.STRONG)
    wanted = outputs(model, images)
    error = np.abs(outputs(int8_graph(path, exact, options), images) - wanted).max()
    uneven = replace(exact, preprocess=structs.replace(PREPROCESS, std=(0.2, 0.3, 0.4)))
    rounded = np.abs(outputs(int8_graph(path, uneven, options), images) - wanted).max()
    assert error < 1e-4
    assert rounded > 100 * error


def test_the_scale_is_one_pixel():
    pixels = found(network())
    assert pixels.scale == pytest.approx(1 / (255 * 0.25))
    # step 0 of int8 is pixel 128
    assert pixels.offset == pytest.approx([(128 / 255 - mean) / 0.25 for mean in MEAN])


@pytest.mark.parametrize(
    ("model", "preprocess"),
    [
        (network(pads=(1, 1, 1, 1)), PREPROCESS),
        (network(group=3), PREPROCESS),
        (network(), structs.replace(PREPROCESS, std=(0.229, 0.224, 0.225))),
        (network(), structs.replace(PREPROCESS, element="uint8")),
    ],
    ids=["padding is no pixel", "groups", "a scale per channel", "pixels already"],
)
def test_other_inputs_are_rounded_as_any_tensor(model, preprocess):
    assert found(model, preprocess) is None
