"""The expected noise of each group of an int8 graph, computed without running the graph.

A group is the tensors that share a scale, with the layers that read them. The range table holds the
distribution of the magnitudes of every tensor, and the means of its channels. Together with the
weights of a layer they give the noise to signal of the layer's output that comes from rounding its
input and its weights. Channels matter: if the values of one branch of a Concat are a hundred times
larger than those of the others, the rounding error is small relative to the tensor, but large
relative to the small channels, which the weights of the next layer magnify.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_inception.artifact import RangeTable
from edge_inception.errors import InputError
from edge_inception.graph import check
from edge_inception.graph.signs import non_negative
from edge_inception.graph.statistics import statistics
from edge_inception.graph.support_checks import label
from edge_inception.quant import ranges, scales
from edge_inception.quant.calibrators import Observation, squared_error
from edge_inception.quant.placement import Placement, Weight, group_readers
from edge_inception.search.search import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """Signal and error of a group's tensor.

    ``power`` is the mean square of the tensor, ``error`` the mean square of its int8 error.
    ``channels`` [C] is the mean square per channel, None if no channel means were measured.
    """

    power: float
    error: float
    channels: NDArray[np.float64] | None

    @property
    def noise(self) -> float:
        """Noise to signal of the tensor itself."""
        return self.error / self.power if self.power else 0.0


def estimate_groups(
    model: onnx.ModelProto, placement: Placement, table: RangeTable
) -> tuple[Group, ...]:
    """Every group of a placement, in graph order, with its expected noise.

    Raises:
        InputError: The table is damaged, or lacks all tensors of a group.
    """
    macs = {layer.name: layer.macs or 0 for layer in statistics(model).layers}
    total = max(sum(macs.values()), 1)
    tensors = _tensors(model, placement, table)
    weights = check.constants(model)
    groups = []
    for root, readers in group_readers(placement).items():
        known = [tensors[n] for n, r in placement.group_of.items() if r == root and n in tensors]
        nodes = [(model.graph.node[i], placement.weights.get(i)) for i in readers]
        weighted = [(node, weight) for node, weight in nodes if weight]
        noises = [
            _noise(tensors[node.input[0]], _output_first(weights[weight.name], weight))
            for node, weight in weighted
            if node.input[0] in tensors
        ]
        groups.append(
            Group(
                name=root,
                layers=tuple(label(node) for node, _ in nodes),
                expected_noise=max(noises or [one.noise for one in known]),
                mac_share=sum(macs[label(node)] for node, _ in weighted) / total,
                has_weights=bool(weighted),
            )
        )
    return tuple(groups)


def _tensors(model: onnx.ModelProto, placement: Placement, table: RangeTable) -> dict[str, _Tensor]:
    """Signal and error of every tensor with a pair, rounded with the scale of its group."""
    histograms, means = ranges.read_histograms(table), ranges.read_means(table)
    of_group = ranges.group_ranges(placement.group_of, ranges.read_table(table).tensors)
    scale_of = ranges.tensor_scales({root: one.amax for root, one in of_group.items()})
    positive = non_negative(model)
    tensors = {}
    for name, root in placement.group_of.items():
        if name in histograms:
            scale = float(scale_of[root])
            plain = means[name].plain if name in means else None
            tensors[name] = _tensor(histograms[name], scale, plain, is_positive=name in positive)
    missing = set(placement.group_of.values()) - {placement.group_of[name] for name in tensors}
    if missing:
        raise InputError(
            f"the range table knows nothing of {len(missing)} groups, first '{min(missing)}'",
            hint="calibrate this graph again",
        )
    return tensors


def _tensor(
    histogram: Observation, scale: float, plain: NDArray[np.float64] | None, *, is_positive: bool
) -> _Tensor:
    if histogram.amax == 0.0:
        return _Tensor(power=0.0, error=0.0, channels=None)
    edges, count = histogram.trimmed_histogram()
    squares = (edges[1:] ** 3 - edges[:-1] ** 3) / np.diff(edges) / 3
    total = float(count.sum())
    power = float(count @ squares) / total
    channels = None
    if plain is not None:
        # The mean tells how large a channel is only if no value is negative; else all count alike.
        is_telling = is_positive and plain.any()
        share = plain**2 / np.mean(plain**2) if is_telling else np.ones(plain.shape)
        channels = power * share
    error = squared_error(scale * scales.LEVELS, edges, count) / total
    return _Tensor(power=power, error=error, channels=channels)


def _output_first(tensor: onnx.TensorProto, weight: Weight) -> NDArray[np.float32]:
    """The weights as an array [O, I, kernel positions]."""
    values = np.moveaxis(numpy_helper.to_array(tensor), weight.axis, 0)
    return values.reshape(*values.shape[:2], -1)


def _noise(tensor: _Tensor, weight: NDArray[np.float32]) -> float:
    """Noise to signal of a layer's output, assuming independent inputs and rounding errors."""
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
    error = np.minimum(tensor.error, channels)  # a channel below half a step is rounded to 0
    signal = float(np.sum(gain * channels))
    return float(np.sum(gain * error + lost * channels)) / signal if signal else 0.0
