"""A simplified graph as a PyTorch module that can be trained, in float or as its int8 graph.

A typed graph is an ONNX graph that states its precision, here by Q/DQ pairs. With a ``Rounding``
every tensor that carries a pair in the typed graph is rounded by the same pair here, and so are the
weights, so that the module computes what the typed graph will compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from edge_inception.errors import InputError
from edge_inception.graph.check import attribute, image_input, integers
from edge_inception.quant import scales
from edge_inception.quant.placement import WEIGHTED_OPS, Placement

Op = Callable[..., Tensor]
Arrays = Mapping[str, NDArray[Any]]
_LOWEST = -128.0  # lowest int8 level of activations in QuantizeLinear; weights use -127


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """The placement of the pairs, and the scale of every root, the tensor that names a group.

    The scales of weights are not held here: they follow from the weights.
    """

    placement: Placement
    scale_of: Mapping[str, float]


class FakeQuantize(torch.autograd.Function):
    """QuantizeLinear and DequantizeLinear on a tensor, with zero point 0.

    The gradient is passed on unchanged where the value is within range, and is 0 where the value is
    clipped.

    Source: ONNX QuantizeLinear; the straight-through estimator of arXiv:1308.3432.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, lowest: float) -> Tensor:
        """``values`` as the nearest of ``lowest`` to 127 times ``scale``, which broadcasts."""
        steps = (values / scale).round_()
        ctx.save_for_backward((steps >= lowest) & (steps <= scales.LEVELS))
        return steps.clamp_(lowest, scales.LEVELS).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (is_within,) = ctx.saved_tensors
        return gradients[0] * is_within, None, None


def fake_quantize(values: Tensor, scale: Tensor, lowest: float) -> Tensor:
    """``FakeQuantize`` applied to ``values``, with its gradient."""
    result: Tensor = FakeQuantize.apply(values, scale, lowest)  # type: ignore[no-untyped-call]
    return result


