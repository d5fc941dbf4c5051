"""Statistics for rounding against PyTorch's unfold, and what is kept of their result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from edge_inception.data import images
from edge_inception.quant import rounding
from edge_inception.quant.scales import along, quantize_weight
from edge_inception.spec import no_progress


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "dilations"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1)),
        ((1, 3), (2, 1), (0, 1), (1, 1)),
        ((3, 2), (1, 2), (2, 0), (2, 1)),
    ],
)
def test_patches_are_those_of_unfold(groups, kernel, strides, pads, dilations):
    """Of all positions, since the map has fewer than are sampled; in any order."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (6, 9, 8)).astype(np.float32)
    window = rounding._Window(
        source="x",
        groups=groups,
        kernel=kernel,
        strides=strides,
        pads=pads * 2,
        dilations=dilations,
    )
    found = rounding._patches(values, window, rng)
    unfold = torch.nn.Unfold(kernel, dilation=dilations, padding=pads, stride=strides)
    columns = unfold(torch.from_numpy(values)[None])[0].T.numpy()  # [P, C * kernel]
    wanted = columns.reshape(len(columns), groups, -1).swapaxes(0, 1)
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one[np.lexsort(one.T)], other[np.lexsort(other.T)])


def run(model, tensor, photos, options):
    """The tensor for every photo, by onnxruntime."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = [images.load_image(item.path, options.preprocess)[None] for item in photos.items]
    return np.concatenate([session.run([tensor], {"input": one})[0] for one in inputs])


def replaced(model, weights):
    """The float graph with the weights that the integers stand for."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor)
            steps, scale = quantize_weight(values, axis=0)
            steps = steps if weights[tensor.name] is None else weights[tensor.name]
            grid = steps * along(scale, axis=0, ndim=values.ndim)
            tensor.CopyFrom(numpy_helper.from_array(grid.astype(np.float32), tensor.name))
    return changed


def test_every_weight_is_rounded_and_no_layer_is_worse(model, save, photos, options):
    """A layer's error over all photos, by onnxruntime, against that of rounding to nearest."""
    graph = save(model)
    found = rounding.round_weights(graph.path, photos.items, options, no_progress)
    assert set(found) == {"stem.w", "left.w", "right.w", "last.w", "head.w"}
    ratios = []
    for name, tensor in (("stem.w", "stem.c"), ("left.w", "left.c"), ("right.w", "right.c")):
        exact = run(model, tensor, photos, options)
        errors = [
            np.square(run(replaced(model, {name: steps}), tensor, photos, options) - exact).sum()
            for steps in (found[name], None)
        ]
        ratios.append(errors[0] / errors[1])
    assert max(ratios) < 1.05  # the images that judge are a few of all
    assert min(ratios) < 0.6


def test_neither_order_nor_passes_matter(model, save, photos, options, monkeypatch):
    """With memory for one layer at a time there is a pass for each."""
    graph = save(model)
    one = rounding.round_weights(graph.path, photos.items, options, no_progress)
    other = rounding.round_weights(graph.path, photos.items[::-1], options, no_progress)
    passes = []
    monkeypatch.setattr(rounding, "_MEMORY", 1)
    rounding.round_weights(
        graph.path, photos.items, options, lambda done, _: passes.append(done == 1)
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert sum(passes) == 5


def test_few_images_round_nothing(model, save, photos, options):
    few = replace(photos, items=photos.items[: rounding.MIN_IMAGES - 1])
    assert rounding.round_weights(save(model).path, few.items, options, no_progress) == {}
