"""Rounding of all weights of a graph by the statistics of their inputs, streamed over photos."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from openvino import opset13 as ops

from edge_inception.data.imageset import ImageItem
from edge_inception.graph import check
from edge_inception.quant.openvino_reader import Stream
from edge_inception.quant.options import CalibrateOptions
from edge_inception.quant.placement import Weight, place_pairs
from edge_inception.quant.policies import SANDWICH
from edge_inception.quant.scales import quantize_weight
from edge_inception.quant.second_order import output_error, round_second_order
from edge_inception.spec import Progress

MIN_IMAGES = 8
"""Smallest number of images for second-order rounding: 6 to round by, 2 to judge the result."""

_PATCHES_PER_IMAGE = 256
_MIN_FITTED, _MAX_IMAGES = 24, 96  # images to round by, at least; images to read, at most
_PATCHES_PER_INPUT = 2  # patches wanted for each input of an output channel
_SHARE_HELD_BACK = 4  # one image of 4 judges the result
_MEMORY = 600 * 2**20  # bytes of statistics held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """The window of a convolution: what two layers that read one tensor must share to share H."""

    source: str
    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class _Gram:
    """Statistics of the inputs of layers with one window: to round by, and to judge by.

    ``fitted`` and ``held`` are float32 [groups, K, K], sums of x x^T over patches x [K].
    """

    window: _Window
    layers: tuple[int, ...]
    fan_in: int
    fitted: NDArray[np.float32] = field(init=False)
    held: NDArray[np.float32] = field(init=False)
    num_images: int = 0
    num_patches: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether more images to round by would change little."""
        wanted = _PATCHES_PER_INPUT * self.fan_in
        return self.num_images >= _MIN_FITTED and self.num_patches >= wanted

    @property
    def num_bytes(self) -> int:
        """Bytes of both sums."""
        return 2 * 4 * self.window.groups * self.fan_in**2

    def clear(self) -> None:
        """Begin with empty sums."""
        shape = (self.window.groups, self.fan_in, self.fan_in)
        self.fitted, self.held = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def add(self, patches: NDArray[np.float32], *, is_held: bool) -> None:
        """Add the patches [groups, P, K] of one image."""
        total = self.held if is_held else self.fitted
        total += patches.swapaxes(1, 2) @ patches
        if not is_held:
            self.num_images += 1
            self.num_patches += patches.shape[1]


def round_weights(
    path: Path, items: Sequence[ImageItem], options: CalibrateOptions, progress: Progress
) -> dict[str, NDArray[np.int8]]:
    """Weight -> its int8 steps, for the Conv and Gemm layers of the simplified graph at ``path``.

    Every output channel is rounded to nearest or by ``round_second_order``, whichever has the
    smaller output error on images that the rounding has not seen. The scales are those of
    ``quantize_weight``. Weights that several layers share are left out; they round to nearest.

    Args:
        path: The simplified graph.
        items: The calibration images; with fewer than MIN_IMAGES the result is empty.
        options: Preprocessing, threads, and the seed of the positions of patches.
        progress: Called with the number of images done and of all images, anew for every pass.

    Raises:
        InputError: An image is not usable.
        CompileFailed: OpenVINO does not take the graph.
    """
    ordered = sorted(items, key=lambda item: item.sha256)[:_MAX_IMAGES]
    if len(ordered) < MIN_IMAGES:
        return {}
    model = check.load_graph(path)
    layers = place_pairs(model, SANDWICH).weights
    counts = [weight.name for weight in layers.values()]
    alone = {i: weight for i, weight in layers.items() if counts.count(weight.name) == 1}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    rounded: dict[str, NDArray[np.int8]] = {}
    for share in _shares(_grams(model, alone, stored)):
        _observe(path, share, ordered, options, progress)
        for gram in share:
            for index in gram.layers:
                weight = alone[index]
                values = numpy_helper.to_array(stored[weight.name])
                rounded[weight.name] = _rounded(values, weight.axis, gram)
            del gram.fitted, gram.held
    return rounded


def _grams(
    model: onnx.ModelProto, layers: Mapping[int, Weight], stored: Mapping[str, onnx.TensorProto]
) -> list[_Gram]:
    """The statistics that the layers need, in graph order; layers with one window share theirs."""
    members: dict[_Window, list[int]] = {}
    for index, weight in layers.items():
        node, shape = model.graph.node[index], tuple(stored[weight.name].dims)
        members.setdefault(_window(node, shape), []).append(index)
    grams = []
    for window, indices in members.items():
        weight = layers[indices[0]]
        shape = tuple(stored[weight.name].dims)
        fan_in = int(np.prod(shape)) // shape[weight.axis]
        grams.append(_Gram(window=window, layers=tuple(indices), fan_in=fan_in))
    return grams


