"""A rewrite of signed int8 activations as uint8, for OpenVINO on CPUs.

A typed graph holds signed int8 with zero point 0, as TensorRT requires. OpenVINO 2026.4.1 computes
some layers of such a graph wrongly (compared with onnxruntime), so that no layer may read a signed
tensor:

- CPUs with VNNI: OpenVINO loses the scale of a signed tensor behind a Concat and rounds its real
  values, not its quantized values, to integers (4 to 6 dB SQNR).
- CPUs without VNNI, such as AVX2: OpenVINO shifts signed activations to 0..255 and adds products of
  uint8 and int8 in pairs in 16 bits, and these sums saturate. Every convolution and matrix product
  is wrong: 16 to 23 dB with weights over the whole int8 range. With activations up to 128 the sums
  cannot saturate (2 * 128 * 127 < 2^15), and these layers are exact (138 dB or more, the rounding
  of float32). Pools are exact for signed and unsigned tensors.

``saturates`` finds out which kind this CPU is. A tensor that cannot be negative, such as the output
of a ReLU, uses the levels 0..127 of 256 on both kinds:

    before  Relu - FakeQuantize [-128 s, 127 s] -> [-128, 127] - Convert int8 - ...
    after   Clamp [0, 127 s] - FakeQuantize [0, 255 s] -> [0, 255] - Convert uint8 - ...

Any other tensor becomes uint8 with zero point 128 where sums do not saturate; its levels are those
of int8. A constant that is subtracted before (a folded zero point) moves into the FakeQuantize,
which OpenVINO can then compute as a part of the layers before it:

    before  x - Subtract c - FakeQuantize [-128 s, 127 s] -> [-128, 127] - Convert int8
            - Subtract 0 - Multiply s
    after   x - FakeQuantize [c - 128 s, c + 127 s] -> [0, 255] - Convert uint8
            - Subtract 128 - Multiply s

Where sums saturate, the tensor is split into its positive and its negative part, which doubles its
channels, and W * x becomes [W, -W] * [max(x, 0), max(-x, 0)] in every layer with weights that reads
x; such a layer costs twice the multiplications:

    before  x - FakeQuantize [-128 s, 127 s] - Convert int8 - ... - Convolution W
    after   x - Clamp [-128 s, 127 s] - Concat(x, -x) - FakeQuantize [0, 255 s] -> [0, 255]
            - Convert uint8 - ... - Convolution [W, -W]

There other layers read float values that are rounded to the same levels, if they read a Concat or
if a layer with weights reads their output, as behind a Transpose.

A graph for CPUs alone has unsigned tensors already. Where sums saturate, ``limit_weights`` then
rounds its weights again, so that no sum of two products exceeds 16 bits: the scale of an output
channel grows until every two neighbouring input channels have positive weights of at most 128
together, and negative ones of at most 128. This costs 0.2 to 0.4 bits of the weights, where 7 bits
for all weights would cost one.

All other rewrites round x / s (s is the scale) to the nearest integer, ties to even (128 is even,
so the shift keeps ties), and clip at the same levels, so the result is that of the typed graph.

This file travels to devices: it imports only numpy and openvino.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_WEIGHTED = frozenset(("Convolution", "GroupConvolution", "MatMul"))
_LEVELS = 256
_TOP = 127.0
_MAX_PAIR = 128  # largest sum of two weights whose products with 255 fit 16 bits


class SharedWeights(Exception):
    """A layer whose input must be split shares its weights with another layer."""


@cache
def saturates() -> bool:
    """Whether sums of int8 products saturate on this CPU, by a convolution of known result.

    Every product is (255 - 128) * 127 and every pair of 255 * 127 exceeds 16 bits. The input is
    padded, as the zero point must be.
    """
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    side, channels, top = 4, 64, np.float32(_TOP)
    image = ops.parameter([1, channels, side, side], np.float32)
    steps = ops.fake_quantize(image, -top - 1, top, np.float32(0), np.float32(255), levels=_LEVELS)
    value = ops.subtract(ops.convert(ops.convert(steps, "u8"), "f32"), np.float32(128))
    weights = ops.constant(np.full((channels, channels, 3, 3), _TOP, np.int8))
    scaled = ops.multiply(ops.convert(weights, "f32"), np.ones((channels, 1, 1, 1), np.float32))
    one = ops.multiply(value, np.float32(1))
    sums = ops.convolution(one, scaled, [1, 1], [1, 1], [1, 1], [1, 1])
    compiled = openvino.Core().compile_model(
        openvino.Model([sums], [image]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    result = compiled([np.full((1, channels, side, side), top)])[0]
    pixels = np.convolve(np.ones(side), np.ones(3), "same")  # 2 at an edge, 3 inside
    return not np.allclose(result, np.outer(pixels, pixels) * channels * top * top)


@dataclass(frozen=True, slots=True, kw_only=True)
class Respelled:
    """Numbers of Q/DQ pairs that became unsigned, by what became of them.

    ``unsigned`` have no negative values, ``offset`` have zero point 128, ``split`` have twice the
    channels, and ``floating`` are computed in float. ``limited`` counts layers whose weights were
    rounded again.
    """

    unsigned: int = 0
    offset: int = 0
    split: int = 0
    floating: int = 0
    limited: int = 0


def has_unsigned_pairs(model: Any) -> bool:
    """Whether activations are uint8 as OpenVINO's reader leaves the graph: it is for CPUs alone."""
    return any(
        node.get_type_name() == "FakeQuantize"
        and any(
            entry.get_node().get_type_name() == "Convert"
            and entry.get_node().get_output_element_type(0).get_type_name() == "u8"
            for entry in _readers(node)
        )
        for node in model.get_ops()
    )


