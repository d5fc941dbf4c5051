"""Expected noise against loops over onnxruntime's activations, and against measured noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edge_inception.data import images, imageset
from edge_inception.quant import placement, ranges
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import FloatRest, QuantizeOptions
from edge_inception.search.sensitivity import estimate_groups
from edge_inception.spec import Precision

# The table knows values by bins of 0.4 %, even inside each: over 127 levels, half a step.
KNOWN_TO = 0.03


def pixels_of(photos, options):
    return np.stack([images.load_image(item.path, options.preprocess) for item in photos.items])


def activations(model, batch):
    """Every tensor of the graph [N, C, ...] in float64, from onnxruntime without optimisations."""
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    names = [name for node in model.graph.node for name in node.output]
    del whole.graph.output[:]
    whole.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session = unoptimised(whole.SerializeToString())
    rows = [session.run(names, {"input": one[None]}) for one in batch]
    found = {name: np.concatenate(parts) for name, *parts in zip(names, *rows, strict=True)}
    return {n: v.astype(np.float64) for n, v in {"input": batch, **found}.items()}


def unoptimised(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def rounded(values, scale):
    return np.clip(np.rint(values / scale), -127, 127) * scale


def score(values, scale, weight, *, is_positive):
    """Noise to signal of a layer's output, one output channel, input channel and tap at a time."""
    error = np.mean((values - rounded(values, scale)) ** 2)
    power = np.mean(values**2)
    means = values.mean(axis=(0, *range(2, values.ndim)))
    noise = signal = 0.0
    for kernel in weight.astype(np.float64):
        step = float(np.float16(np.abs(kernel).max() / 127))
        for channel, taps in enumerate(kernel):
            size = power * means[channel] ** 2 / np.mean(means**2) if is_positive else power
            for tap in taps.reshape(-1):
                signal += tap**2 * size
                noise += tap**2 * min(error, size)
                noise += (tap - rounded(tap, step)) ** 2 * size
    return noise / signal


def test_the_free_score_is_that_of_slow_loops(model, save, photos, options, tmp_path):
    """Every group, that of a pool alone too; one channel is smaller than a step of its tensor."""
    for tensor in model.graph.initializer:
        if tensor.name in {"left.w", "left.b"}:
            values = numpy_helper.to_array(tensor).copy()
            values[0] /= 1000
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    graph = save(model)
    table = calibrate(graph, photos, options, tmp_path / "r.json")
    scale_of = {
        name: float(ranges.tensor_scales({name: one.amax})[name])
        for name, one in ranges.read_table(table).tensors.items()
    }
    seen = activations(model, pixels_of(photos, options))
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    sources = {"stem": "input", "left": "pooled", "right": "mean", "last": "joined", "head": "flat"}
    by_layer = {
        layer: score(
            seen[source], scale_of[source], stored[f"{layer}.w"], is_positive=source != "input"
        )
        for layer, source in sources.items()
    }
    # The MaxPool reads "stem" and passes its scale on to "pooled", which only "left" reads in int8;
    # a pool has no weights, so where nothing else reads a group its own noise is the score.
    pool = seen["last"]
    alone = np.mean((pool - rounded(pool, scale_of["last"])) ** 2) / np.mean(pool**2)
    wanted = {
        "input": by_layer["stem"],
        "stem": by_layer["left"],
        "mean": by_layer["right"],
        "joined": by_layer["last"],
        "last": alone,
        "flat": by_layer["head"],
    }
    groups = estimate_groups(model, placement.place_pairs(model), table)
    assert [one.name for one in groups] == list(wanted)
    for one in groups:
        assert one.expected_noise == pytest.approx(wanted[one.name], rel=KNOWN_TO), one.name
    macs = {"stem": 8 * 27 * 256, "left": 48 * 64, "right": 360 * 64, "last": 88 * 64, "head": 32}
    total = sum(macs.values())
    costs = [macs["stem"], macs["left"], macs["right"], macs["last"], 0, macs["head"]]
    assert [one.mac_share for one in groups] == pytest.approx([cost / total for cost in costs])
    assert [one.has_weights for one in groups] == [True, True, True, True, False, True]


def test_the_free_score_is_the_noise_that_is_measured(save, options, tmp_path):
    """Of a layer whose inputs are independent and have no mean, as the score takes them to be."""
    rng = np.random.default_rng(8)
    for index in range(24):
        noise = rng.integers(0, 256, (*options.preprocess.input_size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index:02}.png")
    photos = imageset.open_set(tmp_path)
    weight = rng.normal(0, 1, (16, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["maps"], name="layer"),
            helper.make_node("Flatten", ["maps"], ["logits"], name="flatten"),
        ],
        "pointwise",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 16 * 16 * 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 18)]
    simplified = save(helper.make_model(graph, opset_imports=opset, ir_version=8))
    table = calibrate(simplified, photos, options, tmp_path / "r.json")
    model = onnx.load(str(simplified.path))
    (group,) = estimate_groups(model, placement.place_pairs(model), table)
    how = QuantizeOptions(
        precision=Precision.INT8, float_rest=FloatRest.FP32, fold_zero_points=False
    )
    typed = quantize(simplified, table, replace(how, bias_correction=False), tmp_path / "q.onnx")
    batch = pixels_of(photos, options)
    exact, found = (
        np.concatenate([session.run(None, {"input": one[None]})[0] for one in batch])
        for session in (unoptimised(str(simplified.path)), unoptimised(str(typed.path)))
    )
    measured = np.sum((found - exact) ** 2) / np.sum(exact**2)
    assert group.expected_noise == pytest.approx(measured, rel=0.1)
