"""A rewrite of signed int8 activations as uint8 with values up to 128, for OpenVINO on CPUs.

A typed graph holds signed int8 with zero point 0, as TensorRT requires. OpenVINO computes some
layers of such a graph wrongly. Compared with onnxruntime, OpenVINO 2026.4.1 showed two errors:

- AVX2 without VNNI (AMD EPYC): OpenVINO shifts signed activations to 0..255 and adds products of
  uint8 and int8 in pairs in 16 bits, and these sums saturate. Every convolution and matrix product
  of a signed tensor is wrong: 16 to 23 dB SQNR with weights over the whole int8 range, for every
  kernel size and number of channels. The trained demo Inception-v4 fell from 22 to 9 dB, since the
  model's input is signed. With activations up to 128 the sums cannot saturate (2 * 128 * 127 <
  2^15), and these layers are exact (138 dB or more, the rounding of float32). Pools are exact for
  signed and unsigned tensors.
- AVX512-VNNI without AMX (also 2024.6 to 2026.4.1): OpenVINO loses the scale of a signed tensor
  behind a Concat and rounds its real values, not its quantized values, to integers.

So the rewrite removes signed tensors before such layers on every CPU, which leaves one graph to
test. A tensor that cannot be negative, such as the output of a ReLU, uses the levels 0..127 of 256:

    before  Relu - FakeQuantize [-128 s, 127 s] -> [-128, 127] - Convert int8 - ...
    after   Clamp [0, 127 s] - FakeQuantize [0, 255 s] -> [0, 255] - Convert uint8 - ...

Any other tensor x is split into its positive and its negative part, which doubles its channels, and
W * x becomes [W, -W] * [max(x, 0), max(-x, 0)] in every layer with weights that reads x:

    before  x - FakeQuantize [-128 s, 127 s] - Convert int8 - ... - Convolution W
    after   x - Clamp [-128 s, 127 s] - Concat(x, -x) - FakeQuantize [0, 255 s] -> [0, 255]
            - Convert uint8 - ... - Convolution [W, -W]

A pool or sum that reads a signed tensor behind a Concat gets float values instead, which are
rounded to the same levels.

All rewrites round x / s (s is the scale) to the nearest integer, ties to even (128 is even, so the
shift keeps ties), and clip at the same levels, so the result is that of the typed graph. A split
layer costs twice the multiplications. Only layers whose input can be negative are split: the first
layer, and a few behind a sum or a convolution without ReLU.

This file travels to devices: it imports only numpy and openvino.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_KEEP_SIGN = frozenset(
    ("AvgPool", "Clamp", "Convert", "FakeQuantize", "LRN", "MaxPool", "ReduceMean", "Reshape")
) | {"Squeeze"}
_JOIN = frozenset(("Add", "Concat"))
_WEIGHTED = frozenset(("Convolution", "GroupConvolution", "MatMul"))
_LEVELS = 256
_TOP = 127.0


class SharedWeights(Exception):
    """A layer whose input must be split shares its weights with another layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Respelled:
    """Numbers of Q/DQ pairs that became unsigned, were split, or are computed in float."""

    unsigned: int = 0
    split: int = 0
    floating: int = 0


def unsigned_activations(model: Any) -> Respelled:
    """Replace the signed Q/DQ pairs of activations in ``model``, in place, and count them.

    Args:
        model: The ``openvino.Model`` of OpenVINO's ONNX reader.

    Raises:
        SharedWeights: A layer whose input must be split shares its weights with another layer.

    Source:
        OpenVINO operation specifications FakeQuantize-1, Clamp-1, Convert-1.
    """
    from openvino import opset13 as ops

    non_negative: set[str] = set()
    done: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        if _is_signed_pair(node):
            if _source(node).get_name() in non_negative:
                non_negative.update(_respell(ops, node))
                done["unsigned"] += 1
            else:
                done.update(_respell_signed(ops, node))
        if _is_non_negative(node, non_negative):
            non_negative.add(node.get_name())
    model.validate_nodes_and_infer_types()
    return Respelled(**done)