def fake_quantize_weight(weight: Tensor, axis: int) -> Tensor:
    """Weights rounded as in the typed graph, with one scale per output channel from their values.

    Raises:
        InputError: Training made the weights too large for a scale.
    """
    others = [i for i in range(weight.ndim) if i != axis]
    amax = weight.detach().abs().amax(others).cpu().numpy()
    try:
        channel_scales = scales.int8_scale(amax)
    except ValueError as error:
        raise InputError(
            f"weights without a scale: {error}", hint="lower --learning-rate"
        ) from error
    scale = scales.along(channel_scales, axis=axis, ndim=weight.ndim)
    return fake_quantize(weight, torch.from_numpy(scale).to(weight.device), -scales.LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One node: the keys of the values it reads, of its output, and of the values to free after it.

    A key is a tensor's name, or the name of its value behind the pair (``_dequantized``).
    """

    run: Op
    inputs: tuple[str, ...]
    output: str
    frees: tuple[str, ...]


class GraphModule(nn.Module):
    """A module from images [N, 3, H, W] float32 to the graph's output [N, classes].

    The parameters are the weights and biases of Conv and Gemm nodes; other constants stay fixed.

    Args:
        model: A simplified graph with one float32 image input and one output.
        rounding: The pairs of its typed graph; with None the module computes in float.

    Raises:
        InputError: A node has an op, or an attribute of an op, that this module cannot compute.
    """

    is_embedding = False
    auxiliary_weights = ()

    def __init__(self, model: onnx.ModelProto, rounding: Rounding | None = None) -> None:
        super().__init__()
        graph = model.graph
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._source, self._answer = image_input(model).name, graph.output[0].name
        self._rounding = rounding
        self._names = _trained_names(graph, arrays)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(arrays[name].copy())) for name in self._names
        )
        self._fixed = [n for n in arrays if n not in self._names and arrays[n].dtype == np.float32]
        for index, name in enumerate(self._fixed):
            value = torch.from_numpy(arrays[name].copy())
            self.register_buffer(f"fixed{index}", value, persistent=False)
        roots = rounding.scale_of if rounding else {}
        self._roots = {root: f"scale{index}" for index, root in enumerate(roots)}
        for root, scale in roots.items():
            value = torch.tensor(scale, dtype=torch.float32)
            self.register_buffer(self._roots[root], value, persistent=False)
        self._steps = _steps(graph, arrays, rounding.placement if rounding else None)

    def forward(self, images: Tensor) -> Tensor:
        """The graph's output; with a ``Rounding`` that of the int8 graph with a float32 rest."""
        values: dict[str, Tensor] = dict(zip(self._names, self.weights, strict=True))
        values |= {name: getattr(self, f"fixed{i}") for i, name in enumerate(self._fixed)}
        placement = self._rounding.placement if self._rounding else None
        for weight in placement.weights.values() if placement else ():
            values[_dequantized(weight.name)] = fake_quantize_weight(
                values[weight.name], weight.axis
            )
        self._keep(values, self._source, images)
        for step in self._steps:
            self._keep(values, step.output, step.run(*(values[name] for name in step.inputs)))
            for name in step.frees:
                values.pop(name, None)
        return values[self._answer]

    def _keep(self, values: dict[str, Tensor], name: str, value: Tensor) -> None:
        """Store the value of a tensor and, if it has a pair, the value behind the pair."""
        values[name] = value
        root = self._rounding.placement.group_of.get(name) if self._rounding else None
        if root is not None:
            scale = getattr(self, self._roots[root])
            values[_dequantized(name)] = fake_quantize(value, scale, _LOWEST)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name of an initializer -> its trained values."""
        return {
            name: weight.detach().cpu().contiguous().numpy()
            for name, weight in zip(self._names, self.weights, strict=True)
        }


def _dequantized(name: str) -> str:
    """Key of a tensor's value behind its pair."""
    return f"{name}.dq"


def _trained_names(graph: onnx.GraphProto, arrays: Arrays) -> tuple[str, ...]:
    read = (name for node in graph.node if node.op_type in WEIGHTED_OPS for name in node.input[1:])
    return tuple(dict.fromkeys(name for name in read if name in arrays))


def _steps(
    graph: onnx.GraphProto, arrays: Arrays, placement: Placement | None
) -> tuple[_Step, ...]:
    last = {name: index for index, node in enumerate(graph.node) for name in node.input}
    outputs = {value.name for value in graph.output}
    steps = []
    for index, node in enumerate(graph.node):
        unread = [name for name in (*node.input, *node.output) if last.get(name, index) == index]
        frees = tuple(name for name in dict.fromkeys(unread) if name not in outputs)
        steps.append(
            _Step(
                run=_operation(node, arrays),
                inputs=tuple(_read(index, name, placement) for name in _tensors(node)),
                output=node.output[0],
                frees=(*frees, *map(_dequantized, frees)),
            )
        )
    return tuple(steps)


def _read(index: int, name: str, placement: Placement | None) -> str:
    """Key of the value that node ``index`` reads as ``name``: the tensor's, or that of its pair."""
    if placement is None:
        return name
    weight = placement.weights.get(index)
    is_rounded = index in placement.readers.get(name, ()) or (weight and weight.name == name)
    return _dequantized(name) if is_rounded else name


def _tensors(node: onnx.NodeProto) -> list[str]:
    """Names of a node's inputs that are float tensors, which leaves out the shape of a Reshape."""
    return list(node.input[:1]) if node.op_type == "Reshape" else [n for n in node.input if n]


def _operation(node: onnx.NodeProto, arrays: Arrays) -> Op:
    """A function that computes the node from its tensors.

    Raises:
        InputError: The node cannot be trained here.
    """
    build = _OPERATIONS.get(node.op_type)
    if build is None or len(node.output) > 1:
        _refuse(node, node.op_type if build is None else f"{node.op_type} with two outputs")
    return build(node, arrays)


def _refuse(node: onnx.NodeProto, what: str) -> NoReturn:
    raise InputError(
        f"node '{node.name}': {what} cannot be trained",
        hint=f"ops that can: {', '.join(sorted(_OPERATIONS))}",
    )


def _sides(node: onnx.NodeProto) -> tuple[list[int], list[int]]:
    """Padding of [height, width] in pixels at the beginning, and at the end."""
    if attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        _refuse(node, f"{node.op_type} with auto_pad")
    pads = integers(node, "pads", (0, 0, 0, 0))
    return pads[:2], pads[2:]


def _padded(x: Tensor, begin: list[int], end: list[int], value: float) -> Tensor:
    return functional.pad(x, (begin[1], end[1], begin[0], end[0]), value=value)


def _convolution(node: onnx.NodeProto, _: Arrays) -> Op:
    begin, end = _sides(node)
    settings: dict[str, Any] = {
        "stride": integers(node, "strides", (1, 1)),
        "dilation": integers(node, "dilations", (1, 1)),
        "groups": attribute(node, "group", 1),
    }
    if begin == end:
        return partial(functional.conv2d, padding=begin, **settings)
    run = partial(functional.conv2d, padding=0, **settings)
    return lambda x, *weights: run(_padded(x, begin, end, 0.0), *weights)


def _max_pool(node: onnx.NodeProto, _: Arrays) -> Op:
    (begin, end), kernel = _sides(node), integers(node, "kernel_shape")
    settings: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": integers(node, "strides", (1, 1)),
        "dilation": integers(node, "dilations", (1, 1)),
        "ceil_mode": bool(attribute(node, "ceil_mode", 0)),
    }
    if begin == end and all(2 * side <= size for side, size in zip(begin, kernel, strict=True)):
        return partial(functional.max_pool2d, padding=begin, **settings)
    return lambda x: functional.max_pool2d(_padded(x, begin, end, -torch.inf), **settings)


