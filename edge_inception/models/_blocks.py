"""torch modules for the layer records in ``_layers.py``, which every architecture uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edge_inception.models._layers import (
    RGB_CHANNELS,
    TF_SAME,
    VALID,
    Architecture,
    AuxiliaryHead,
    BatchNorm,
    Bottleneck,
    ClassifierHead,
    Concat,
    Conv,
    Head,
    Layer,
    LocalResponseNorm,
    MaxPool,
    PlainConv,
    Residual,
    SeparableConv,
    Unit,
)
from edge_inception.spec import IMAGENET_MEAN, IMAGENET_STD

RESNET_NORM_EPS = 1e-5
_EXPANSION = 4
_AUX_DROPOUT, _AUX_MAP = 0.7, 4  # GoogLeNet, section 5 of arXiv 1409.4842
_HALF = 0.5
_SMALLEST_SQUARE = 1e-24  # square of 1e-12, the least length that torch's normalize divides by


class ConvUnit(nn.Module):
    """conv - batch norm - ReLU; keys ``conv.*`` and ``bn.*``."""

    def __init__(self, channels: int, layer: Conv) -> None:
        super().__init__()
        padding = (0, 0)
        if layer.padding != VALID:
            padding = (layer.kernel[0] // 2, layer.kernel[1] // 2)
        # At stride 1 TensorFlow's SAME pads an odd kernel equally on both sides, as Conv2d can.
        self._is_padded = layer.padding == TF_SAME and layer.stride > 1
        self._kernel, self._stride = layer.kernel, layer.stride
        self.conv = nn.Conv2d(
            channels,
            layer.out,
            layer.kernel,
            layer.stride,
            (0, 0) if self._is_padded else padding,
            bias=layer.has_bias,
        )
        if layer.norm_eps is not None:
            self.bn = nn.BatchNorm2d(layer.out, eps=layer.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(pad_same(x, self._kernel, self._stride) if self._is_padded else x)
        if hasattr(self, "bn"):
            x = self.bn(x)
        return nn.functional.relu(x)


def pad_same(x: Tensor, kernel: tuple[int, int], stride: int) -> Tensor:
    """``x`` [N, C, H, W] with the zeros that TensorFlow's SAME adds for a strided convolution."""
    pads: list[int] = []
    for size, side in zip(reversed(x.shape[2:]), reversed(kernel), strict=True):
        total = max((-(-size // stride) - 1) * stride + side - size, 0)
        pads += [total // 2, total - total // 2]
    return nn.functional.pad(x, pads)


class SeparableUnit(nn.Module):
    """Depthwise - pointwise with bias - ReLU, as ``separable_conv2d`` in TF-slim's Inception-v2."""

    def __init__(self, channels: int, layer: SeparableConv) -> None:
        super().__init__()
        wide = channels * layer.multiplier
        self._kernel, self._stride = layer.kernel, layer.stride
        self._is_padded = layer.padding == TF_SAME
        padding = (0, 0) if self._is_padded else (layer.kernel[0] // 2, layer.kernel[1] // 2)
        self.depthwise = nn.Conv2d(
            channels, wide, layer.kernel, layer.stride, padding, groups=channels, bias=False
        )
        self.pointwise = nn.Conv2d(wide, layer.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, self._kernel, self._stride) if self._is_padded else x
        return nn.functional.relu(self.pointwise(self.depthwise(x)))


class NormUnit(nn.BatchNorm2d):
    """Batch norm - ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(super().forward(x))


class Branches(nn.Module):
    """Parallel routes through named units, concatenated over channels; see ``Concat``."""

    def __init__(self, channels: int, layer: Concat) -> None:
        super().__init__()
        self._routes = layer.routes
        widths: dict[tuple[str, ...], int] = {(): channels}
        for route in layer.routes:
            for depth, name in enumerate(route, start=1):
                if route[:depth] not in widths:
                    module, out = _unit(widths[route[: depth - 1]], layer.units[name])
                    self.add_module(name, module)
                    widths[route[:depth]] = out
        self.out_channels = sum(widths[route] for route in layer.routes)

    def forward(self, x: Tensor) -> Tensor:
        done: dict[tuple[str, ...], Tensor] = {(): x}
        for route in self._routes:
            for depth, name in enumerate(route, start=1):
                if route[:depth] not in done:
                    done[route[:depth]] = self.get_submodule(name)(done[route[: depth - 1]])
        return torch.cat([done[route] for route in self._routes], dim=1)


class ResidualUnit(Branches):
    """x + scale * conv2d(branches of x), then ReLU; keys are the branches' and ``conv2d.*``."""

    def __init__(self, channels: int, layer: Residual) -> None:
        super().__init__(channels, layer.branches)
        self._scale, self._has_relu = layer.scale, layer.has_relu
        self.conv2d = nn.Conv2d(self.out_channels, channels, 1)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2d(super().forward(x))
        out = x + (residual if self._scale == 1.0 else residual * self._scale)
        return nn.functional.relu(out) if self._has_relu else out


class BottleneckUnit(nn.Module):
    """ResNet's block with torchvision's keys ``conv1`` to ``bn3`` and ``downsample``."""

    def __init__(self, channels: int, layer: Bottleneck) -> None:
        super().__init__()
        width, out = layer.width, layer.width * _EXPANSION
        first, second = (1, layer.stride) if layer.stride_in == "3x3" else (layer.stride, 1)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=RESNET_NORM_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=RESNET_NORM_EPS)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, eps=RESNET_NORM_EPS)
        self.downsample: nn.Module = nn.Identity()
        if layer.has_projection:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, layer.stride, bias=False),
                nn.BatchNorm2d(out, eps=RESNET_NORM_EPS),
            )
        self.out_channels = out

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        out = nn.functional.relu(self.bn2(self.conv2(out)))
        return nn.functional.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class Classifier(nn.Sequential):
    """linear - ReLU - dropout - linear; keys ``0.*`` and ``3.*``."""

    def __init__(self, channels: int, head: ClassifierHead) -> None:
        super().__init__(
            nn.Linear(channels, head.hidden),
            nn.ReLU(),
            nn.Dropout(head.dropout),
            nn.Linear(head.hidden, head.num_classes),
        )


class Auxiliary(nn.Module):
    """A classifier on an inner feature map, [N, C, H, W] -> [N, num_classes]; for training."""

    def __init__(self, channels: int, head: AuxiliaryHead) -> None:
        super().__init__()
        self._names, self._hidden = tuple(head.convs), head.hidden
        for name, layer in head.convs.items():
            module, channels = _unit(channels, layer)
            self.add_module(name, module)
        if head.hidden:
            self.fc1 = nn.Linear(channels * _AUX_MAP * _AUX_MAP, head.hidden)
            self.fc2 = nn.Linear(head.hidden, head.num_classes)
        else:
            self.fc = nn.Linear(channels, head.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        functional = nn.functional
        if self._hidden:
            x = functional.adaptive_avg_pool2d(x, (_AUX_MAP, _AUX_MAP))
        else:
            x = functional.avg_pool2d(x, 5, 3)
        for name in self._names:
            x = self.get_submodule(name)(x)
        if self._hidden:
            x = functional.relu(self.fc1(x.flatten(1)))
            logits: Tensor = self.fc2(functional.dropout(x, _AUX_DROPOUT, self.training))
        else:
            logits = self.fc(x.mean(dim=(2, 3)))
        return logits


class Network(nn.Module):
    """The module of an architecture: its layers in order, then its head.

    The input is float32 [N, 3, H, W], the output logits [N, num_classes] or unit-length embeddings
    [N, size]. In training mode a network with auxiliary heads returns a tuple: its own output, then
    the logits of each auxiliary head.

    Attributes:
        auxiliary_weights: Weight of each auxiliary head's loss.
        is_embedding: Whether the output is an embedding.
        num_outputs: Columns of the output.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self._order = tuple(architecture.layers)
        self._is_transformed = architecture.is_input_transformed
        self._auxiliary = {head.after: head.name for head in architecture.auxiliary}
        channels = RGB_CHANNELS
        for path, layer in architecture.layers.items():
            module, channels = _layer(channels, layer)
            _register(self, path, module)
            for head in architecture.auxiliary:
                if head.after == path:
                    self.add_module(head.name, Auxiliary(channels, head))
        self.auxiliary_weights = tuple(head.weight for head in architecture.auxiliary)
        self.is_embedding = False
        self._head = architecture.head
        self._add_head(channels, architecture.head)

    def _add_head(self, channels: int, head: Head) -> None:
        self.dropout = nn.Dropout(head.dropout)
        if isinstance(head, ClassifierHead):
            linear = nn.Linear(channels, head.num_classes)
            self.add_module(head.name, Classifier(channels, head) if head.hidden else linear)
            self.num_outputs = head.num_classes
            return
        self.last_linear = nn.Linear(channels, head.size, bias=False)
        self.last_bn = nn.BatchNorm1d(head.size, eps=1e-3)
        self.is_embedding = head.num_classes is None
        self.num_outputs = head.num_classes or head.size
        if head.num_classes:
            self.logits = nn.Linear(head.size, head.num_classes)

    def maps(self, x: Tensor) -> Tensor:
        """The last feature map [N, C, h, w] of images [N, 3, H, W]."""
        return self._walk(x)[0]

    def forward(self, x: Tensor) -> Any:
        x, auxiliary = self._walk(x)
        answer = self._answer(self.dropout(x.mean(dim=(2, 3))))
        return (answer, *auxiliary) if auxiliary else answer

    def _walk(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        auxiliary: list[Tensor] = []
        if self._is_transformed:
            x = to_unit_range(x)
        for path in self._order:
            x = self.get_submodule(path)(x)
            if self.training and path in self._auxiliary:
                auxiliary.append(self.get_submodule(self._auxiliary[path])(x))
        return x, auxiliary

    def _answer(self, pooled: Tensor) -> Tensor:
        if isinstance(self._head, ClassifierHead):
            answer: Tensor = self.get_submodule(self._head.name)(pooled)
        elif self.is_embedding:
            answer = to_unit_length(self.last_bn(self.last_linear(pooled)))
        else:
            answer = self.logits(self.last_bn(self.last_linear(pooled)))
        return answer


def to_unit_length(vectors: Tensor) -> Tensor:
    """``vectors`` [N, D] with rows of length 1, by operators that no ONNX opset changed."""
    square = (vectors * vectors).sum(dim=1, keepdim=True)
    return vectors / (square + _SMALLEST_SQUARE).sqrt()


def to_unit_range(x: Tensor) -> Tensor:
    """Pixels in -1..1 from pixels ``x`` normalised with ImageNet's mean and std, [N, 3, H, W]."""
    factors = [std / _HALF for std in IMAGENET_STD]
    shifts = [(mean - _HALF) / _HALF for mean in IMAGENET_MEAN]
    return x * x.new_tensor(factors).view(1, 3, 1, 1) + x.new_tensor(shifts).view(1, 3, 1, 1)


def _register(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:  # noqa: SLF001 -- of our own tree
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def _layer(channels: int, layer: Layer) -> tuple[nn.Module, int]:
    """The module of one layer, and its number of output channels."""
    if isinstance(layer, Concat | Residual | Bottleneck):
        kinds: dict[type, Callable[[int, Any], Any]] = {
            Concat: Branches,
            Residual: ResidualUnit,
            Bottleneck: BottleneckUnit,
        }
        block = kinds[type(layer)](channels, layer)
        return block, block.out_channels
    if isinstance(layer, PlainConv):
        padding = (layer.kernel[0] // 2, layer.kernel[1] // 2)
        conv = nn.Conv2d(channels, layer.out, layer.kernel, layer.stride, padding, bias=False)
        return conv, layer.out
    if isinstance(layer, SeparableConv):
        return SeparableUnit(channels, layer), layer.out
    if isinstance(layer, BatchNorm):
        return NormUnit(channels, eps=layer.eps), channels
    if isinstance(layer, LocalResponseNorm):
        return LocalNorm(layer), channels
    return _unit(channels, layer)


def _unit(channels: int, unit: Unit) -> tuple[nn.Module, int]:
    """The module of one unit, and its number of output channels."""
    if isinstance(unit, tuple):
        chain: list[nn.Module] = []
        for part in unit:
            module, channels = _unit(channels, part)
            chain.append(module)
        return nn.Sequential(*chain), channels
    if isinstance(unit, Conv):
        return ConvUnit(channels, unit), unit.out
    if isinstance(unit, MaxPool):
        pool = nn.MaxPool2d(unit.kernel, unit.stride, unit.padding, ceil_mode=unit.is_ceil)
        return pool, channels
    padding = unit.kernel // 2
    average = nn.AvgPool2d(unit.kernel, 1, padding, count_include_pad=unit.count_include_pad)
    return average, channels


class LocalNorm(nn.Module):
    """Local response normalisation over neighbouring channels, without weights."""

    def __init__(self, layer: LocalResponseNorm) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self._layer
        if torch.onnx.is_in_onnx_export():
            # PyTorch would export ten nodes that no engine recognises; ONNX has the operator LRN.
            attributes: dict[str, Any] = {
                "alpha": layer.alpha,
                "beta": layer.beta,
                "bias": 1.0,
                "size": layer.size,
            }
            return torch.onnx.ops.symbolic(
                "LRN", (x,), attributes, dtype=x.dtype, shape=x.shape, version=13
            )
        return nn.functional.local_response_norm(x, layer.size, layer.alpha, layer.beta)
