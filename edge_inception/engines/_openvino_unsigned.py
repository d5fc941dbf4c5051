"""Symmetric int8 of non-negative tensors, spelled as uint8 for OpenVINO's CPU kernels.

TensorRT wants signed int8 with zero point 0, so that is what a typed graph holds. On CPUs without
AMX, OpenVINO computes convolutions on unsigned activations. It converts signed ones itself, and
where they pass a Concat it loses their scale: the values are rounded to whole numbers of the
tensor's own unit (seen with OpenVINO 2024.6 to 2026.4.1 on AVX512-VNNI: a trained Inception-v4 fell
from 22 dB to 10 dB SQNR). After a ReLU only the levels 0..127 of the 256 occur, so the same numbers
can be given to it as uint8:

    before  Relu - FakeQuantize [-128 s, 127 s] -> [-128, 127] - Convert int8 - ...
    after   Relu - Clamp [0, 127 s] - FakeQuantize [0, 255 s] -> [0, 255] - Convert uint8 - ...

Both round x / s to the nearest integer, ties to even (128 is even, so the shift keeps ties), and
stop at 127: the graph computes what the typed graph says.
"""

from __future__ import annotations

from typing import Any

_KEEP_SIGN = frozenset(
    ("Relu", "Clamp", "MaxPool", "AvgPool", "Concat", "ReduceMean", "Reshape", "Squeeze")
)
_LEVELS = 256
_TOP = 127.0


def unsigned_activations(model: Any) -> int:
    """Respell every signed Q/DQ of a non-negative tensor in ``model``, in place; returns how many.

    Args:
        model: ``openvino.Model`` as its ONNX reader made it.

    Source:
        OpenVINO operation specifications FakeQuantize-1, Clamp-1, Convert-1.
    """
    from openvino import opset13 as ops

    non_negative: set[str] = set()
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and _is_signed_pair(node, non_negative):
            non_negative.update(_respell(ops, node))
            count += 1
        if _is_non_negative(node, non_negative):
            non_negative.add(node.get_name())
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _source(node: Any, port: int = 0) -> Any:
    return node.input_value(port).get_node()


def _is_non_negative(node: Any, known: set[str]) -> bool:
    """Whether the first output of ``node`` cannot be negative, from its type and its sources."""
    kind = node.get_type_name()
    if kind == "Relu":
        return True
    sources = [_source(node, port).get_name() for port in range(node.get_input_size())]
    if kind == "Concat":
        return all(name in known for name in sources)
    if kind in _KEEP_SIGN or kind in {"Convert", "FakeQuantize"}:
        return sources[0] in known
    if kind == "Subtract":  # of a zero point, which is 0 in a typed graph
        return sources[0] in known and _is_zero(_source(node, 1))
    if kind == "Multiply":  # by a scale, which is positive in a typed graph
        return sources[0] in known and _constant_below(node) is not None
    return False


def _constant_below(node: Any) -> Any:
    """The constant that scales ``node``, seen through Convert and Reshape; None without one."""
    found = _source(node, 1)
    while found.get_type_name() in {"Convert", "Reshape"}:
        found = _source(found)
    return found if found.get_type_name() == "Constant" else None


def _is_zero(node: Any) -> bool:
    while node.get_type_name() in {"Convert", "Reshape"}:
        node = _source(node)
    return node.get_type_name() == "Constant" and not node.data.any()


def _is_signed_pair(node: Any, non_negative: set[str]) -> bool:
    readers = [entry.get_node() for entry in node.output(0).get_target_inputs()]
    return (
        _source(node).get_name() in non_negative
        and node.get_attributes()["levels"] == _LEVELS
        and float(_source(node, 4).data.reshape(-1)[0]) == _TOP
        and all(
            reader.get_type_name() == "Convert"
            and reader.get_output_element_type(0).get_type_name() == "i8"
            for reader in readers
        )
    )


def _num_readers(node: Any) -> int:
    """How many nodes read the values of ``node``; ShapeOf does not."""
    kinds = [entry.get_node().get_type_name() for entry in node.output(0).get_target_inputs()]
    return sum(kind != "ShapeOf" for kind in kinds)


def _clamped(ops: Any, value: Any, top: float) -> Any:
    """``value`` cut off at ``top``; a concat that nobody else reads is cut off branch by branch.

    OpenVINO moves a FakeQuantize through a Concat and into the convolutions before it, which keeps
    the concat in 8 bits; a Clamp in between would stop it.
    """
    node = value.get_node()
    while node.get_type_name() == "Convert" and _num_readers(node) == 1:
        node = _source(node)
    if node.get_type_name() != "Concat" or _num_readers(node) > 1:
        return ops.clamp(value, 0.0, top).output(0)
    for port in range(node.get_input_size()):
        branch = ops.clamp(node.input_value(port), 0.0, top)
        node.input(port).replace_source_output(branch.output(0))
    return value


def _respell(ops: Any, node: Any) -> list[str]:
    """Replace one FakeQuantize and its Converts; returns the names of the new Converts."""
    import numpy as np

    top = float(_source(node, 2).data.reshape(-1)[0])  # 127 s
    scale = np.float32(top / _TOP)
    clamped = _clamped(ops, node.input_value(0), float(scale * np.float32(_TOP)))
    values = (np.float32(0), scale * np.float32(255), np.float32(0), np.float32(255))
    kind = clamped.get_element_type()
    bounds = [ops.constant(value, dtype=kind) for value in values]
    respelled = ops.fake_quantize(clamped, *bounds, levels=_LEVELS)
    made = []
    for entry in list(node.output(0).get_target_inputs()):
        convert = entry.get_node()
        unsigned = ops.convert(respelled, "u8")
        unsigned.set_friendly_name(convert.get_friendly_name())
        for reader in list(convert.output(0).get_target_inputs()):
            reader.replace_source_output(unsigned.output(0))
        made.append(unsigned.get_name())
    return made
