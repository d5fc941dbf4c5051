"""A simplified graph as a PyTorch module that can be trained, in float or as its int8 graph.

A typed graph is an ONNX graph that states its precision, here by Q/DQ pairs. With a
``Quantization`` the module rounds weights and activations as the pairs of the typed graph do, so
that it computes what the typed graph will compute.
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

Operation = Callable[..., Tensor]
Arrays = Mapping[str, NDArray[Any]]
_MIN_LEVEL = -128.0  # lowest int8 level of activations in QuantizeLinear; weights use -127


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The placement of the Q/DQ pairs, and the scale of each group by its root tensor.

    A group is a set of tensors that share a scale. Scales of weights follow from the weights.
    """

    placement: Placement
    scale_of: Mapping[str, float]


class FakeQuantize(torch.autograd.Function):
    """QuantizeLinear and DequantizeLinear on a tensor, with zero point 0.

    The gradient passes unchanged where the value is within range, and is 0 where it is clipped.

    Source: ONNX QuantizeLinear; the straight-through estimator of arXiv:1308.3432.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, min_level: float) -> Tensor:
        """``values``, each rounded to ``scale`` (broadcast) times a level, ``min_level`` to 127."""
        levels = (values / scale).round_()
        ctx.save_for_backward((levels >= min_level) & (levels <= scales.LEVELS))
        return levels.clamp_(min_level, scales.LEVELS).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (is_within,) = ctx.saved_tensors
        return gradients[0] * is_within, None, None


def fake_quantize(values: Tensor, scale: Tensor, min_level: float) -> Tensor:
    """``FakeQuantize`` applied to ``values``, with its gradient."""
    result: Tensor = FakeQuantize.apply(values, scale, min_level)  # type: ignore[no-untyped-call]
    return result


def fake_quantize_weight(weight: Tensor, axis: int) -> Tensor:
    """Weights rounded as in the typed graph, with one scale for each channel on ``axis``.

    Raises:
        InputError: Training made the weights too large for a scale.
    """
    other_axes = [i for i in range(weight.ndim) if i != axis]
    amax = weight.detach().abs().amax(other_axes).cpu().numpy()
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
    """One node: keys of the values that it reads, of its output, and of the values to free then.

    A key is a tensor's name, or for its value behind the pair the ``_dequantized`` name.
    """

    run: Operation
    inputs: tuple[str, ...]
    output: str
    unused: tuple[str, ...]


class GraphModule(nn.Module):
    """A module from images [N, 3, H, W] float32 to the graph's output [N, classes].

    The parameters are the weights and biases of Conv and Gemm nodes; other constants stay fixed.

    Args:
        model: A simplified graph with one float32 image input and one output.
        quantization: The pairs of its typed graph; with None the module computes in float.

    Raises:
        InputError: A node has an op, or an attribute of an op, that this module cannot compute.
    """

    is_embedding = False
    auxiliary_weights = ()

    def __init__(self, model: onnx.ModelProto, quantization: Quantization | None = None) -> None:
        super().__init__()
        graph = model.graph
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._input_name, self._output_name = image_input(model).name, graph.output[0].name
        self._quantization = quantization
        self._weight_names = _find_weights(graph, arrays)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(arrays[name].copy())) for name in self._weight_names
        )
        others = (name for name in arrays if name not in self._weight_names)
        self._constant_names = [name for name in others if arrays[name].dtype == np.float32]
        for index, name in enumerate(self._constant_names):
            value = torch.from_numpy(arrays[name].copy())
            self.register_buffer(f"fixed{index}", value, persistent=False)
        scale_of = quantization.scale_of if quantization else {}
        self._scale_buffers = {root: f"scale{index}" for index, root in enumerate(scale_of)}
        for root, scale in scale_of.items():
            value = torch.tensor(scale, dtype=torch.float32)
            self.register_buffer(self._scale_buffers[root], value, persistent=False)
        self._steps = _plan_steps(graph, arrays, quantization.placement if quantization else None)

    def forward(self, images: Tensor) -> Tensor:
        """The output of the graph or, with a ``Quantization``, of its int8 graph."""
        values: dict[str, Tensor] = dict(zip(self._weight_names, self.weights, strict=True))
        values |= {name: getattr(self, f"fixed{i}") for i, name in enumerate(self._constant_names)}
        placement = self._quantization.placement if self._quantization else None
        for weight in placement.weights.values() if placement else ():
            values[_dequantized(weight.name)] = fake_quantize_weight(
                values[weight.name], weight.axis
            )
        self._store(values, self._input_name, images)
        for step in self._steps:
            self._store(values, step.output, step.run(*(values[name] for name in step.inputs)))
            for name in step.unused:
                values.pop(name, None)
        return values[self._output_name]

    def _store(self, values: dict[str, Tensor], name: str, value: Tensor) -> None:
        """Store the value of a tensor and, if it has a pair, the value behind the pair."""
        values[name] = value
        root = self._quantization.placement.group_of.get(name) if self._quantization else None
        if root is not None:
            scale = getattr(self, self._scale_buffers[root])
            values[_dequantized(name)] = fake_quantize(value, scale, _MIN_LEVEL)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Name of an initializer -> its trained values."""
        return {
            name: weight.detach().cpu().contiguous().numpy()
            for name, weight in zip(self._weight_names, self.weights, strict=True)
        }


