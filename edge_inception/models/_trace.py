"""Output shape, parameters and multiply-adds of each layer of an architecture, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edge_inception.models._layers import (
    RGB_CHANNELS,
    SAME,
    VALID,
    Architecture,
    AvgPool,
    BatchNorm,
    Bottleneck,
    ClassifierHead,
    Concat,
    Conv,
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
_EXPANSION = 4


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
class Stage:
    """One row of an architecture's table, for ``count`` equal layers that follow each other.

    ``what`` describes one of the layers in words; ``cost`` is the sum over all of them.
    """

    path: str
    what: str
    cost: Cost
    count: int = 1


def trace(architecture: Architecture, size: tuple[int, int]) -> list[Stage]:
    """Rows from the image [3, *size] to the head, in order; auxiliary heads are left out.

    Raises:
        ValueError: The image is too small for a layer.
    """
    shape: Shape = (RGB_CHANNELS, *size)
    stages = []
    for path, layer in architecture.layers.items():
        cost = _layer(layer, shape)
        if min(cost.shape) < 1:
            raise ValueError(f"the output of layer {path} would be empty")
        stages.append(Stage(path=path, what=_WORDS[type(layer)](layer), cost=cost))
        shape = cost.shape
    return [*stages, _head(architecture, shape[0])]


def total(stages: list[Stage]) -> Cost:
    """Sum of the costs of all rows, with the output shape of the last row."""
    return Cost(
        stages[-1].cost.shape,
        sum(stage.cost.num_parameters for stage in stages),
        sum(stage.cost.macs for stage in stages),
    )


def _head(architecture: Architecture, channels: int) -> Stage:
    head = architecture.head
    if isinstance(head, ClassifierHead):
        sides = [channels, *([head.hidden] if head.hidden else []), head.num_classes]
        parameters = sum(a * b + b for a, b in pairwise(sides))
        macs = sum(a * b for a, b in pairwise(sides))
        cost = Cost((head.num_classes, 1, 1), parameters, macs)
        return Stage(path=head.name, what="global average pool, linear", cost=cost)
    embed = Cost((head.size, 1, 1), (channels + 2) * head.size, channels * head.size)
    if head.num_classes is None:
        return Stage(path="last_linear", what="global average pool, embedding", cost=embed)
    rows = head.num_classes
    logits = Cost((rows, 1, 1), (head.size + 1) * rows, head.size * rows)
    return Stage(path="logits", what="pool, embedding, linear", cost=embed.then(logits))


def _layer(layer: Layer, shape: Shape) -> Cost:
    compute = _COSTS.get(type(layer), _unit)
    return compute(layer, shape)


def _residual(layer: Residual, shape: Shape) -> Cost:
    inside = _concat(layer.branches, shape)
    return inside.then(_conv(inside.shape, shape[0], (1, 1), has_bias=True))


def _separable(layer: SeparableConv, shape: Shape) -> Cost:
    sides = _sides(shape, layer.kernel, layer.stride, layer.padding)
    weights = shape[0] * layer.multiplier * layer.kernel[0] * layer.kernel[1]
    depth = Cost((shape[0] * layer.multiplier, *sides), weights, weights * sides[0] * sides[1])
    return depth.then(_conv(depth.shape, layer.out, (1, 1), has_bias=True))


def _concat(layer: Concat, shape: Shape) -> Cost:
    done: dict[tuple[str, ...], Cost] = {(): Cost(shape)}
    for route in layer.routes:
        for depth, name in enumerate(route, start=1):
            if route[:depth] not in done:
                done[route[:depth]] = _unit(layer.units[name], done[route[: depth - 1]].shape)
    ends = [done[route].shape for route in layer.routes]
    return Cost(
        (sum(end[0] for end in ends), *ends[0][1:]),
        sum(cost.num_parameters for cost in done.values()),
        sum(cost.macs for cost in done.values()),
    )


def _bottleneck(layer: Bottleneck, shape: Shape) -> Cost:
    out = layer.width * _EXPANSION
    first, second = (1, layer.stride) if layer.stride_in == "3x3" else (layer.stride, 1)
    cost = Cost(shape)
    for channels, kernel, stride in (
        (layer.width, 1, first),
        (layer.width, 3, second),
        (out, 1, 1),
    ):
        cost = cost.then(_normed(_conv(cost.shape, channels, (kernel, kernel), stride)))
    if not layer.has_projection:
        return cost
    return _normed(_conv(shape, out, (1, 1), layer.stride)).then(cost)


def _normed(cost: Cost) -> Cost:
    return cost.then(Cost(cost.shape, 2 * cost.shape[0]))


def _unit(unit: Unit, shape: Shape) -> Cost:
    if isinstance(unit, tuple):
        cost = Cost(shape)
        for part in unit:
            cost = cost.then(_unit(part, cost.shape))
        return cost
    if isinstance(unit, Conv):
        cost = _conv(
            shape, unit.out, unit.kernel, unit.stride, unit.padding, has_bias=unit.has_bias
        )
        return cost if unit.norm_eps is None else _normed(cost)
    if isinstance(unit, AvgPool):
        return Cost(shape)
    return Cost((shape[0], _pooled(shape[1], unit), _pooled(shape[2], unit)))


def _conv(
    shape: Shape,
    out: int,
    kernel: tuple[int, int],
    stride: int = 1,
    padding: str = SAME,
    *,
    has_bias: bool = False,
) -> Cost:
    sides = _sides(shape, kernel, stride, padding)
    weights = shape[0] * out * kernel[0] * kernel[1]
    return Cost((out, *sides), weights + has_bias * out, weights * sides[0] * sides[1])


def _sides(shape: Shape, kernel: tuple[int, int], stride: int, padding: str) -> tuple[int, int]:
    """Height and width of a convolution's output; for odd kernels SAME and TF_SAME agree."""
    if padding == VALID:
        return (shape[1] - kernel[0]) // stride + 1, (shape[2] - kernel[1]) // stride + 1
    return -(-shape[1] // stride), -(-shape[2] // stride)


def _pooled(side: int, pool: MaxPool) -> int:
    travel = side + 2 * pool.padding - pool.kernel
    steps = -(-travel // pool.stride) if pool.is_ceil else travel // pool.stride
    # A window that would start in the padding after the map is dropped, as in PyTorch.
    return steps + (steps * pool.stride < side + pool.padding)


def _stride(stride: int) -> str:
    return f", stride {stride}" if stride > 1 else ""


def _residual_words(layer: Residual) -> str:
    scale = "" if layer.scale == 1.0 else f" x {layer.scale:g}"
    return f"residual, {len(layer.branches.routes)} branches{scale}"


_COSTS: Mapping[type, Callable[[Any, Shape], Cost]] = {
    Concat: _concat,
    Residual: _residual,
    Bottleneck: _bottleneck,
    SeparableConv: _separable,
    PlainConv: lambda layer, shape: _conv(shape, layer.out, layer.kernel, layer.stride),
    BatchNorm: lambda _, shape: Cost(shape, 2 * shape[0]),
    LocalResponseNorm: lambda _, shape: Cost(shape),
}
_CONV_WORDS: Callable[[Any], str] = lambda layer: (  # noqa: E731 -- three layers share it
    f"conv {layer.kernel[0]}x{layer.kernel[1]}{_stride(layer.stride)}"
)
_WORDS: Mapping[type, Callable[[Any], str]] = {
    Conv: _CONV_WORDS,
    PlainConv: _CONV_WORDS,
    SeparableConv: lambda layer: f"separable {_CONV_WORDS(layer)}",
    MaxPool: lambda layer: f"max pool {layer.kernel}x{layer.kernel}{_stride(layer.stride)}",
    AvgPool: lambda layer: f"average pool {layer.kernel}x{layer.kernel}",
    Concat: lambda layer: f"{len(layer.routes)} branches",
    Residual: _residual_words,
    Bottleneck: lambda layer: "bottleneck" + (", projection" if layer.has_projection else ""),
    BatchNorm: lambda _: "batch norm, ReLU",
    LocalResponseNorm: lambda layer: f"local response norm over {layer.size}",
}


def grouped(stages: list[Stage]) -> Iterator[Stage]:
    """The rows, where successive equal layers share one row such as ``repeat.0-9``."""
    run: list[Stage] = []
    for stage in stages:
        if run and (stage.what, stage.cost) != (run[0].what, run[0].cost):
            yield _joined(run)
            run = []
        run.append(stage)
    yield _joined(run)


def _joined(run: list[Stage]) -> Stage:
    first, last = run[0], run[-1]
    if len(run) == 1:
        return first
    cost = total(run)
    path = f"{first.path}-{last.path.rpartition('.')[2]}"
    return Stage(path=path, what=first.what, cost=cost, count=len(run))