def unsigned_activations(model: Any, *, saturates: bool, is_for_cpu: bool = False) -> Respelled:
    """Replace the signed Q/DQ pairs of activations in ``model``, in place, and count them.

    Args:
        model: The ``openvino.Model`` of OpenVINO's ONNX reader.
        saturates: Whether this CPU's sums saturate, by ``saturates``.
        is_for_cpu: Whether the graph has unsigned pairs already, and weights of the whole range.

    Raises:
        SharedWeights: A layer whose input must be split shares its weights with another layer.

    Source:
        OpenVINO operation specifications FakeQuantize-1, Clamp-1, Convert-1.
    """
    from openvino import opset13 as ops

    bounds: dict[str, float] = {}
    done: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        if _is_signed_pair(node):
            if bounds[_source(node).get_name()] >= 0:
                _respell(ops, node)
                done["unsigned"] += 1
            elif saturates:
                done.update(_respell_signed(ops, node))
            else:
                _offset(ops, node)
                done["offset"] += 1
        elif (
            (done["offset"] or is_for_cpu)
            and _averages_padding(node)
            and bounds[_source(node).get_name()] < 0
        ):
            _compute_in_float(ops, node)
        bounds[node.get_name()] = _lower_bound(node, bounds)
    if is_for_cpu and saturates:
        done["limited"] = limit_weights(model)
    model.validate_nodes_and_infer_types()
    return Respelled(**done)


def limit_weights(model: Any) -> int:
    """Round int8 weights again so that no sum of two products exceeds 16 bits; count the layers.

    Depthwise convolutions, which add no neighbouring channels, keep their weights.
    """
    from openvino import opset13 as ops

    count = 0
    for layer in model.get_ordered_ops():
        chain = _weight_chain(layer) if layer.get_type_name() in _WEIGHTED else []
        scales = [node for node in chain if node.get_type_name() == "Multiply"]
        if not scales or chain[-1].get_output_element_type(0).get_type_name() != "i8":
            continue
        steps, scale = chain[-1].data, _source(scales[0], 1)
        is_transposed = layer.get_attributes().get("transpose_b", True)
        factors, limited = limited_steps(steps if is_transposed else steps.T)
        if (factors == 1).all():
            continue
        _set_weights(ops, layer, limited if is_transposed else limited.T, "would saturate here")
        shape = [size.get_length() for size in scale.get_output_partial_shape(0)]
        factors = factors.reshape([-1 if size == len(factors) else 1 for size in shape])
        kind = scale.get_output_element_type(0)
        grown = ops.multiply(scale, ops.constant(factors, dtype=kind)).output(0)
        scales[0].input(1).replace_source_output(grown)
        count += 1
    return count


