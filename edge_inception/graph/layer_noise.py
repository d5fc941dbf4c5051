"""Comparison of a typed graph with its float graph: noise-to-signal power, layer by layer.

A typed graph is an ONNX graph in which every tensor's precision is explicit, by Q/DQ nodes or
casts. Both graphs run on the same images, one image at a time, in onnxruntime without its
optimisations. Tensors of the two graphs are matched by name. Where a layer of the typed graph reads
an input through a Q/DQ pair or a cast, the value behind them is compared too; this tells noise from
rounding the input apart from noise from rounding the weights. A rewritten graph, as for DLA, may
give a tensor another shape, which is accepted if only axes of one element differ; a layer whose
result is missing is listed and not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_inception.errors import InputError
from edge_inception.graph import parity
from edge_inception.graph.check import image_input
from edge_inception.spec import Progress, no_progress

_Pair = tuple[str, str]
"""Names of a tensor in the float graph and of its counterpart in the typed graph."""

NOISE_FLOOR = 1e-3
"""Least noise-to-signal power assumed of an input, -30 dB: about that of rounding to 8 bits."""

JUMP = 10.0
"""A layer is a jump if its output noise is at least this many times its input noise: 10 dB."""

LIMIT_DB = 300.0
"""SQNR in dB that stands for no noise at all; its negative stands for noise without a signal."""

_CARRIERS = frozenset(("QuantizeLinear", "DequantizeLinear", "Cast"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNoise:
    """Noise-to-signal power ratios at one node of the float graph, over all images.

    ``output`` is the ratio of the node's result. ``inputs`` is the largest ratio among its inputs
    before Q/DQ and casts, ``read`` the largest among the same inputs after Q/DQ and casts.
    ``noisiest`` names the input that ``read`` belongs to; it is "" where the node of the typed
    graph reads no tensor that the float graph computes. ``worst_image`` is the index of the image
    whose own ``output`` ratio is largest.
    """

    name: str
    op: str
    tensor: str
    output: float
    inputs: float
    read: float
    noisiest: str
    worst_image: int

    @property
    def rise(self) -> float:
        """``output`` divided by ``inputs``, or by ``NOISE_FLOOR`` where ``inputs`` is less."""
        return self.output / max(self.inputs, NOISE_FLOOR)

    @property
    def is_jump(self) -> bool:
        """Whether much of the error arises at this layer."""
        return self.rise >= JUMP

    @property
    def is_pair_to_blame(self) -> bool:
        """Whether most of a jump comes from rounding the layer's input, not from its weights."""
        return self.is_jump and self.read >= self.output / JUMP


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Noise of layers in graph order; ``left_out`` names the layers that could not be compared.

    The typed graph lacks a tensor named as such a layer's result, or has it in another shape.
    """

    layers: tuple[LayerNoise, ...]
    left_out: tuple[str, ...]


def decibels(noise_to_signal: float) -> float:
    """SQNR in dB of a noise-to-signal power ratio, limited to -LIMIT_DB..LIMIT_DB."""
    if noise_to_signal == 0.0:
        return LIMIT_DB
    if math.isinf(noise_to_signal):
        return -LIMIT_DB
    return min(max(-10.0 * math.log10(noise_to_signal), -LIMIT_DB), LIMIT_DB)


def first_jump(layers: Sequence[LayerNoise]) -> LayerNoise | None:
    """The first layer in graph order where the error jumps; None when it grows evenly."""
    return next((layer for layer in layers if layer.is_jump), None)


def compare_layers(
    graphs: tuple[onnx.ModelProto, onnx.ModelProto],
    images: Iterable[NDArray[Any]],
    *,
    progress: Progress = no_progress,
) -> Comparison:
    """Noise of every layer of a float graph whose result the typed graph has, in graph order.

    ``graphs`` are the float graph and a typed graph that was made from it; ``images`` are at least
    one, preprocessed, [1, ...]. ``progress`` gets the number of images done twice, since their
    total is not known.

    Raises:
        InputError: The first graph is quantized, no layer can be compared, or onnxruntime refuses
            a graph.
    """
    exact, typed = graphs
    if any(node.op_type == "QuantizeLinear" for node in exact.graph.node):
        raise InputError(
            "the first graph is quantized itself", hint="give the float graph first, then the other"
        )
    layers = list(_layers(exact, typed))
    pairs = list(dict.fromkeys(pair for layer in layers for pair in layer.pairs))
    noise: list[list[float]] = []
    signal: list[list[float]] = []
    skipped: set[_Pair] = set()
    first = parity.Probe(exact, [name for name, _ in pairs])
    second = parity.Probe(typed, [name for _, name in pairs])
    for image in images if pairs else ():
        values, approximations = first.tensors(image), second.tensors(image)
        compared = [(pair, values[pair[0]], approximations[pair[1]]) for pair in pairs]
        skipped.update(pair for pair, *arrays in compared if not _have_equal_shapes(*arrays))
        powers = [(0.0, 0.0) if pair in skipped else _powers(*arrays) for pair, *arrays in compared]
        noise.append([power for power, _ in powers])
        signal.append([power for _, power in powers])
        progress(len(noise), len(noise))
    kept = list(_comparable_layers(layers, set(pairs) - skipped))
    if not kept:
        raise InputError(
            "no tensor of the first graph has its name and its shape in the second",
            hint="give the simplified graph that the typed graph was made of",
        )
    results = {layer.result for layer in kept}
    return Comparison(
        layers=tuple(_noise(layer, pairs, np.array(noise), np.array(signal)) for layer in kept),
        left_out=tuple(layer.name for layer in layers if layer.result not in results),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A node of the float graph; a pair is a tensor's name there and in the typed graph.

    The first of ``outputs`` is the result. ``matched`` are the outputs whose name the typed
    graph has. ``reads`` pair each input with the tensor that the typed graph's node reads for it.
    """

    name: str
    op: str
    outputs: tuple[_Pair, ...]
    matched: tuple[_Pair, ...]
    inputs: tuple[_Pair, ...]
    reads: tuple[_Pair, ...] = ()

    @property
    def result(self) -> _Pair:
        return self.outputs[0]

    @property
    def pairs(self) -> tuple[_Pair, ...]:
        return (*self.matched, *self.reads)


