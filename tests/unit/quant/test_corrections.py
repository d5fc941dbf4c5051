"""Masked bias correction: closed forms, and a network by onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edge_inception.data import images
from edge_inception.quant.bias import add_to_bias
from edge_inception.quant.corrections import bias_corrections


def with_biases(model, change):
    """The graph with ``change`` added to the biases of the layers whose output it names."""
    moved = onnx.ModelProto.FromString(model.SerializeToString())
    for node in moved.graph.node:
        if node.output[0] in change:
            add_to_bias(moved, node, change[node.output[0]])
    return moved


def corrections(model, other, photos, options):
    return bias_corrections(model, other, photos.items, preprocess=options.preprocess, threads=1)


def test_a_constant_error_is_removed(model, photos, options):
    """The last layer has no ReLU: the correction is the error itself, with the sign turned."""
    moved = with_biases(model, {"logits": np.array([0.5, -1.0, 2.0, 0.0])})
    found = corrections(model, moved, photos, options)
    np.testing.assert_allclose(found["logits"], [-0.5, 1.0, -2.0, 0.0], atol=1e-5)
    assert all(np.abs(v).max() < 1e-5 for name, v in found.items() if name != "logits")


def test_a_later_layer_corrects_what_is_left(model, photos, options):
    """An error before a ReLU is taken back at that layer, so that the layers behind see little."""
    size = next(t.dims[0] for t in model.graph.initializer if t.name == "stem.b")
    moved = with_biases(model, {"stem.c": np.full(size, 0.3)})
    found = corrections(model, moved, photos, options)
    assert found["stem.c"].mean() < -0.2
    assert np.abs(found["logits"]).max() < 0.1


def test_only_positions_that_pass_the_relu_count(model, photos, options):
    """Where both values are negative, the ReLU hides any difference: nothing is corrected."""
    size = next(t.dims[0] for t in model.graph.initializer if t.name == "stem.b")
    low = with_biases(model, {"stem.c": np.full(size, -1000.0)})
    lower = with_biases(model, {"stem.c": np.full(size, -1001.0)})
    found = corrections(low, lower, photos, options)
    assert np.array_equal(found["stem.c"], np.zeros(size))


@pytest.mark.parametrize("network", ["inception", "residual"])
def test_corrected_networks_are_nearer_in_the_mean(network, model, residual, photos, options):
    """Weights on a coarse grid: the mean of every logit comes back."""
    net = model if network == "inception" else residual()
    coarse = onnx.ModelProto.FromString(net.SerializeToString())
    for tensor in coarse.graph.initializer:
        if tensor.name.endswith(".w"):
            values = numpy_helper.to_array(tensor)
            step = np.abs(values).max() / 15
            grid = (np.rint(values / step) * step).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(grid, tensor.name))
    found = with_biases(coarse, corrections(net, coarse, photos, options))
    exact, before, after = (means(one, photos, options) for one in (net, coarse, found))
    assert np.abs(after - exact).max() < 1e-3
    assert np.abs(before - exact).max() > 1e-2


def means(model, photos, options):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = [images.load_image(item.path, options.preprocess)[None] for item in photos.items]
    return np.mean([session.run(None, {"input": one})[0][0] for one in pixels], axis=0)
