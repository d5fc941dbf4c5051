"""Layers of the papers' tables as records; no torch, so a device can list architectures.

``_blocks.py`` turns them into modules, ``_trace.py`` follows their shapes. Names of units are
state-dict keys and must not change. Shapes are [C, H, W].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")

CHANNEL_MULTIPLE = 8
RGB_CHANNELS = 3
NORM_EPS = 1e-3  # TF-slim, Keras, torchvision and timm agree on it for the Inception family

SAME, VALID, TF_SAME = "same", "valid", "tf_same"
"""Padding of a convolution. ``same``: k // 2 zeros on both sides of a k x k kernel. ``tf_same``:
as many zeros as give ceil(n / stride) outputs, the odd one at the end, so that an even map at
stride 2 is padded on one side only. ``valid``: no zeros."""


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution (key ``conv``), batch norm (key ``bn``; none when ``norm_eps`` is None), ReLU."""

    out: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = SAME
    has_bias: bool = False
    norm_eps: float | None = NORM_EPS


@dataclass(frozen=True, slots=True)
class PlainConv:
    """Convolution without bias, norm and ReLU; k // 2 zeros on each side; keys without a prefix."""

    out: int
    kernel: tuple[int, int]
    stride: int = 1


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch norm and ReLU; keys without a prefix."""

    eps: float


@dataclass(frozen=True, slots=True)
class SeparableConv:
    """Depthwise convolution (key ``depthwise``), 1x1 with bias (key ``pointwise``), ReLU; SAME."""

    out: int
    kernel: tuple[int, int]
    stride: int
    multiplier: int
    padding: str = TF_SAME


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Max pool; with ``is_ceil`` the last window may reach over the edge, as TensorFlow's SAME."""

    kernel: int = 3
    stride: int = 2
    padding: int = 0
    is_ceil: bool = False


@dataclass(frozen=True, slots=True)
class AvgPool:
    """3x3 average pool of stride 1, SAME.

    With ``count_include_pad`` False each sum is divided by its number of real pixels, as TensorFlow
    does; with True always by 9, as torchvision's Inception-v3 does.
    """

    kernel: int = 3
    count_include_pad: bool = False


@dataclass(frozen=True, slots=True)
class LocalResponseNorm:
    """Normalisation over ``size`` neighbouring channels, bias 1 (Krizhevsky et al. 2012, 3.3)."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75


Unit: TypeAlias = "Conv | MaxPool | AvgPool | tuple[Conv | MaxPool | AvgPool, ...]"


@dataclass(frozen=True, slots=True)
class Concat:
    """Parallel branches, concatenated over channels.

    ``units`` are named layers or chains. ``routes`` list, in concat order, which units each branch
    passes; a shared prefix is computed once, which is how Inception-C splits one branch into two.
    """

    units: Mapping[str, Unit]
    routes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Residual:
    """x + scale * linear 1x1 (key ``conv2d``, with bias) of the branches of x; then ReLU."""

    branches: Concat
    scale: float
    has_relu: bool = True


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """ResNet's 1x1 - 3x3 - 1x1 with a shortcut; ``width``, ``width``, 4 * ``width`` channels.

    ``stride_in`` is the convolution that strides, ``1x1`` (paper) or ``3x3``. The shortcut is a
    strided 1x1 convolution where ``has_projection``.
    """

    width: int
    stride: int = 1
    stride_in: str = "3x3"
    has_projection: bool = False


Layer: TypeAlias = (
    Conv
    | PlainConv
    | BatchNorm
    | SeparableConv
    | MaxPool
    | AvgPool
    | LocalResponseNorm
    | Concat
    | Residual
    | Bottleneck
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierHead:
    """Global average pool - dropout - linear layer called ``name``.

    ``hidden`` units make it linear (key 0) - ReLU - dropout - linear (key 3).
    """

    name: str
    num_classes: int
    dropout: float
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingHead:
    """FaceNet's tail: pool - dropout - ``last_linear`` - ``last_bn`` - unit length, [N, size].

    With ``num_classes``, ``logits`` follow ``last_bn`` instead.
    """

    dropout: float
    size: int = 512
    num_classes: int | None = None


Head: TypeAlias = ClassifierHead | EmbeddingHead


@dataclass(frozen=True, slots=True, kw_only=True)
class AuxiliaryHead:
    """A classifier on the output of layer ``after``, for training; absent from inference.

    Average pool - ``convs`` - global average - ``fc``. With ``hidden`` units the pool gives a 4 x 4
    map whatever its input, and ``fc1`` - ReLU - dropout 0.7 - ``fc2`` follow ``convs``. ``weight``
    scales its loss.
    """

    name: str
    after: str
    convs: Mapping[str, Conv]
    num_classes: int
    weight: float
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Layers, head and auxiliary heads of a network.

    ``layers`` are in the order of execution, their keys are dotted module paths. With
    ``is_input_transformed`` the network expects images normalised with ImageNet's mean and std, and
    rescales them to -1..1 first (torchvision's ``transform_input``).
    """

    layers: Mapping[str, Layer]
    head: Head
    auxiliary: tuple[AuxiliaryHead, ...] = ()
    is_input_transformed: bool = False


def branches(**units: Unit) -> Concat:
    """Concat with one branch per unit, in the order given."""
    return Concat(units, tuple((name,) for name in units))


def widen(channels: int, width: float) -> int:
    """Channels times ``width``, rounded to a multiple of 8 and at least 8; unchanged at width 1."""
    if width == 1.0:
        return channels
    return max(CHANNEL_MULTIPLE, round(channels * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Maker of an architecture's convolutions, whose channel counts are scaled by ``width``."""

    width: float = 1.0
    padding: str = SAME
    has_bias: bool = False
    norm_eps: float | None = NORM_EPS

    def conv(self, kernel: str, out: int, stride: int = 1, padding: str = "") -> Conv:
        """A convolution such as ``conv("1x7", 64)``; an empty ``padding`` means this record's."""
        rows, columns = (int(side) for side in kernel.split("x"))
        return Conv(
            self.count(out),
            (rows, columns),
            stride,
            padding or self.padding,
            self.has_bias,
            self.norm_eps,
        )

    def reduce(self, out: int) -> Conv:
        """3x3 of stride 2 without padding."""
        return self.conv("3x3", out, 2, VALID)

    def count(self, channels: int) -> int:
        """``channels`` scaled by ``width``."""
        return widen(channels, self.width)


def checked(name: str, value: _K, meaning: Mapping[_K, _V]) -> _V:
    """The meaning of ``value``, which a user chose for option ``name``.

    Raises:
        ValueError: ``value`` is not a key of ``meaning``.
    """
    if value not in meaning:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(map(repr, meaning))}")
    return meaning[value]


def chained(prefix: str, layers: tuple[Layer, ...]) -> dict[str, Layer]:
    """Layers under ``prefix.0``, ``prefix.1`` and so on."""
    return {f"{prefix}.{index}": layer for index, layer in enumerate(layers)}
