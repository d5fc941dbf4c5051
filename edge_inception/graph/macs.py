"""Sizes of tensors, and the number of multiply-adds of nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from edge_inception.graph.check import attribute

OWN_DOMAINS = frozenset(("", "ai.onnx"))
Sizes = tuple[int | str, ...] | None
"""Sizes of a tensor; a free size is given by its name or ``?``; None where the rank is unknown."""

# Bits per element of the types that are packed several to a byte.
_BITS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4_e2m1fn": 4}
_BITS_OF_BYTE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Name, element type (numpy's name, ``?`` if unknown) and sizes of a tensor of a graph."""

    name: str
    element: str
    sizes: Sizes

    @property
    def count(self) -> int | None:
        """Number of elements; None when a size is unknown."""
        return _product(1, self.sizes)

    @property
    def num_bytes(self) -> int | None:
        """Bytes in memory; None when a size or the type is unknown."""
        if self.count is None or self.element in {"?", "object"}:
            return None
        return -(-self.count * _bits(self.element) // _BITS_OF_BYTE)


def _bits(element: str) -> int:
    if element in _BITS:
        return _BITS[element]
    code = next(c for c in TensorProto.DataType.values() if element_of(c) == element)
    return helper.tensor_dtype_to_np_dtype(code).itemsize * _BITS_OF_BYTE


def element_of(code: int) -> str:
    """Numpy's name of the ONNX element type ``code``; ``?`` for 0, which means undefined."""
    return str(helper.tensor_dtype_to_np_dtype(code).name) if code else "?"


def macs_of(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> int | None:
    """Multiply-adds of a node for the whole batch; 0 for an op without any.

    They are None where a size is unknown, or the op is of another domain or in ``_UNCOUNTED``.
    """
    is_own = node.domain in OWN_DOMAINS
    if not is_own or node.op_type in _UNCOUNTED:
        return None
    count = _COUNTED.get(node.op_type)
    return 0 if count is None else count(node, tensors)


def _product(whole: int | None, sizes: Sequence[int | str] | None) -> int | None:
    """The product of ``whole`` and all ``sizes``; None where one of them is unknown."""
    if whole is None or sizes is None:
        return None
    known = [size for size in sizes if isinstance(size, int)]
    return whole * math.prod(known) if len(known) == len(sizes) else None


Count = Callable[[onnx.NodeProto, Mapping[str, Tensor]], int | None]


def _per_output(weight: int) -> Count:
    """The rule for convolutions: one filter [channels / group, *kernel] per output element.

    ``weight`` is the position of the weight among the inputs.
    """

    def count(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> int | None:
        sizes = tensors[node.input[weight]].sizes
        return _product(tensors[node.output[0]].count, sizes and sizes[1:])

    return count


def _conv_transpose(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> int | None:
    """The rule for ConvTranspose: one filter [out channels / group, *kernel] per input element."""
    sizes = tensors[node.input[1]].sizes
    return _product(tensors[node.input[0]].count, sizes and sizes[1:])


def _gemm(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> int | None:
    axis = 0 if attribute(node, "transA", 0) else 1
    sizes = tensors[node.input[0]].sizes
    return _product(tensors[node.output[0]].count, sizes and sizes[axis : axis + 1])


def _matmul(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> int | None:
    sizes = tensors[node.input[0]].sizes
    return _product(tensors[node.output[0]].count, sizes and sizes[-1:])


_COUNTED: Mapping[str, Count] = {
    "Conv": _per_output(1),
    "ConvInteger": _per_output(1),
    "QLinearConv": _per_output(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
}
# Ops that multiply and add too, or hold a subgraph that may, and that are not counted.
_UNCOUNTED = frozenset(
    ("Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan", "SequenceMap")
)