def _weight_chain(layer: Any) -> list[Any]:
    """The nodes from a layer's weights back to their constant; empty if these are computed."""
    chain = [_source(layer, 1)]
    while chain[-1].get_type_name() != "Constant":
        if not chain[-1].get_input_size():
            return []
        chain.append(_source(chain[-1]))
    return chain


def _set_weights(ops: Any, layer: Any, values: Any, reason: str) -> None:
    """Replace the constant that holds a layer's weights.

    Raises:
        SharedWeights: Another layer reads it too; ``reason`` ends the message.
    """
    chain = _weight_chain(layer)
    if any(len(_readers(node)) > 1 for node in chain):
        name = layer.get_friendly_name()
        raise SharedWeights(f"layer '{name}' shares its weights and {reason}")
    port = chain[-2].input(0) if len(chain) > 1 else layer.input(1)
    port.replace_source_output(ops.constant(values.copy()).output(0))


def limited_steps(steps: Any) -> tuple[Any, Any]:
    """Factors [O] of the scales, and int8 weights [O, I, ...] whose pairs of inputs fit 16 bits.

    Of two neighbouring inputs, 0 and 1, 2 and 3 and so on, the positive weights add up to 128 at
    most and so do the negative ones: 255 * 128 < 2^15. Each weight takes over the rounding error of
    the one before, so that all errors of an output channel add up to half a level at most: inputs
    behind a ReLU have a mean, which would otherwise shift the output. On the trained Inception-v4
    this gave 35.7 dB, rounding to nearest 22.2 dB (128 photos).
    """
    import numpy as np

    factors = np.ones(len(steps))
    while True:
        exact = steps.reshape(len(steps), -1) / factors[:, None]
        sums = np.rint(np.cumsum(exact, axis=1))
        limited = np.diff(sums, axis=1, prepend=0).reshape(steps.shape)
        signs = np.stack([limited.clip(0), -limited.clip(None, 0)])
        pairs = np.add.reduceat(signs, range(0, steps.shape[1], 2), axis=2)
        worst = pairs.max(axis=(0, *range(2, pairs.ndim)))
        if (worst <= _MAX_PAIR).all():
            return factors, limited.astype(np.int8)
        factors *= np.where(worst > _MAX_PAIR, np.maximum(worst / (_MAX_PAIR + 0.5), 1.002), 1.0)


def _respell_signed(ops: Any, node: Any) -> list[str]:
    """Replace a tensor of both signs where readers fail on it; return the counts to raise by 1."""
    is_joined = _before_converts(node.input_value(0)).get_type_name() == "Concat"
    readers = _pair_readers(node)
    weighted = [r for r in readers if r.get_node().get_type_name() in _WEIGHTED]
    others = [r for r in readers if r.get_node().get_type_name() not in _WEIGHTED]
    floating = [r for r in others if is_joined or _reaches_weights(r.get_node())]
    if weighted:
        _split(ops, node, weighted)
    if floating:
        _round_in_float(ops, node, floating)
    return ["split"] * bool(weighted) + ["floating"] * bool(floating)


def _reaches_weights(node: Any) -> bool:
    """Whether a layer with weights reads the values of ``node`` before a FakeQuantize does."""
    waiting, visited = [node], set[str]()
    while waiting:
        node = waiting.pop()
        if node.get_type_name() in _WEIGHTED:
            return True
        if node.get_type_name() != "FakeQuantize" and node.get_name() not in visited:
            visited.add(node.get_name())
            waiting += [
                port.get_node() for out in node.outputs() for port in out.get_target_inputs()
            ]
    return False


def _source(node: Any, port: int = 0) -> Any:
    return node.input_value(port).get_node()