def _layers(exact: onnx.ModelProto, typed: onnx.ModelProto) -> Iterator[_Layer]:
    makers = {name: node for node in typed.graph.node for name in node.output}
    computed = {image_input(exact).name}
    for node in exact.graph.node:
        sources = [(i, name) for i, name in enumerate(node.input) if name in computed]
        if not sources:
            continue
        computed.update(node.output)
        result = node.output[0]
        reads: list[_Pair] = []
        if result in makers:
            reader = _layer_behind(result, node.op_type, makers)
            reads = [(n, reader.input[i]) for i, n in sources if _reads(reader, i, n, makers)]
        yield _Layer(
            name=node.name or result,
            op=node.op_type,
            outputs=tuple((name, name) for name in node.output),
            matched=tuple((name, name) for name in node.output if name in makers),
            inputs=tuple((name, name) for _, name in sources),
            reads=tuple(reads),
        )


def _comparable_layers(
    layers: Iterable[_Layer], comparable: AbstractSet[_Pair]
) -> Iterator[_Layer]:
    """The layers whose result can be compared.

    An input that cannot be compared is replaced by the inputs of the layer that computed it.
    Otherwise the next layer would seem to read no noise and be blamed for all noise before it.
    """
    substitutes: dict[_Pair, tuple[_Pair, ...]] = {}
    for layer in layers:
        known = [substitutes.get(pair, ()) for pair in layer.inputs]
        inputs = tuple(dict.fromkeys(pair for pairs in known for pair in pairs))
        for pair in layer.outputs:
            substitutes[pair] = (pair,) if pair in comparable else inputs
        if layer.result in comparable:
            reads = tuple(pair for pair in layer.reads if pair in comparable)
            yield replace(layer, inputs=inputs, reads=reads)


def _layer_behind(name: str, op_type: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The node that computes tensor ``name``, without the casts between node and tensor."""
    node = makers[name]
    while node.op_type == "Cast" and op_type != "Cast" and node.input[0] in makers:
        node = makers[node.input[0]]
    return node


def _reads(
    reader: onnx.NodeProto, index: int, name: str, makers: Mapping[str, onnx.NodeProto]
) -> bool:
    """Whether input ``index`` of ``reader`` is ``name``, directly or through Q/DQ and casts."""
    if index >= len(reader.input):
        return False
    source = reader.input[index]
    while source != name and source in makers and makers[source].op_type in _CARRIERS:
        source = makers[source].input[0]
    return bool(source == name)


def _have_equal_shapes(exact: NDArray[Any], approximation: NDArray[Any]) -> bool:
    """Whether two shapes are equal except for axes of one element: [N, C] and [N, C, 1, 1]."""
    first, second = ([n for n in values.shape if n != 1] for values in (exact, approximation))
    return first == second


def _powers(exact: NDArray[Any], approximation: NDArray[Any]) -> tuple[float, float]:
    """Noise and signal power, summed in float64."""
    reference = exact.astype(np.float64)
    error = approximation.astype(np.float64).reshape(reference.shape) - reference
    return float(np.sum(error * error)), float(np.sum(reference * reference))


def _noise(
    layer: _Layer,
    pairs: Sequence[_Pair],
    noise: NDArray[np.float64],
    signal: NDArray[np.float64],
) -> LayerNoise:
    at = {pair: index for index, pair in enumerate(pairs)}

    def ratio(pair: _Pair) -> float:
        column = at[pair]
        return _ratio(float(noise[:, column].sum()), float(signal[:, column].sum()))

    column = at[layer.result]
    each = [_ratio(n, s) for n, s in zip(noise[:, column], signal[:, column], strict=True)]
    noisiest = max(layer.reads, key=ratio, default=("", ""))
    return LayerNoise(
        name=layer.name,
        op=layer.op,
        tensor=layer.result[0],
        output=ratio(layer.result),
        inputs=max(map(ratio, layer.inputs), default=0.0),
        read=ratio(noisiest) if layer.reads else 0.0,
        noisiest=noisiest[0],
        worst_image=int(np.argmax(each)),
    )


def _ratio(noise: float, signal: float) -> float:
    if noise == 0.0:
        return 0.0
    return noise / signal if signal > 0.0 else math.inf