def _dequantized(name: str) -> str:
    """Key of a tensor's value behind its pair."""
    return f"{name}.dq"


def _find_weights(graph: onnx.GraphProto, arrays: Arrays) -> tuple[str, ...]:
    """Names of the constant weights and biases of Conv and Gemm nodes, each once."""
    nodes = (node for node in graph.node if node.op_type in WEIGHTED_OPS)
    names = (name for node in nodes for name in node.input[1:] if name in arrays)
    return tuple(dict.fromkeys(names))


def _plan_steps(
    graph: onnx.GraphProto, arrays: Arrays, placement: Placement | None
) -> tuple[_Step, ...]:
    last_reader = {name: index for index, node in enumerate(graph.node) for name in node.input}
    outputs = {value.name for value in graph.output}
    steps = []
    for index, node in enumerate(graph.node):
        names = dict.fromkeys((*node.input, *node.output))
        unused = [n for n in names if last_reader.get(n, index) == index and n not in outputs]
        steps.append(
            _Step(
                run=_operation(node, arrays),
                inputs=tuple(_input_key(index, name, placement) for name in _float_inputs(node)),
                output=node.output[0],
                unused=(*unused, *map(_dequantized, unused)),
            )
        )
    return tuple(steps)


def _input_key(index: int, name: str, placement: Placement | None) -> str:
    """Key of the value that node ``index`` reads as ``name``: the tensor's, or that of its pair."""
    if placement is None:
        return name
    weight = placement.weights.get(index)
    is_quantized = index in placement.readers.get(name, ()) or (weight and weight.name == name)
    return _dequantized(name) if is_quantized else name


def _float_inputs(node: onnx.NodeProto) -> list[str]:
    """Names of a node's inputs without the empty ones and the shape of a Reshape."""
    return list(node.input[:1]) if node.op_type == "Reshape" else [n for n in node.input if n]


def _operation(node: onnx.NodeProto, arrays: Arrays) -> Operation:
    """A function that computes the node from its tensors.

    Raises:
        InputError: The node cannot be trained here.
    """
    build = _OPERATIONS.get(node.op_type)
    if build is None or len(node.output) > 1:
        _refuse(node, node.op_type if build is None else f"{node.op_type} with two outputs")
    return build(node, arrays)


def _refuse(node: onnx.NodeProto, description: str) -> NoReturn:
    raise InputError(
        f"node '{node.name}': {description} cannot be trained",
        hint=f"ops that can: {', '.join(sorted(_OPERATIONS))}",
    )


def _pads(node: onnx.NodeProto) -> tuple[list[int], list[int]]:
    """Padding of [height, width] in pixels: before the map, and after it."""
    if attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        _refuse(node, f"{node.op_type} with auto_pad")
    pads = integers(node, "pads", (0, 0, 0, 0))
    return pads[:2], pads[2:]


def _pad(x: Tensor, begin: list[int], end: list[int], value: float) -> Tensor:
    return functional.pad(x, (begin[1], end[1], begin[0], end[0]), value=value)


def _convolution(node: onnx.NodeProto, _: Arrays) -> Operation:
    begin, end = _pads(node)
    options: dict[str, Any] = {
        "stride": integers(node, "strides", (1, 1)),
        "dilation": integers(node, "dilations", (1, 1)),
        "groups": attribute(node, "group", 1),
    }
    if begin == end:
        return partial(functional.conv2d, padding=begin, **options)
    run = partial(functional.conv2d, padding=0, **options)
    return lambda x, *weights: run(_pad(x, begin, end, 0.0), *weights)