def _keep(_: Any, lows: Sequence[float]) -> float:
    return lows[0]


def _keep_sign(_: Any, lows: Sequence[float]) -> float:
    return 0.0 if min(lows[:2]) >= 0 else -math.inf


def _lower_bound(node: Any, bounds: Mapping[str, float]) -> float:
    """A number that no value of ``node`` is below, by interval arithmetic; -inf if unknown."""
    kind = node.get_type_name()
    if kind == "Constant":
        return float(node.data.min()) if node.data.size else -math.inf
    if kind in _NON_NEGATIVE:
        return 0.0
    if kind not in _BOUND_OF:
        return -math.inf
    # The rewrite of the node before may have inserted constants, which have no bound yet.
    sources = [_source(node, port) for port in range(node.get_input_size())]
    names = [source.get_name() for source in sources]
    lows = [
        bounds[name] if name in bounds else _lower_bound(source, bounds)
        for name, source in zip(names, sources, strict=True)
    ]
    return _BOUND_OF[kind](node, lows)


def _largest(node: Any) -> float:
    """The largest value of a constant, behind any Convert and Reshape; inf if ``node`` is none."""
    while node.get_type_name() in {"Convert", "Reshape"}:
        node = _source(node)
    return float(node.data.max()) if node.get_type_name() == "Constant" else math.inf


_NON_NEGATIVE = frozenset(("Exp", "HSigmoid", "HardSigmoid", "Sigmoid", "Softmax"))
# a layer's type -> its lower bound, from the layer and the lower bounds of its inputs
_BOUND_OF: Mapping[str, Callable[[Any, Sequence[float]], float]] = {
    **dict.fromkeys(("Convert", "MaxPool", "ReduceMax", "ReduceMean", "Reshape", "Squeeze"), _keep),
    **dict.fromkeys(("Transpose", "Unsqueeze"), _keep),
    **dict.fromkeys(("AvgPool", "Divide", "LRN", "Multiply"), _keep_sign),
    "Add": lambda _, lows: sum(lows),
    "Clamp": lambda node, lows: max(lows[0], float(node.get_attributes()["min"])),
    "Concat": lambda _, lows: min(lows),
    "FakeQuantize": lambda _, lows: min(lows[3:]),  # the ends of the output
    "Maximum": lambda _, lows: max(lows),
    "Minimum": lambda _, lows: min(lows),
    "Relu": lambda _, lows: max(lows[0], 0.0),
    "Subtract": lambda node, lows: lows[0] - _largest(_source(node, 1)),
}


def _readers(node: Any) -> list[Any]:
    """Input ports that read the values of ``node``; ShapeOf reads none."""
    entries = node.output(0).get_target_inputs()
    return [entry for entry in entries if entry.get_node().get_type_name() != "ShapeOf"]


def _is_signed_pair(node: Any) -> bool:
    """Whether ``node`` is the FakeQuantize of a symmetric int8 Q/DQ pair of an activation."""
    return (
        node.get_type_name() == "FakeQuantize"
        and _source(node).get_type_name() != "Constant"
        and node.get_attributes()["levels"] == _LEVELS
        and float(_source(node, 4).data.reshape(-1)[0]) == _TOP
        and all(
            entry.get_node().get_type_name() == "Convert"
            and entry.get_node().get_output_element_type(0).get_type_name() == "i8"
            for entry in _readers(node)
        )
    )


def _before_converts(value: Any) -> Any:
    """The node that computes ``value``, in front of any Converts with a single reader."""
    node = value.get_node()
    while node.get_type_name() == "Convert" and len(_readers(node)) == 1:
        node = _source(node)
    return node