def _respell_signed(ops: Any, node: Any) -> list[str]:
    """Replace a tensor of both signs where readers fail on it; return the counts to raise by 1."""
    readers = _pair_readers(node)
    weighted = [r for r in readers if r.get_node().get_type_name() in _WEIGHTED]
    others = [r for r in readers if r.get_node().get_type_name() not in _WEIGHTED]
    if weighted:
        _split(ops, node, weighted)
    is_joined = _before_converts(node.input_value(0)).get_type_name() == "Concat"
    if others and is_joined:
        _round_in_float(ops, node, others)
    return ["split"] * bool(weighted) + ["floating"] * bool(others and is_joined)


def _source(node: Any, port: int = 0) -> Any:
    return node.input_value(port).get_node()


def _is_non_negative(node: Any, non_negative: set[str]) -> bool:
    """Whether the first output of ``node`` cannot be negative, by the node's type and sources."""
    kind = node.get_type_name()
    if kind == "Relu" or (kind == "Clamp" and node.get_attributes()["min"] >= 0):
        return True
    sources = [_source(node, port).get_name() for port in range(node.get_input_size())]
    if kind in _JOIN:
        return non_negative.issuperset(sources)
    keeps = (
        kind in _KEEP_SIGN
        or (kind == "Subtract" and _is_constant(_source(node, 1), lambda data: data == 0))
        or (kind == "Multiply" and _is_constant(_source(node, 1), lambda data: data >= 0))
    )
    return keeps and sources[0] in non_negative


def _is_constant(node: Any, holds: Callable[[Any], Any]) -> bool:
    """Whether ``node``, behind any Convert and Reshape, is a constant that ``holds`` accepts."""
    while node.get_type_name() in {"Convert", "Reshape"}:
        node = _source(node)
    return node.get_type_name() == "Constant" and bool(holds(node.data).all())


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
    import numpy as np

    kind = value.get_element_type()
    ends = (np.float32(0), scale * np.float32(255), np.float32(0), np.float32(255))
    bounds = [ops.constant(end, dtype=kind) for end in ends]
    return ops.fake_quantize(value, *bounds, levels=_LEVELS)


def _respell(ops: Any, node: Any) -> list[str]:
    """Replace a FakeQuantize and its Converts by unsigned ones; return the new Converts' names."""
    import numpy as np

    scale = _scale(node)
    clamped = _clamped(ops, node.input_value(0), float(scale * np.float32(_TOP)))
    respelled = _unsigned_pair(ops, clamped, scale)
    converts = []
    for entry in list(node.output(0).get_target_inputs()):
        convert = entry.get_node()
        unsigned = ops.convert(respelled, "u8")
        unsigned.set_friendly_name(convert.get_friendly_name())
        for reader in list(convert.output(0).get_target_inputs()):
            reader.replace_source_output(unsigned.output(0))
        converts.append(unsigned.get_name())
    return converts


def _split(ops: Any, node: Any, readers: list[Any]) -> None:
    """Make ``readers``, ports of layers with weights, read both parts of the value of ``node``."""
    import numpy as np

    scale = _scale(node)
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

    port = layer.input(1)
    is_shared = False
    while (node := port.get_source_output().get_node()).get_type_name() != "Constant":
        is_shared = is_shared or len(_readers(node)) > 1
        port = node.input(0)
    if is_shared or len(_readers(node)) > 1:
        raise SharedWeights(
            f"layer '{layer.get_friendly_name()}' shares its weights and has an input of both "
            "signs, which OpenVINO cannot compute in int8"
        )
    is_transposed = layer.get_attributes().get("transpose_b", True)
    both = np.concatenate([node.data, -node.data], axis=1 if is_transposed else 0)
    port.replace_source_output(ops.constant(both).output(0))
