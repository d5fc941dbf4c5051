"""Output shape, parameters and multiply-adds of each layer of an architecture, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from edge_inception.models._layers import (
    RGB_CHANNELS,
    SYMMETRIC,
    VALID,
    Architecture,
    AvgPool,
    BatchNorm,
    Bottleneck,
    ClassifierHead,
    Concat,
    Conv,
    Head,
    Layer,
    LocalResponseNorm,
    MaxPool,
    PlainConv,
    Residual,
    SeparableConv,
    Unit,
)

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Output shape, number of parameters, and multiply-adds per image of a layer."""

    shape: Shape
    num_parameters: int = 0
    macs: int = 0

    def then(self, after: Cost) -> Cost:
        """The cost of this layer and of ``after``, which takes its output."""
        return Cost(after.shape, self.num_parameters + after.num_parameters, self.macs + after.macs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row of an architecture's table, for ``count`` equal layers that follow each other.

    ``path`` is the module path, such as ``repeat.0-9``. ``what`` describes one of the layers in
    words; ``cost`` is the sum over all of them.
    """

    path: str
    what: str
    cost: Cost
    count: int = 1


def trace(architecture: Architecture, size: tuple[int, int]) -> list[TableRow]:
    """Rows from the image [3, *size] to the head, in order; auxiliary heads are left out.

    Raises:
        ValueError: The image is too small for a layer.
    """
    shape: Shape = (RGB_CHANNELS, *size)
    rows = []
    for path, layer in architecture.layers.items():
        cost = _layer(layer, shape)
        if min(cost.shape) < 1:
            raise ValueError(f"the output of layer {path} would be empty")
        rows.append(TableRow(path=path, what=_DESCRIPTIONS[type(layer)](layer), cost=cost))
        shape = cost.shape
    return [*rows, _head(architecture.head, shape[0])]


def total_cost(rows: list[TableRow]) -> Cost:
    """Sum of the costs of all rows, with the output shape of the last row."""
    return Cost(
        rows[-1].cost.shape,
        sum(row.cost.num_parameters for row in rows),
        sum(row.cost.macs for row in rows),
    )


def _head(head: Head, channels: int) -> TableRow:
    if isinstance(head, ClassifierHead):
        features = [channels, *([head.hidden] if head.hidden else []), head.num_classes]
        parameters = sum((a + 1) * b for a, b in pairwise(features))
        macs = sum(a * b for a, b in pairwise(features))
        cost = Cost((head.num_classes, 1, 1), parameters, macs)
        return TableRow(path=head.name, what="global average pool, linear", cost=cost)
    cost = Cost((head.size, 1, 1), (channels + 2) * head.size, channels * head.size)
    if head.num_classes is None:
        return TableRow(path="last_linear", what="global average pool, embedding", cost=cost)
    classes = head.num_classes
    cost = cost.then(Cost((classes, 1, 1), (head.size + 1) * classes, head.size * classes))
    return TableRow(path="logits", what="pool, embedding, linear", cost=cost)


def _layer(layer: Layer, shape: Shape) -> Cost:
    compute = _COSTS.get(type(layer), _unit)
    return compute(layer, shape)


def _residual(layer: Residual, shape: Shape) -> Cost:
    cost = _concat(layer.branches, shape)
    return cost.then(_conv(cost.shape, shape[0], (1, 1), has_bias=True))


def _separable(layer: SeparableConv, shape: Shape) -> Cost:
    height, width = _output_size(shape, layer.kernel, layer.stride, layer.padding)
    channels = shape[0] * layer.multiplier
    weights = channels * layer.kernel[0] * layer.kernel[1]
    depthwise = Cost((channels, height, width), weights, weights * height * width)
    return depthwise.then(_conv(depthwise.shape, layer.out_channels, (1, 1), has_bias=True))


def _concat(layer: Concat, shape: Shape) -> Cost:
    costs: dict[tuple[str, ...], Cost] = {(): Cost(shape)}
    for route in layer.routes:
        for depth, name in enumerate(route, start=1):
            if route[:depth] not in costs:
                costs[route[:depth]] = _unit(layer.units[name], costs[route[: depth - 1]].shape)
    outputs = [costs[route].shape for route in layer.routes]
    return Cost(
        (sum(output[0] for output in outputs), *outputs[0][1:]),
        sum(cost.num_parameters for cost in costs.values()),
        sum(cost.macs for cost in costs.values()),
    )


def _bottleneck(layer: Bottleneck, shape: Shape) -> Cost:
    cost = _with_norm(_conv(shape, layer.width, (1, 1), layer.strides[0]))
    cost = cost.then(_with_norm(_conv(cost.shape, layer.width, (3, 3), layer.strides[1])))
    cost = cost.then(_with_norm(_conv(cost.shape, layer.out_channels, (1, 1))))
    if not layer.has_projection:
        return cost
    return _with_norm(_conv(shape, layer.out_channels, (1, 1), layer.stride)).then(cost)


def _with_norm(conv: Cost) -> Cost:
    return conv.then(Cost(conv.shape, 2 * conv.shape[0]))


def _unit(unit: Unit, shape: Shape) -> Cost:
    if isinstance(unit, tuple):
        cost = Cost(shape)
        for part in unit:
            cost = cost.then(_unit(part, cost.shape))
        return cost
    if isinstance(unit, Conv):
        kernel, stride, padding = unit.kernel, unit.stride, unit.padding
        cost = _conv(shape, unit.out_channels, kernel, stride, padding, has_bias=unit.has_bias)
        return cost if unit.norm_eps is None else _with_norm(cost)
    if isinstance(unit, AvgPool):
        return Cost(shape)
    return Cost((shape[0], _pooled_size(shape[1], unit), _pooled_size(shape[2], unit)))


def _conv(
    shape: Shape,
    out_channels: int,
    kernel: tuple[int, int],
    stride: int = 1,
    padding: str = SYMMETRIC,
    *,
    has_bias: bool = False,
) -> Cost:
    height, width = _output_size(shape, kernel, stride, padding)
    weights = shape[0] * out_channels * kernel[0] * kernel[1]
    parameters = weights + has_bias * out_channels
    return Cost((out_channels, height, width), parameters, weights * height * width)


def _output_size(
    shape: Shape, kernel: tuple[int, int], stride: int, padding: str
) -> tuple[int, int]:
    """Height and width of a convolution's output; for odd kernels SYMMETRIC and TF_SAME agree."""
    if padding == VALID:
        return (shape[1] - kernel[0]) // stride + 1, (shape[2] - kernel[1]) // stride + 1
    return -(-shape[1] // stride), -(-shape[2] // stride)


def _pooled_size(size: int, pool: MaxPool) -> int:
    last_start = size + 2 * pool.padding - pool.kernel
    steps = -(-last_start // pool.stride) if pool.ceil_mode else last_start // pool.stride
    # A window that would start in the padding after the map is dropped, as in PyTorch.
    return steps + (steps * pool.stride < size + pool.padding)


def _describe_kernel(layer: Conv | PlainConv | SeparableConv) -> str:
    return f"conv {layer.kernel[0]}x{layer.kernel[1]}{_describe_stride(layer.stride)}"


def _describe_stride(stride: int) -> str:
    return f", stride {stride}" if stride > 1 else ""


def _describe_residual(layer: Residual) -> str:
    scale = "" if layer.scale == 1.0 else f" x {layer.scale:g}"
    return f"residual, {len(layer.branches.routes)} branches{scale}"


_COSTS: Mapping[type, Callable[[Any, Shape], Cost]] = {
    Concat: _concat,
    Residual: _residual,
    Bottleneck: _bottleneck,
    SeparableConv: _separable,
    PlainConv: lambda layer, shape: _conv(shape, layer.out_channels, layer.kernel, layer.stride),
    BatchNorm: lambda _, shape: Cost(shape, 2 * shape[0]),
    LocalResponseNorm: lambda _, shape: Cost(shape),
}
_DESCRIPTIONS: Mapping[type, Callable[[Any], str]] = {
    Conv: _describe_kernel,
    PlainConv: _describe_kernel,
    SeparableConv: lambda layer: f"separable {_describe_kernel(layer)}",
    MaxPool: lambda layer: (
        f"max pool {layer.kernel}x{layer.kernel}{_describe_stride(layer.stride)}"
    ),
    AvgPool: lambda layer: f"average pool {layer.kernel}x{layer.kernel}",
    Concat: lambda layer: f"{len(layer.routes)} branches",
    Residual: _describe_residual,
    Bottleneck: lambda layer: "bottleneck" + (", projection" if layer.has_projection else ""),
    BatchNorm: lambda _: "batch norm, ReLU",
    LocalResponseNorm: lambda layer: f"local response norm over {layer.size}",
}


def group_rows(rows: list[TableRow]) -> Iterator[TableRow]:
    """The rows, where successive equal layers share one row such as ``repeat.0-9``."""
    for _, equal_rows in groupby(rows, key=lambda row: (row.what, row.cost)):
        first, *rest = equal_rows
        path = f"{first.path}-{rest[-1].path.rpartition('.')[2]}" if rest else first.path
        cost = total_cost([first, *rest])
        yield TableRow(path=path, what=first.what, cost=cost, count=1 + len(rest))
