"""Records of the layers in the papers' tables; they need no torch, so a device can list them.

``_blocks.py`` turns the records into torch modules, ``_trace.py`` computes their shapes and costs.
Names of units are state-dict keys and must not change. Shapes are [C, H, W].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")

_CHANNEL_MULTIPLE = 8
RGB_CHANNELS = 3
NORM_EPS = 1e-3  # of batch norm in the Inception networks of TF-slim, Keras, torchvision and timm
RESNET_NORM_EPS = 1e-5  # of batch norm in torchvision's ResNets
_BOTTLENECK_EXPANSION = 4

SYMMETRIC, VALID, TF_SAME = "symmetric", "valid", "tf_same"
"""Padding of a convolution with a kernel of side k on a map of side n.

``symmetric`` adds k // 2 zeros on each side. ``tf_same`` (TensorFlow's SAME) adds as many zeros as
give ceil(n / stride) outputs, and an odd number puts the extra zero at the end: so 3x3 at stride 2
pads an even map at the end alone. ``valid`` adds none."""


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution (key ``conv``), batch norm (key ``bn``; none when ``norm_eps`` is None), ReLU."""

    out_channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = SYMMETRIC
    has_bias: bool = False
    norm_eps: float | None = NORM_EPS


@dataclass(frozen=True, slots=True)
class PlainConv:
    """Convolution without bias, norm or ReLU, padded by k // 2 zeros on each side.

    Its state-dict keys have no prefix such as ``conv``.
    """

    out_channels: int
    kernel: tuple[int, int]
    stride: int = 1


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch norm and ReLU; the state-dict keys have no prefix such as ``bn``."""

    eps: float


@dataclass(frozen=True, slots=True)
class SeparableConv:
    """Depthwise convolution (key ``depthwise``), 1x1 with bias (key ``pointwise``), ReLU.

    ``multiplier`` is the number of depthwise outputs per input channel.
    """

    out_channels: int
    kernel: tuple[int, int]
    stride: int
    multiplier: int
    padding: str = TF_SAME


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Max pool; with ``ceil_mode`` the last window may reach past the map, as TensorFlow's SAME."""

    kernel: int = 3
    stride: int = 2
    padding: int = 0
    ceil_mode: bool = False


@dataclass(frozen=True, slots=True)
class AvgPool:
    """3x3 average pool of stride 1, whose zero padding keeps the map's size.

    Without ``count_include_pad`` the padding does not count in the average, as in TensorFlow; with
    it every window's sum is divided by 9, as in torchvision's Inception-v3.
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

    ``units`` maps a name to a layer or a chain of layers. ``routes`` lists, in concat order, the
    names of the units of each branch. Two branches may start with the same units, which are then
    computed once: so Inception-C splits one branch into two.
    """

    units: Mapping[str, Unit]
    routes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Residual:
    """x + scale * conv2d(branches(x)), then ReLU; ``conv2d`` (its key) is 1x1 with bias."""

    branches: Concat
    scale: float
    has_relu: bool = True


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """ResNet's block 1x1 - 3x3 - 1x1 with a shortcut.

    The convolutions have ``width``, ``width`` and 4 * ``width`` outputs. ``stride_in`` names the
    convolution that has the stride: ``1x1`` (paper) or ``3x3``. With ``has_projection`` the
    shortcut is a strided 1x1 convolution, else the identity.
    """

    width: int
    stride: int = 1
    stride_in: str = "3x3"
    has_projection: bool = False

    @property
    def out_channels(self) -> int:
        """Number of output channels of the block."""
        return self.width * _BOTTLENECK_EXPANSION

    @property
    def strides(self) -> tuple[int, int]:
        """Strides of the first 1x1 and of the 3x3 convolution."""
        return (1, self.stride) if self.stride_in == "3x3" else (self.stride, 1)


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
    """Global average pool - dropout - a linear layer called ``name``.

    With ``hidden`` units that layer becomes linear (key 0) - ReLU - dropout - linear (key 3).
    """

    name: str
    num_classes: int
    dropout: float
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingHead:
    """FaceNet's head: pool - dropout - ``last_linear`` - ``last_bn`` - unit length, [N, size].

    With ``num_classes`` the linear layer ``logits`` follows ``last_bn``, in place of unit length.
    """

    dropout: float
    size: int = 512
    num_classes: int | None = None


Head: TypeAlias = ClassifierHead | EmbeddingHead


@dataclass(frozen=True, slots=True, kw_only=True)
class AuxiliaryHead:
    """A classifier on the output of layer ``input_layer``, for training; absent from inference.

    The layers are: average pool - ``convs`` - global average - ``fc``. With ``hidden`` units the
    pool gives a 4 x 4 map whatever its input, and ``fc1`` - ReLU - dropout 0.7 - ``fc2`` follow
    ``convs``. ``weight`` scales the head's loss.
    """

    name: str
    input_layer: str
    convs: Mapping[str, Conv]
    num_classes: int
    weight: float
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Layers, head and auxiliary heads of a network.

    ``layers`` maps dotted module paths to layers, in the order of execution. With
    ``is_input_transformed`` the network expects images normalised with ImageNet's mean and std, and
    first rescales them to -1..1 (torchvision's ``transform_input``).
    """

    layers: Mapping[str, Layer]
    head: Head
    auxiliary: tuple[AuxiliaryHead, ...] = ()
    is_input_transformed: bool = False


def branches(**units: Unit) -> Concat:
    """Concat with one branch per unit, in the order given."""
    return concat(*({name: unit} for name, unit in units.items()))


def concat(*chains: Mapping[str, Unit]) -> Concat:
    """Concat with one branch per chain of named units; chains may share their first units."""
    units = {name: unit for chain in chains for name, unit in chain.items()}
    return Concat(units, tuple(map(tuple, chains)))


def scale_channels(channels: int, width: float) -> int:
    """``channels * width``, rounded to a multiple of 8, at least 8; unchanged at width 1."""
    if width == 1.0:
        return channels
    return max(_CHANNEL_MULTIPLE, round(channels * width / _CHANNEL_MULTIPLE) * _CHANNEL_MULTIPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvFactory:
    """Settings that all convolutions of an architecture share; ``width`` scales their channels."""

    width: float = 1.0
    padding: str = SYMMETRIC
    has_bias: bool = False
    norm_eps: float | None = NORM_EPS

    def conv(self, kernel: str, filters: int, stride: int = 1, padding: str = "") -> Conv:
        """A convolution, such as ``conv("1x7", 64)``; without ``padding`` it has the factory's."""
        height, width = (int(side) for side in kernel.split("x"))
        return Conv(
            self.scale_channels(filters),
            (height, width),
            stride,
            padding or self.padding,
            self.has_bias,
            self.norm_eps,
        )

    def conv3x3_stride2(self, filters: int) -> Conv:
        """A 3x3 convolution of stride 2 without padding."""
        return self.conv("3x3", filters, 2, VALID)

    def scale_channels(self, channels: int) -> int:
        """``channels`` scaled by the factory's ``width``."""
        return scale_channels(channels, self.width)


def parse_option(name: str, value: _K, choices: Mapping[_K, _V]) -> _V:
    """The entry of ``choices`` for ``value``, which a user chose for option ``name``.

    Raises:
        ValueError: ``value`` is not a key of ``choices``.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(map(repr, choices))}")
    return choices[value]


def sequential(prefix: str, layers: tuple[Layer, ...]) -> dict[str, Layer]:
    """Layers named ``prefix.0``, ``prefix.1`` and so on, as in ``nn.Sequential``."""
    return {f"{prefix}.{index}": layer for index, layer in enumerate(layers)}
