"""How much noise each group of an int8 graph should add, told without running it.

The range table knows how often which magnitude occurs in a tensor, and the mean of each of its
channels. With the weights of a layer that gives the noise its output takes from rounding its input
and its weights, relative to its signal. Channels matter: where one branch of a concat is a hundred
times larger than the others, the rounding error is small against the tensor and large against the
small channels, which the weights behind it magnify.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_inception.artifact import RangeTable
from edge_inception.graph import check
from edge_inception.graph.refusals import label
from edge_inception.graph.signs import non_negative
from edge_inception.graph.statistics import statistics
from edge_inception.quant import ranges, scales
from edge_inception.quant.calibrators import Observation, squared_error
from edge_inception.quant.place import Placement, Weight
from edge_inception.quant.ranges import ChannelMeans, TensorRange
from edge_inception.quant.search import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """What is known of a group's tensor.

    ``power`` is its mean square, ``error`` the mean square of what int8 changes; ``channels`` [C]
    the mean square by channel, None where the means were not taken.
    """

    power: float
    error: float
    channels: NDArray[np.float64] | None


def free_scores(
    model: onnx.ModelProto, placement: Placement, table: RangeTable
) -> tuple[Group, ...]:
    """Every group of a placement with its free score, in graph order.

    Args:
        model: The simplified graph.
        placement: Of that graph.
        table: Its range table, with what lies beside it.

    Raises:
        InputError: The table is damaged, or lacks a tensor.
    """
    seen = ranges.read_histograms(table)
    means = ranges.read_means(table)
    amax = ranges.read_table(table).tensors
    weights = check.constants(model)
    macs = {layer.name: layer.macs or 0 for layer in statistics(model).layers}
    positive = non_negative(model)
    total = max(sum(macs.values()), 1)
    found = []
    for root, readers in _readers(placement).items():
        tensor = _tensor(root, seen, means, amax, is_positive=root in positive)
        weighted = [index for index in readers if index in placement.weights]
        stored = [placement.weights[index] for index in weighted]
        noises = [_noise(tensor, _output_first(weights[one.name], one)) for one in stored]
        floats = sum(macs[label(model.graph.node[index])] for index in weighted)
        plain = tensor.error / tensor.power if tensor.power else 0.0
        found.append(
            Group(
                name=root,
                layers=tuple(label(model.graph.node[index]) for index in readers),
                free=max(noises, default=plain),
                cost=floats / total,
                has_weights=bool(weighted),
            )
        )
    return tuple(found)


def _readers(placement: Placement) -> dict[str, list[int]]:
    """Root of a scale -> indices of the nodes that read its pairs, in graph order."""
    found: dict[str, set[int]] = {}
    for name, root in placement.scale_of.items():
        found.setdefault(root, set()).update(placement.readers[name])
    return {root: sorted(indices) for root, indices in found.items()}


def _tensor(
    root: str,
    seen: Mapping[str, Observation],
    means: Mapping[str, ChannelMeans],
    amax: Mapping[str, TensorRange],
    *,
    is_positive: bool,
) -> _Tensor:
    if seen[root].amax == 0.0:
        return _Tensor(power=0.0, error=0.0, channels=None)
    edges, count = seen[root].mass()
    squares = (edges[1:] ** 3 - edges[:-1] ** 3) / np.diff(edges) / 3
    total = count.sum()
    power = float(count @ squares / total)
    scale = float(scales.int8_scale(np.array(amax[root].amax, np.float32)))
    error = squared_error(scale * scales.LEVELS, edges, count) / float(total)
    channels = None
    if root in means:
        plain = means[root].plain ** 2
        known = is_positive and plain.any()
        # Behind a ReLU the mean tells how large a channel is; else all count alike.
        channels = plain * (power / plain.mean()) if known else np.full(plain.shape, power)
    return _Tensor(power=power, error=error, channels=channels)


def _output_first(tensor: onnx.TensorProto, weight: Weight) -> NDArray[np.float32]:
    """Weights [O, I, positions]."""
    values = np.moveaxis(numpy_helper.to_array(tensor), weight.axis, 0)
    return values.reshape(*values.shape[:2], -1)


def _noise(tensor: _Tensor, weight: NDArray[np.float32]) -> float:
    """Noise to signal of a layer's output, its inputs and roundings taken as independent."""
    if not tensor.power:
        return 0.0
    outputs, inputs = weight.shape[:2]
    if tensor.channels is None:
        channels = np.full((outputs, inputs), tensor.power)
    else:
        groups = tensor.channels.size // inputs
        channels = np.repeat(tensor.channels.reshape(groups, inputs), outputs // groups, axis=0)
    steps, scale = scales.quantize_weight(weight, axis=0)
    rounded = steps * scales.along(scale, axis=0, ndim=weight.ndim)
    gain = np.sum(weight.astype(np.float64) ** 2, axis=2)
    lost = np.sum((rounded.astype(np.float64) - weight) ** 2, axis=2)
    error = np.minimum(tensor.error, channels)  # a channel too small for a step becomes 0
    signal = float(np.sum(gain * channels))
    return float(np.sum(gain * error + lost * channels)) / signal if signal else 0.0
