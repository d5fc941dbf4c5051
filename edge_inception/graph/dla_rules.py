"""Rules on which layers NVIDIA's DLA can run, as published for TensorRT 8.2 to 10.7.

A rule returns the reason why TensorRT would run a node on the GPU instead, or an empty string. A
node on which the documents are silent is assigned to the GPU, so that the plan is never too good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, numpy_helper

from edge_inception.graph.check import attribute, integers
from edge_inception.graph.macs import OWN_DOMAINS

LAYERS = "TensorRT docs, DLA Supported Layers and Restrictions"
HEADER = "NvInfer.h of TensorRT 8.4"
OPERATORS = "operators/README.md of NVIDIA/Deep-Learning-Accelerator-SW"
_FACTS = 'docs/dla.md, "Limits"'

XAVIER, ORIN = "NVDLA 1.0", "DLA 2.0"
"""Generations of the DLA, as in the table of targets."""

_RANK = 4  # [N, C, H, W]
# Limits of the sources in RULES; pairs are (least, largest), for each axis where there are two.
_LARGEST_BATCH, _LARGEST_SIZE = 4096, 8192
_CONV_KERNEL, _CONV_STRIDE, _CONV_DILATION, _CONV_PAD = (1, 32), (1, 8), (1, 32), (0, 31)
_POOL_WINDOW, _POOL_STRIDE, _POOL_PAD = (1, 8), (1, 16), (0, 7)
_GROUPS = (1, 8192)
_CLIP = (1, 127)
_LRN_WINDOWS = (3, 5, 7, 9)
# Largest size of Softmax's axis: where all other axes but the batch have size 1, and elsewhere.
_SOFTMAX_ALONE, _SOFTMAX_AMONG = 8192, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphView:
    """What the rules read: sizes of tensors and constants by name, and the DLA's generation."""

    sizes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, TensorProto]
    generation: str

    def sizes_of(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor; empty when unknown."""
        return self.sizes.get(name, ())

    def computed(self, node: onnx.NodeProto) -> list[str]:
        """Names of a node's inputs that are not constants."""
        return [name for name in node.input if name and name not in self.constants]


Check = Callable[[onnx.NodeProto, GraphView], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The check of one op, and ``source``, the document that states the rule."""

    check: Check
    source: str


def _out_of_bounds(what: str, values: Sequence[int], bounds: tuple[int, int]) -> str:
    low, high = bounds
    bad = next((value for value in values if not low <= value <= high), None)
    return "" if bad is None else f"{what} {bad}, wanted {low} to {high}"


def _first_reason(*reasons: str) -> str:
    return next((reason for reason in reasons if reason), "")


def _windows(node: onnx.NodeProto, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads of a node's windows."""
    rank = len(kernel)
    strides = integers(node, "strides", [1] * rank)
    dilations = integers(node, "dilations", [1] * rank)
    return strides, dilations, integers(node, "pads", [0] * 2 * rank)


def _check_conv(node: onnx.NodeProto, view: GraphView) -> str:
    if node.input[1] not in view.constants:
        return "its weight is computed"
    _, _, *kernel = view.constants[node.input[1]].dims
    strides, dilations, pads = _windows(node, kernel)
    group = attribute(node, "group", 1)
    assert isinstance(group, int)
    is_wide = any(pad >= side for pad, side in zip(pads, [*kernel, *kernel], strict=True))
    return _first_reason(
        _out_of_bounds("kernel", kernel, _CONV_KERNEL),
        _out_of_bounds("stride", strides, _CONV_STRIDE),
        _out_of_bounds("dilation", dilations, _CONV_DILATION),
        _out_of_bounds("padding", pads, _CONV_PAD),
        "padding as large as the kernel" if is_wide else "",
        _out_of_bounds("groups", [group], _GROUPS),
    )


def _check_matrix(node: onnx.NodeProto, view: GraphView) -> str:
    """The check of Gemm and MatMul, which run as 1 x 1 convolutions."""
    if node.input[1] not in view.constants:
        return "its second input is computed"
    is_plain = attribute(node, "alpha", 1.0) == 1.0 and not attribute(node, "transA", 0)
    return "" if is_plain else "it scales or transposes its input"


def _check_pool(node: onnx.NodeProto, _view: GraphView) -> str:
    kernel = integers(node, "kernel_shape")
    strides, dilations, pads = _windows(node, kernel)
    return _first_reason(
        "more than one output" if len(node.output) > 1 else "",
        _out_of_bounds("window", kernel, _POOL_WINDOW),
        _out_of_bounds("stride", strides, _POOL_STRIDE),
        _out_of_bounds("padding", pads, _POOL_PAD),
        _out_of_bounds("dilation", dilations, (1, 1)),
    )


def _check_average(node: onnx.NodeProto, view: GraphView) -> str:
    is_exclusive = any(integers(node, "pads")) and not attribute(node, "count_include_pad", 0)
    if not is_exclusive:
        return _check_pool(node, view)
    if view.generation == XAVIER:
        return "it averages real pixels only; this DLA averages over the padding too"
    return "it averages real pixels only, which no document says of this DLA"


def _check_concat(node: onnx.NodeProto, view: GraphView) -> str:
    axis = attribute(node, "axis", None)
    assert isinstance(axis, int)
    sizes_of_inputs = [view.sizes_of(name) for name in node.input]
    spaces = {sizes[:1] + sizes[2:] for sizes in sizes_of_inputs}
    return _first_reason(
        f"axis {axis}, wanted that of the channels" if axis % _RANK != 1 else "",
        "a single input" if len(node.input) == 1 else "",
        "an input is a constant" if len(view.computed(node)) < len(node.input) else "",
        "its inputs have different heights or widths" if len(spaces) > 1 else "",
    )


def _check_elementwise(node: onnx.NodeProto, view: GraphView) -> str:
    """The check of an op on two computed tensors of equal sizes, or on a tensor and a constant.

    With a constant the op runs as the DLA's layer Scale.
    """
    if len(node.input) != 2:  # noqa: PLR2004 -- ElementWise has two
        return f"{len(node.input)} inputs, wanted 2"
    computed = view.computed(node)
    if len(computed) == len(node.input):
        one, other = (view.sizes_of(name) for name in computed)
        return "" if one == other else "its inputs differ in size"
    return _check_scale(node, view) if computed else "all its inputs are constants"


def _check_scale(node: onnx.NodeProto, view: GraphView) -> str:
    is_scale = node.op_type in {"Add", "Mul"} or (
        node.op_type == "Sub" and node.input[1] in view.constants
    )
    if not is_scale:
        return "with a constant, DLA scales and shifts only"
    constant = next(name for name in node.input if name in view.constants)
    _, channels, *space = view.sizes_of(node.output[0])
    sizes = [*view.constants[constant].dims]
    padded = [1] * (_RANK - len(sizes)) + sizes
    wanted = ([1, 1, 1, 1], [1, channels, 1, 1], [1, channels, *space])
    return "" if padded in wanted else "its constant is not one per graph, channel or element"


def _check_clip(node: onnx.NodeProto, view: GraphView) -> str:
    limits = [name for name in node.input[1:] if name]
    if len(limits) != 2 or any(name not in view.constants for name in limits):  # noqa: PLR2004
        return "its limits are not two constants"
    low, high = (numpy_helper.to_array(view.constants[name]).item() for name in limits)
    if low != 0:
        return f"it clips from {low:g}, wanted from 0"
    return _out_of_bounds("it clips at", [math.floor(high)], _CLIP)


def _check_leaky(node: onnx.NodeProto, _view: GraphView) -> str:
    slope = attribute(node, "alpha", 0.01)
    assert isinstance(slope, float)
    return "" if slope >= 0 else f"slope {slope:g} is negative"


def _check_lrn(node: onnx.NodeProto, _view: GraphView) -> str:
    window = attribute(node, "size", 0)
    wanted = ", ".join(map(str, _LRN_WINDOWS))
    return "" if window in _LRN_WINDOWS else f"window {window}, wanted one of {wanted}"


def _check_softmax(node: onnx.NodeProto, view: GraphView) -> str:
    if view.generation == XAVIER:
        return "this DLA has no softmax"
    axis = attribute(node, "axis", -1)
    assert isinstance(axis, int)
    sizes = view.sizes_of(node.output[0])
    axis %= len(sizes)
    if axis == 0:
        return "it is over the batch"
    is_alone = math.prod(sizes[1:]) == sizes[axis]
    largest = _SOFTMAX_ALONE if is_alone else _SOFTMAX_AMONG
    return _out_of_bounds("its axis has size", [sizes[axis]], (1, largest))


def _always(reason: str) -> Check:
    """A check that gives the same reason for every node."""
    return lambda _node, _view: reason


_NO_LIMITS = _always("")  # the DLA runs the op whatever its attributes are
_VIEW = _always("a view of rank 2; nothing is computed")

RULES: Mapping[str, Rule] = {
    "Conv": Rule(check=_check_conv, source=LAYERS),
    "Gemm": Rule(check=_check_matrix, source=OPERATORS),
    "MatMul": Rule(check=_check_matrix, source=OPERATORS),
    "MaxPool": Rule(check=_check_pool, source=LAYERS),
    "AveragePool": Rule(check=_check_average, source=f"{LAYERS}; IPoolingLayer, {HEADER}"),
    "Concat": Rule(check=_check_concat, source=LAYERS),
    **dict.fromkeys(
        ("Add", "Sum", "Sub", "Mul", "Max", "Min"),
        Rule(check=_check_elementwise, source=f"{LAYERS}; IElementWiseLayer, {HEADER}"),
    ),
    **dict.fromkeys(
        ("Relu", "Sigmoid", "Tanh", "Abs", "BatchNormalization"),
        Rule(check=_NO_LIMITS, source=LAYERS),
    ),
    "Clip": Rule(check=_check_clip, source=LAYERS),
    "LeakyRelu": Rule(check=_check_leaky, source=LAYERS),
    "LRN": Rule(check=_check_lrn, source=LAYERS),
    "Softmax": Rule(check=_check_softmax, source=f"{LAYERS}; ISoftMaxLayer, {HEADER}"),
    **dict.fromkeys(
        ("Div", "Pow"),
        Rule(
            check=_always("TensorRT 8.4 has no such layer on DLA, though 10.3 has"),
            source=f"IElementWiseLayer, {HEADER}; operators/docs/ElementWise of TensorRT 10.3",
        ),
    ),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin"),
        Rule(check=_always("the DLA has it, TensorRT does not offer it"), source=OPERATORS),
    ),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), Rule(check=_VIEW, source=_FACTS)),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear"),
        Rule(
            check=_always("no explicit quantization up to TensorRT 10.7; use the implicit graph"),
            source=LAYERS,
        ),
    ),
}
_ANY_RANK = frozenset(("Gemm", "MatMul", "Flatten", "Reshape", "Squeeze"))
_UNKNOWN = Rule(check=_always("DLA has no such layer"), source=LAYERS)


def judge(node: onnx.NodeProto, view: GraphView) -> tuple[str, str]:
    """The reason why ``node`` would run on the GPU, or "" for the DLA; and the rule's source."""
    is_own = node.domain in OWN_DOMAINS
    rule = RULES.get(node.op_type, _UNKNOWN) if is_own else _UNKNOWN
    general = "" if rule is _UNKNOWN else _check_sizes(node, view)
    return (general, LAYERS) if general else (rule.check(node, view), rule.source)


def _check_sizes(node: onnx.NodeProto, view: GraphView) -> str:
    """Why the DLA refuses a node's sizes, which must be known, of rank 4 and not too large."""
    for name in (*view.computed(node), *(name for name in node.output if name)):
        sizes = view.sizes_of(name)
        if not sizes:
            return f"the size of '{name}' is not known"
        if len(sizes) != _RANK and node.op_type not in _ANY_RANK:
            return f"rank {len(sizes)}, wanted {_RANK}"
        reason = _first_reason(
            _out_of_bounds("batch", sizes[:1], (1, _LARGEST_BATCH)),
            _out_of_bounds("size", sizes[1:], (1, _LARGEST_SIZE)),
        )
        if reason:
            return reason
    return ""