def _clamped(ops: Any, value: Any, top: float) -> Any:
    """``value`` clamped to 0..``top``; for a Concat with a single reader, each branch is clamped.

    OpenVINO moves a FakeQuantize through a Concat into the convolutions before that, which keeps
    the Concat in 8 bits; a Clamp behind the Concat would prevent this.
    """
    node = _before_converts(value)
    if node.get_type_name() != "Concat" or len(_readers(node)) > 1:
        return ops.clamp(_before_relu(value), 0.0, top).output(0)
    for port in range(node.get_input_size()):
        branch = ops.clamp(_before_relu(node.input_value(port)), 0.0, top)
        node.input(port).replace_source_output(branch.output(0))
    return value


def _before_relu(value: Any) -> Any:
    """``value``; if a Relu with one reader computes it, the Relu's input (for a Clamp)."""
    node = value.get_node()
    is_needless = node.get_type_name() == "Relu" and len(_readers(node)) == 1
    return node.input_value(0) if is_needless else value


def _scale(node: Any) -> Any:
    """The scale of a symmetric Q/DQ pair, whose largest value is 127 times the scale."""
    import numpy as np

    return np.float32(float(_source(node, 2).data.reshape(-1)[0]) / _TOP)


def _unsigned_pair(ops: Any, value: Any, scale: Any) -> Any:
    """A FakeQuantize of ``value`` to the integers 0..255."""
    ends = [0.0, 255 * float(scale), 0.0, 255.0]
    bounds = [ops.constant(end, dtype=value.get_element_type()) for end in ends]
    return ops.fake_quantize(value, *bounds, levels=_LEVELS)


def _set_ends(ops: Any, node: Any, ends: Sequence[float]) -> None:
    """Make the FakeQuantize of a signed pair map ``ends`` to 0..255, and its Converts uint8."""
    kind = node.get_output_element_type(0)
    for port, end in enumerate((*ends, 0.0, 255.0), start=1):
        node.input(port).replace_source_output(ops.constant(end, dtype=kind).output(0))
    for entry in _readers(node):
        entry.get_node().set_destination_type("u8")


def _respell(ops: Any, node: Any) -> None:
    """Make a signed pair without negative values unsigned, in place."""
    scale = _scale(node)
    clamped = _clamped(ops, node.input_value(0), float(_TOP * scale))
    node.input(0).replace_source_output(clamped)
    _set_ends(ops, node, (0.0, 255 * float(scale)))


def _offset(ops: Any, node: Any) -> None:
    """Make a signed pair uint8 with zero point 128, in place."""
    import numpy as np

    low, high = (float(_source(node, port).data.reshape(-1)[0]) for port in (1, 2))
    shift = _absorb_shift(node)
    _set_ends(ops, node, (low + shift, high + shift))
    for port in _after_converts(node):
        layer = port.get_node()
        zero = ops.constant(np.float32(128), dtype=port.get_element_type()).output(0)
        if layer.get_type_name() == "Subtract":
            layer.input(1).replace_source_output(zero)
        else:
            port.replace_source_output(ops.subtract(port.get_source_output(), zero).output(0))


def _averages_padding(node: Any) -> bool:
    """Whether ``node`` is an average pool that counts padding as zeros."""
    if node.get_type_name() != "AvgPool":
        return False
    pads = node.get_attributes()
    has_pads = not pads["exclude-pad"] and any((*pads["pads_begin"], *pads["pads_end"]))
    return has_pads or _before_converts(node.input_value(0)).get_type_name() == "Pad"


def _compute_in_float(ops: Any, pool: Any) -> None:
    """Make ``pool`` read its values through an identity that OpenVINO moves no scale across.

    OpenVINO subtracts a zero point behind an average pool instead of before it, where padding
    counts as the step 0 and not as the value 0. In front of a split, OpenVINO rounds averages to
    steps of the pool's input.
    """
    import numpy as np

    value = pool.input_value(0)
    lowest = np.finfo(value.get_element_type().to_dtype()).min
    pool.input(0).replace_source_output(ops.maximum(value, ops.constant(lowest)).output(0))


