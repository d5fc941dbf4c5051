"""Local bias correction: a float bias takes off the mean error that int8 adds to a layer's output.

Rounding moves the mean of a layer's input channels, and rounding its weights moves the mean of its
output once more. Both errors are known from the channel means of the float and of the rounded
input. At the border of a padded convolution the mean is another; the correction is that of the
middle.

The correction leaves out the error of clipping, which is missing in the few images that were
clipped, while a bias would add it to all images. Measured on the trained solar network, as SQNR of
the logits of 256 images that were not calibrated on: with the calibrator ``max`` 27.20 dB without
and 27.72 dB with correction; with ``mse`` 23.40 and 23.45 dB, but 23.17 dB if clipping is corrected
too, and 23.20 dB if borders are exact as well. Means over 262 images instead of 32 changed the SQNR
by 0.05 dB; 16 images suffice and halve the cost of the second pass. The correction is on by
default, and helps most where least is clipped.

Source: the empirical form of section 4.2 of "Data-Free Quantization Through Weight Equalization and
Bias Correction", arXiv:1906.04721, layer by layer on the float model's activations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_inception.graph.check import attribute
from edge_inception.quant.placement import Placement
from edge_inception.quant.ranges import ChannelMeans
from edge_inception.quant.scales import along, quantize_weight

NUM_IMAGES = 16
"""Number of images that the means are taken over: those of the set with the smallest sha256."""


def correction(
    means: ChannelMeans, weight: NDArray[np.float32], rounded: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The correction [O] of a bias: mean float output minus mean int8 output.

    Args:
        means: Channel means of the layer's input, C = groups * I channels.
        weight: Float weights, output channel first: [O, I, ...].
        rounded: The weights rounded to int8, as floats of the same shape.
    """
    outputs, channels = weight.shape[:2]
    groups = means.plain.size // channels
    plain, quantized = (
        np.repeat(values.reshape(groups, channels), outputs // groups, axis=0)
        for values in (means.plain, means.quantized)
    )
    whole, stored = (
        values.astype(np.float64).reshape(outputs, channels, -1).sum(axis=2)
        for values in (weight, rounded)
    )
    return np.asarray((whole * plain - stored * quantized).sum(axis=1))


def correct_biases(
    model: onnx.ModelProto,
    placement: Placement,
    means: Mapping[str, ChannelMeans],
    scales: Mapping[str, float],
) -> int:
    """Give every layer that becomes int8 a corrected float bias of its own; number of such layers.

    Before: x -> Conv(w, b) -> y. After: x -> Conv(w, b + correction) -> y, still in float.

    A layer is not corrected if its input has no means, or means for another scale than that of its
    Q/DQ pair; if its bias is computed; or if it is a Gemm whose alpha or beta is not 1.

    Args:
        model: The graph, before its pairs are inserted.
        placement: The weights that become int8.
        means: Channel means by tensor.
        scales: Root tensor -> the scale of its Q/DQ pair.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    in_use = {name for node in graph.node for name in (*node.input, *node.output)}
    corrected = 0
    for index, weight in placement.weights.items():
        node = graph.node[index]
        root = placement.scale_of.get(node.input[0], "")
        input_means = means.get(node.input[0])
        bias = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 -- x, w, b
        is_plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        if input_means is None or input_means.scale != scales[root] or not is_plain:
            continue
        if bias and bias not in stored:
            continue
        values = np.moveaxis(numpy_helper.to_array(stored[weight.name]), weight.axis, 0)
        steps, scale = quantize_weight(values, axis=0)
        rounded = steps.astype(np.float32) * along(scale, axis=0, ndim=values.ndim)
        before = numpy_helper.to_array(stored[bias]) if bias else np.float32(0)
        after = (before + correction(input_means, values, rounded)).astype(np.float32)
        name = f"{node.output[0]}.corrected"
        while name in in_use:  # the graph may have a tensor of that name
            name += "_"
        graph.initializer.append(numpy_helper.from_array(after, name))
        node.input[:] = [node.input[0], node.input[1], name]
        corrected += 1
    return corrected
