"""Where the error of a typed graph arises: noise to signal, layer by layer, against a float graph.

Both graphs run in onnxruntime as they are written, without its optimisations, on the same images,
one at a time. A tensor of the float graph is found in the typed one by its name; what a layer of
the typed graph reads through a Q/DQ pair or a cast is compared too, so that the noise of a pair is
told apart from that of the weights behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_inception.errors import InputError
from edge_inception.graph import parity
from edge_inception.graph.check import image_input
from edge_inception.spec import Progress, no_progress

QUIET = 1e-3
"""Noise to signal below which an input counts as this noisy: -30 dB, about what 8 bits leave."""

JUMP = 10.0
"""Times the noise to signal of a layer's noisiest input from which its output is a jump: 10 dB."""

LIMIT_DB = 300.0
"""Stands for no noise at all, and negative for noise where there is no signal."""

_CARRIERS = frozenset(("QuantizeLinear", "DequantizeLinear", "Cast"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNoise:
    """One node of the float graph; all figures are noise to signal in power, over all images.

    ``output`` is that of its result, ``inputs`` the largest of the tensors it reads as their makers
    left them, ``read`` the largest as it reads them, behind Q/DQ and casts; ``noisiest`` names that
    tensor. ``worst_image`` is the index of the image with the largest ``output``.
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
        """``output`` over ``inputs``, quiet inputs counting as ``QUIET``."""
        return self.output / max(self.inputs, QUIET)

    @property
    def is_jump(self) -> bool:
        """Whether much of the error arises here."""
        return self.rise >= JUMP

    @property
    def is_pair_to_blame(self) -> bool:
        """Whether most of it is there before the layer computes: the scale of what it reads."""
        return self.is_jump and self.read >= self.output / JUMP


def decibels(noise_to_signal: float) -> float:
    """SQNR in dB, within ``LIMIT_DB`` either way."""
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
    pictures: Iterable[NDArray[Any]],
    *,
    progress: Progress = no_progress,
) -> tuple[LayerNoise, ...]:
    """Noise of every layer of a float graph whose result the typed graph has, in graph order.

    Args:
        graphs: The float graph, and a typed graph that was made of it.
        pictures: Preprocessed images [1, ...], at least one.
        progress: Called with images done, and with that again: how many there are is not known.

    Raises:
        InputError: The first graph is quantized, no tensor of one is in the other, or onnxruntime
            refuses a graph.
    """
    exact, typed = graphs
    if any(node.op_type == "QuantizeLinear" for node in exact.graph.node):
        raise InputError(
            "the first graph is quantized itself", hint="give the float graph first, then the other"
        )
    layers = list(_layers(exact, typed))
    if not layers:
        raise InputError(
            "no tensor of the first graph has its name in the second",
            hint="give the simplified graph that the typed graph was made of",
        )
    pairs = list(dict.fromkeys(pair for layer in layers for pair in layer.pairs))
    noise: list[list[float]] = []
    signal: list[list[float]] = []
    first = parity.Probe(exact, [name for name, _ in pairs])
    second = parity.Probe(typed, [name for _, name in pairs])
    for picture in pictures:
        ours, theirs = first.tensors(picture), second.tensors(picture)
        powers = [_powers(ours[name], theirs[other]) for name, other in pairs]
        noise.append([power for power, _ in powers])
        signal.append([power for _, power in powers])
        progress(len(noise), len(noise))
    return tuple(_judged(layer, pairs, np.array(noise), np.array(signal)) for layer in layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A node of the float graph, with the pairs of names: its result, its inputs, what is read."""

    name: str
    op: str
    result: tuple[str, str]
    inputs: tuple[tuple[str, str], ...]
    reads: tuple[tuple[str, str], ...]

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        yield self.result
        yield from self.inputs
        yield from self.reads


def _layers(exact: onnx.ModelProto, typed: onnx.ModelProto) -> Iterator[_Layer]:
    makers = {name: node for node in typed.graph.node for name in node.output}
    known = {*makers, image_input(typed).name}
    computed = {image_input(exact).name}
    for node in exact.graph.node:
        sources = [(i, name) for i, name in enumerate(node.input) if name in computed]
        if not sources:
            continue
        computed.update(node.output)
        result = node.output[0]
        if result not in makers:
            continue
        reader = _layer_behind(result, node.op_type, makers)
        yield _Layer(
            name=node.name or result,
            op=node.op_type,
            result=(result, result),
            inputs=tuple((name, name) for _, name in sources if name in known),
            reads=tuple(
                (name, reader.input[i]) for i, name in sources if _carries(reader, i, name, makers)
            ),
        )


def _layer_behind(name: str, op_type: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The node that computes ``name``, whatever casts follow it."""
    node = makers[name]
    while node.op_type == "Cast" and op_type != "Cast" and node.input[0] in makers:
        node = makers[node.input[0]]
    return node


def _carries(
    reader: onnx.NodeProto, index: int, name: str, makers: Mapping[str, onnx.NodeProto]
) -> bool:
    """Whether input ``index`` of ``reader`` is ``name``, as it is or behind Q/DQ and casts."""
    if index >= len(reader.input):
        return False
    found = reader.input[index]
    while found != name and found in makers and makers[found].op_type in _CARRIERS:
        found = makers[found].input[0]
    return bool(found == name)


def _powers(exact: NDArray[Any], approximation: NDArray[Any]) -> tuple[float, float]:
    """Noise and signal power, summed in float64."""
    reference = exact.astype(np.float64)
    error = approximation.astype(np.float64) - reference
    return float(np.sum(error * error)), float(np.sum(reference * reference))


def _judged(
    layer: _Layer,
    pairs: Sequence[tuple[str, str]],
    noise: NDArray[np.float64],
    signal: NDArray[np.float64],
) -> LayerNoise:
    at = {pair: index for index, pair in enumerate(pairs)}

    def ratio(pair: tuple[str, str]) -> float:
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