def _absorb_shift(node: Any) -> float:
    """Make ``node`` read what a scalar is subtracted from; return the scalar, or 0 without one."""
    port = node.input(0)
    while (source := port.get_source_output().get_node()).get_type_name() == "Convert":
        if len(_readers(source)) > 1:
            return 0.0
        port = source.input(0)
    if source.get_type_name() != "Subtract" or _source(source, 1).get_type_name() != "Constant":
        return 0.0
    shift = _source(source, 1).data
    if shift.size > 1:
        return 0.0
    port.replace_source_output(source.input_value(0))
    return float(shift.reshape(()))


def _split(ops: Any, node: Any, readers: list[Any]) -> None:
    """Make ``readers``, ports of layers with weights, read both parts of the value of ``node``."""
    import numpy as np

    scale, before = _scale(node), _before_converts(node.input_value(0))
    if before.get_type_name() == "AvgPool":
        _compute_in_float(ops, before)
    clamped = _clamp_signed(ops, node.input_value(0), scale)
    kind = clamped.get_output_element_type(0)
    negative = ops.multiply(clamped, ops.constant(np.float32(-1), dtype=kind))
    parts = ops.concat([clamped, negative], axis=1).output(0)
    values: dict[int, Any] = {}  # by number of groups; layers with the same number share a value
    for reader in readers:
        layer = reader.get_node()
        groups = _num_groups(layer)
        if groups not in values:
            steps = ops.convert(_unsigned_pair(ops, _grouped(ops, parts, groups), scale), "u8")
            wanted = reader.get_source_output().get_element_type()
            step = ops.constant(scale, dtype=wanted)
            values[groups] = ops.multiply(ops.convert(steps, wanted), step).output(0)
        _mirror_weights(ops, layer)
        reader.replace_source_output(values[groups])


def _clamp_signed(ops: Any, value: Any, scale: Any) -> Any:
    import numpy as np

    return ops.clamp(value, float(scale * np.float32(-_TOP - 1)), float(scale * np.float32(_TOP)))


def _round_in_float(ops: Any, node: Any, readers: list[Any]) -> None:
    """Make ``readers`` read the pair's values rounded in float; in int8 their scale is lost."""
    scale = _scale(node)
    for reader in readers:
        clamped = _clamp_signed(ops, node.input_value(0), scale)
        step = ops.constant(scale, dtype=clamped.get_output_element_type(0))
        steps = ops.round(ops.divide(clamped, step), "half_to_even")
        reader.replace_source_output(ops.multiply(steps, step).output(0))


def _after_converts(node: Any) -> list[Any]:
    """Input ports that read the values of ``node`` behind any Converts."""
    ports = []
    for entry in _readers(node):
        is_convert = entry.get_node().get_type_name() == "Convert"
        ports += _after_converts(entry.get_node()) if is_convert else [entry]
    return ports


def _pair_readers(node: Any) -> list[Any]:
    """Input ports that read the dequantized values of the Q/DQ pair that starts at ``node``."""
    ports = []
    for entry in _readers(node):
        reader = entry.get_node()
        ports += _readers(reader) if reader.get_type_name() == "Multiply" else _pair_readers(reader)
    return ports


def _num_groups(layer: Any) -> int:
    if layer.get_type_name() != "GroupConvolution":
        return 1
    return int(layer.get_input_partial_shape(1)[0].get_length())


def _grouped(ops: Any, parts: Any, groups: int) -> Any:
    """``parts`` with the positive and negative channels of each group side by side."""
    import numpy as np

    if groups == 1:
        return parts
    channels = parts.get_partial_shape()[1].get_length()
    order = np.arange(channels).reshape(2, groups, -1).swapaxes(0, 1).reshape(-1)
    return ops.gather(parts, order, 1).output(0)


def _mirror_weights(ops: Any, layer: Any) -> None:
    """Append a layer's negated weights along the input channels: [O, I, ...] -> [O, 2 I, ...]."""
    import numpy as np

    weights = _weight_chain(layer)[-1].data
    is_transposed = layer.get_attributes().get("transpose_b", True)
    both = np.concatenate([weights, -weights], axis=1 if is_transposed else 0)
    reason = "has an input of both signs, which OpenVINO cannot compute in int8"
    _set_weights(ops, layer, both, reason)