def _average_pool(node: onnx.NodeProto, _: Arrays) -> Op:
    """The sum of each padded window, divided by the number of its pixels.

    Pixels of the padding are included in that number if ``count_include_pad`` is set.
    """
    begin, end = _sides(node)
    if attribute(node, "ceil_mode", 0):
        _refuse(node, "AveragePool with ceil_mode")
    kernel, stride = integers(node, "kernel_shape"), integers(node, "strides", (1, 1))
    are_pads_counted = bool(attribute(node, "count_include_pad", 0))

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(_padded(x, begin, end, 0.0), kernel, stride)

    def run(x: Tensor) -> Tensor:
        means = mean(x)
        return means if are_pads_counted else means / mean(torch.ones_like(x[:1, :1]))

    return run


def _gemm(node: onnx.NodeProto, _: Arrays) -> Op:
    is_turned = [bool(attribute(node, name, 0)) for name in ("transA", "transB")]
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    assert isinstance(alpha, float)
    assert isinstance(beta, float)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = (m.T if turned else m for m, turned in zip((a, b), is_turned, strict=True))
        product = alpha * (a @ b)
        return product if c is None else product + beta * c

    return run


def _reshape(node: onnx.NodeProto, arrays: Arrays) -> Op:
    """A Reshape to a constant shape, where 0 copies the size of the input."""
    if node.input[1] not in arrays:
        _refuse(node, "Reshape to a computed shape")
    shape = [int(size) for size in arrays[node.input[1]]]
    return lambda x: x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)])


def _local_response_norm(node: onnx.NodeProto, _: Arrays) -> Op:
    size = attribute(node, "size", 0)
    assert isinstance(size, int)
    if size % 2 == 0:
        _refuse(node, f"LRN over {size} channels, an even number,")
    settings: dict[str, Any] = {
        "alpha": attribute(node, "alpha", 1e-4),
        "beta": attribute(node, "beta", 0.75),
        "k": attribute(node, "bias", 1.0),
    }
    return partial(functional.local_response_norm, size=size, **settings)


def _concat(node: onnx.NodeProto, _: Arrays) -> Op:
    return lambda *parts: torch.cat(parts, dim=_axis(node, 1))


def _axis(node: onnx.NodeProto, default: int) -> int:
    axis = attribute(node, "axis", default)
    assert isinstance(axis, int)
    return axis


def _flatten(node: onnx.NodeProto, _: Arrays) -> Op:
    """A Flatten to a matrix; ``axis`` is the first of the axes that become the columns."""
    axis = _axis(node, 1)
    return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


def _plain(run: Op) -> Callable[[onnx.NodeProto, Arrays], Op]:
    """The builder of an op without attributes."""
    return lambda _node, _arrays: run


_OPERATIONS: Mapping[str, Callable[[onnx.NodeProto, Arrays], Op]] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "Concat": _concat,
    "Conv": _convolution,
    "Div": _plain(torch.div),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(lambda x: x.mean((2, 3), keepdim=True)),
    "LRN": _local_response_norm,
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Softmax": lambda node, _: partial(torch.softmax, dim=_axis(node, -1)),
    "Sub": _plain(torch.sub),
}