def _window(node: onnx.NodeProto, shape: tuple[int, ...]) -> _Window:
    rank = len(shape) - 2
    is_conv = node.op_type == "Conv"
    return _Window(
        source=node.input[0],
        groups=int(check.attribute(node, "group", 1)) if is_conv else 1,  # type: ignore[call-overload]
        kernel=shape[2:],
        strides=tuple(check.integers(node, "strides", [1] * rank)),
        pads=tuple(check.integers(node, "pads", [0] * 2 * rank)),
        dilations=tuple(check.integers(node, "dilations", [1] * rank)),
    )


def _shares(grams: Sequence[_Gram]) -> Iterator[list[_Gram]]:
    """The statistics in graph order, in shares that fit the memory; each takes one pass."""
    share: list[_Gram] = []
    for gram in grams:
        if share and sum(one.num_bytes for one in (*share, gram)) > _MEMORY:
            yield share
            share = []
        share.append(gram)
    yield share


def _observe(
    path: Path,
    share: Sequence[_Gram],
    items: Sequence[ImageItem],
    options: CalibrateOptions,
    progress: Progress,
) -> None:
    """Fill the statistics of ``share`` by one pass over the images, one image at a time."""
    names = list(dict.fromkeys(gram.window.source for gram in share))

    def outputs(tensors: Mapping[str, Any]) -> list[Any]:
        return [ops.result(tensors[name]) for name in names]

    for gram in share:
        gram.clear()
    stream = Stream(path, dataclasses.replace(options, batch=1), outputs)
    random = np.random.default_rng(options.seed)
    for number, (_, readings) in enumerate(stream.read(items, progress)):
        tensors = dict(zip(names, readings, strict=False))
        for gram in share:
            if not gram.is_enough:
                patches = _patches(tensors[gram.window.source][0], gram.window, random)
                gram.add(patches, is_held=number % _SHARE_HELD_BACK == 0)
        if all(gram.is_enough for gram in share):
            return


def _patches(
    values: NDArray[np.float32], window: _Window, random: np.random.Generator
) -> NDArray[np.float32]:
    """Patches [groups, P, K] of an input [C, H, W] (or a row [C]) at random output positions."""
    if values.ndim == 1:
        return values.reshape(1, 1, -1)
    rank = len(window.kernel)
    pads = [(0, 0), *zip(window.pads[:rank], window.pads[rank:], strict=True)]
    padded = np.pad(values, pads)
    taps = [
        np.arange(size) * dilation
        for size, dilation in zip(window.kernel, window.dilations, strict=True)
    ]
    sizes = [
        (length - tap[-1] - 1) // stride + 1
        for length, tap, stride in zip(padded.shape[1:], taps, window.strides, strict=True)
    ]
    count = min(_PATCHES_PER_IMAGE, int(np.prod(sizes)))
    where = np.unravel_index(random.choice(np.prod(sizes), count, replace=False), sizes)
    grid: list[NDArray[np.intp]] = []
    for axis, (positions, tap, stride) in enumerate(zip(where, taps, window.strides, strict=True)):
        shape = [count] + [-1 if other == axis else 1 for other in range(rank)]
        grid.append((positions[:, None] * stride + tap).reshape(shape))
    index: tuple[Any, ...] = (slice(None), *grid)
    patches = padded[index]  # [C, P, kernel]
    grouped = patches.reshape(window.groups, -1, count, int(np.prod(window.kernel)))
    return np.ascontiguousarray(grouped.swapaxes(1, 2).reshape(window.groups, count, -1))


def _rounded(values: NDArray[np.float32], axis: int, gram: _Gram) -> NDArray[np.int8]:
    """The int8 steps of one weight, channel by channel those with the smaller error on new images.

    Args:
        values: The float weight.
        axis: Its axis of output channels.
        gram: The statistics of the layer's input.
    """
    nearest, scale = quantize_weight(values, axis=axis)
    rows = np.moveaxis(values, axis, 0)
    weight = rows.reshape(gram.window.groups, -1, gram.fan_in)
    plain = np.moveaxis(nearest, axis, 0).reshape(weight.shape)
    scales = scale.reshape(gram.window.groups, -1)
    chosen = np.empty_like(plain)
    for one in range(gram.window.groups):
        steps = round_second_order(weight[one], scales[one], gram.fitted[one])
        held = gram.held[one]
        is_better = output_error(weight[one], steps, scales[one], held) < output_error(
            weight[one], plain[one], scales[one], held
        )
        chosen[one] = np.where(is_better[:, None], steps, plain[one])
    return np.ascontiguousarray(np.moveaxis(chosen.reshape(rows.shape), 0, axis))