def _max_pool(node: onnx.NodeProto, _: Arrays) -> Operation:
    (begin, end), kernel = _pads(node), integers(node, "kernel_shape")
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": integers(node, "strides", (1, 1)),
        "dilation": integers(node, "dilations", (1, 1)),
        "ceil_mode": bool(attribute(node, "ceil_mode", 0)),
    }
    # PyTorch pads by at most half a kernel, and equally on both sides.
    if begin == end and all(2 * pad <= size for pad, size in zip(begin, kernel, strict=True)):
        return partial(functional.max_pool2d, padding=begin, **options)
    return lambda x: functional.max_pool2d(_pad(x, begin, end, -torch.inf), **options)


def _average_pool(node: onnx.NodeProto, _: Arrays) -> Operation:
    """The mean of each window, whose padding counts if ``count_include_pad`` is set."""
    begin, end = _pads(node)
    if attribute(node, "ceil_mode", 0):
        _refuse(node, "AveragePool with ceil_mode")
    kernel, stride = integers(node, "kernel_shape"), integers(node, "strides", (1, 1))
    count_include_pad = bool(attribute(node, "count_include_pad", 0))

    def pad_and_pool(x: Tensor) -> Tensor:
        return functional.avg_pool2d(_pad(x, begin, end, 0.0), kernel, stride)

    def pool_without_padding(x: Tensor) -> Tensor:
        return pad_and_pool(x) / pad_and_pool(torch.ones_like(x[:1, :1]))

    return pad_and_pool if count_include_pad else pool_without_padding


def _gemm(node: onnx.NodeProto, _: Arrays) -> Operation:
    is_transposed = [bool(attribute(node, name, 0)) for name in ("transA", "transB")]
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    assert isinstance(alpha, float)
    assert isinstance(beta, float)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = alpha * ((a.T if is_transposed[0] else a) @ (b.T if is_transposed[1] else b))
        return product if c is None else product + beta * c

    return run


def _reshape(node: onnx.NodeProto, arrays: Arrays) -> Operation:
    """A Reshape to a constant shape, where 0 copies the size of the input."""
    if node.input[1] not in arrays:
        _refuse(node, "Reshape to a computed shape")
    shape = [int(size) for size in arrays[node.input[1]]]
    return lambda x: x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)])


def _local_response_norm(node: onnx.NodeProto, _: Arrays) -> Operation:
    size = attribute(node, "size", 0)
    assert isinstance(size, int)
    if size % 2 == 0:
        _refuse(node, f"LRN over {size} channels, an even number,")
    options: dict[str, Any] = {
        "alpha": attribute(node, "alpha", 1e-4),
        "beta": attribute(node, "beta", 0.75),
        "k": attribute(node, "bias", 1.0),
    }
    return partial(functional.local_response_norm, size=size, **options)


def _axis(node: onnx.NodeProto, default: int) -> int:
    axis = attribute(node, "axis", default)
    assert isinstance(axis, int)
    return axis


def _flatten(node: onnx.NodeProto, _: Arrays) -> Operation:
    """A Flatten to a matrix; the axes from ``axis`` on become its columns."""
    axis = _axis(node, 1)
    return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


def _without_attributes(run: Operation) -> Callable[[onnx.NodeProto, Arrays], Operation]:
    """A builder that gives ``run`` for every node."""
    return lambda _node, _arrays: run


_OPERATIONS: Mapping[str, Callable[[onnx.NodeProto, Arrays], Operation]] = {
    "Add": _without_attributes(torch.add),
    "AveragePool": _average_pool,
    "Concat": lambda node, _: lambda *parts: torch.cat(parts, dim=_axis(node, 1)),
    "Conv": _convolution,
    "Div": _without_attributes(torch.div),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _without_attributes(lambda x: x.mean((2, 3), keepdim=True)),
    "LRN": _local_response_norm,
    "MaxPool": _max_pool,
    "Mul": _without_attributes(torch.mul),
    "Relu": _without_attributes(torch.relu),
    "Reshape": _reshape,
    "Softmax": lambda node, _: partial(torch.softmax, dim=_axis(node, -1)),
    "Sub": _without_attributes(torch.sub),
}
