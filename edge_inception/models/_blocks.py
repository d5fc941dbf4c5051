"""torch modules for the layer records in ``_layers.py``, which every architecture uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edge_inception.models._layers import (
    RESNET_NORM_EPS,
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

_AUX_DROPOUT, _AUX_POOL_SIZE = 0.7, 4  # GoogLeNet, section 5 of arXiv 1409.4842
_MIN_SQUARED_NORM = 1e-24  # square of 1e-12, the least norm that torch's normalize divides by


class ConvUnit(nn.Module):
    """conv - batch norm - ReLU; keys ``conv.*`` and ``bn.*``."""

    def __init__(self, channels: int, layer: Conv) -> None:
        super().__init__()
        # At stride 1 TensorFlow's SAME pads an odd kernel equally on both sides, as Conv2d can.
        self._needs_padding = layer.padding == TF_SAME and layer.stride > 1
        self._layer = layer
        has_zeros = layer.padding != VALID and not self._needs_padding
        self.conv = nn.Conv2d(
            channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            _half(layer.kernel) if has_zeros else 0,
            bias=layer.has_bias,
        )
        if layer.norm_eps is not None:
            self.bn = nn.BatchNorm2d(layer.out_channels, eps=layer.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(_pad_tf_same(x, self._layer) if self._needs_padding else x)
        if hasattr(self, "bn"):
            x = self.bn(x)
        return nn.functional.relu(x)


def _half(kernel: tuple[int, int]) -> tuple[int, int]:
    """Padding that keeps the map's size at stride 1 and an odd kernel."""
    return kernel[0] // 2, kernel[1] // 2


def _pad_tf_same(x: Tensor, layer: Conv | SeparableConv) -> Tensor:
    """``x`` [N, C, H, W] with the zeros that TensorFlow's SAME adds for a strided convolution."""
    pads: list[int] = []
    for size, kernel in zip(reversed(x.shape[2:]), reversed(layer.kernel), strict=True):
        total = max((-(-size // layer.stride) - 1) * layer.stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return nn.functional.pad(x, pads)


class SeparableUnit(nn.Module):
    """Depthwise - pointwise with bias - ReLU, as ``separable_conv2d`` in TF-slim's Inception-v2."""

    def __init__(self, channels: int, layer: SeparableConv) -> None:
        super().__init__()
        self._layer, self.out_channels = layer, layer.out_channels
        inner_channels = channels * layer.multiplier
        self.depthwise = nn.Conv2d(
            channels,
            inner_channels,
            layer.kernel,
            layer.stride,
            0 if layer.padding == TF_SAME else _half(layer.kernel),
            groups=channels,
            bias=False,
        )
        self.pointwise = nn.Conv2d(inner_channels, layer.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = _pad_tf_same(x, self._layer) if self._layer.padding == TF_SAME else x
        return nn.functional.relu(self.pointwise(self.depthwise(x)))


class NormUnit(nn.BatchNorm2d):
    """Batch norm - ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(super().forward(x))


class Branches(nn.Module):
    """Parallel branches of named units, concatenated over channels; see ``Concat``."""

    def __init__(self, channels: int, layer: Concat) -> None:
        super().__init__()
        self._routes = layer.routes
        out_channels: dict[tuple[str, ...], int] = {(): channels}
        for route in layer.routes:
            for depth, name in enumerate(route, start=1):
                if route[:depth] not in out_channels:
                    module, count = _unit(out_channels[route[: depth - 1]], layer.units[name])
                    self.add_module(name, module)
                    out_channels[route[:depth]] = count
        self.out_channels = sum(out_channels[route] for route in layer.routes)

    def forward(self, x: Tensor) -> Tensor:
        outputs: dict[tuple[str, ...], Tensor] = {(): x}
        for route in self._routes:
            for depth, name in enumerate(route, start=1):
                if route[:depth] not in outputs:
                    outputs[route[:depth]] = self.get_submodule(name)(outputs[route[: depth - 1]])
        return torch.cat([outputs[route] for route in self._routes], dim=1)


class ResidualUnit(Branches):
    """x + scale * conv2d(branches(x)), then ReLU; keys are the branches' and ``conv2d.*``."""

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
        width = layer.width
        out = self.out_channels = layer.out_channels
        self.conv1 = nn.Conv2d(channels, width, 1, layer.strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=RESNET_NORM_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, layer.strides[1], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps=RESNET_NORM_EPS)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, eps=RESNET_NORM_EPS)
        self.downsample: nn.Module = nn.Identity()
        if layer.has_projection:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, layer.stride, bias=False),
                nn.BatchNorm2d(out, eps=RESNET_NORM_EPS),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.relu(self.bn1(self.conv1(x)))
        out = nn.functional.relu(self.bn2(self.conv2(out)))
        return nn.functional.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class AuxiliaryClassifier(nn.Module):
    """A classifier on an inner feature map, [N, C, H, W] -> [N, num_classes]; for training."""

    def __init__(self, channels: int, head: AuxiliaryHead) -> None:
        super().__init__()
        self._names, self._hidden = tuple(head.convs), head.hidden
        for name, layer in head.convs.items():
            module, channels = _unit(channels, layer)
            self.add_module(name, module)
        if head.hidden:
            self.fc1 = nn.Linear(channels * _AUX_POOL_SIZE**2, head.hidden)
            self.fc2 = nn.Linear(head.hidden, head.num_classes)
        else:
            self.fc = nn.Linear(channels, head.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        functional = nn.functional
        if self._hidden:
            x = functional.adaptive_avg_pool2d(x, (_AUX_POOL_SIZE, _AUX_POOL_SIZE))
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
        self._layer_paths = tuple(architecture.layers)
        self._is_input_transformed = architecture.is_input_transformed
        self._auxiliary_names = {head.input_layer: head.name for head in architecture.auxiliary}
        channels = RGB_CHANNELS
        for path, layer in architecture.layers.items():
            module, channels = _layer(channels, layer)
            _add_submodule(self, path, module)
            for head in architecture.auxiliary:
                if head.input_layer == path:
                    self.add_module(head.name, AuxiliaryClassifier(channels, head))
        self.auxiliary_weights = tuple(head.weight for head in architecture.auxiliary)
        self.is_embedding = False
        self._head = architecture.head
        self._add_head(channels, architecture.head)

    def _add_head(self, channels: int, head: Head) -> None:
        self.dropout = nn.Dropout(head.dropout)
        if isinstance(head, ClassifierHead):
            classifier: nn.Module = nn.Linear(channels, head.num_classes)
            if head.hidden:
                classifier = nn.Sequential(
                    nn.Linear(channels, head.hidden),
                    nn.ReLU(),
                    nn.Dropout(head.dropout),
                    nn.Linear(head.hidden, head.num_classes),
                )
            self.add_module(head.name, classifier)
            self.num_outputs = head.num_classes
            return
        self.last_linear = nn.Linear(channels, head.size, bias=False)
        self.last_bn = nn.BatchNorm1d(head.size, eps=1e-3)
        self.is_embedding = head.num_classes is None
        self.num_outputs = head.num_classes or head.size
        if head.num_classes:
            self.logits = nn.Linear(head.size, head.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map [N, C, h, w] of images [N, 3, H, W]."""
        return self._forward_layers(x)[0]

    def forward(self, x: Tensor) -> Any:
        x, auxiliary = self._forward_layers(x)
        output = self._forward_head(self.dropout(x.mean(dim=(2, 3))))
        return (output, *auxiliary) if auxiliary else output

    def _forward_layers(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and in training mode the logits of the auxiliary heads."""
        auxiliary: list[Tensor] = []
        if self._is_input_transformed:
            x = _transform_input(x)
        for path in self._layer_paths:
            x = self.get_submodule(path)(x)
            if self.training and path in self._auxiliary_names:
                auxiliary.append(self.get_submodule(self._auxiliary_names[path])(x))
        return x, auxiliary

    def _forward_head(self, pooled: Tensor) -> Tensor:
        if isinstance(self._head, ClassifierHead):
            logits: Tensor = self.get_submodule(self._head.name)(pooled)
            return logits
        embedding: Tensor = self.last_bn(self.last_linear(pooled))
        return _normalize(embedding) if self.is_embedding else self.logits(embedding)


def _normalize(vectors: Tensor) -> Tensor:
    """``vectors`` [N, D] with rows of length 1, by operators that are the same in every opset."""
    squared_norms = (vectors * vectors).sum(dim=1, keepdim=True)
    return vectors / (squared_norms + _MIN_SQUARED_NORM).sqrt()


def _transform_input(x: Tensor) -> Tensor:
    """Pixels in -1..1 from pixels ``x`` normalised with ImageNet's mean and std, [N, 3, H, W]."""
    factors = [std / 0.5 for std in IMAGENET_STD]
    shifts = [(mean - 0.5) / 0.5 for mean in IMAGENET_MEAN]
    return x * x.new_tensor(factors).view(1, 3, 1, 1) + x.new_tensor(shifts).view(1, 3, 1, 1)


def _add_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:  # noqa: SLF001 -- of our own tree
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def _layer(channels: int, layer: Layer) -> tuple[nn.Module, int]:
    """The module of one layer, and its number of output channels."""
    if isinstance(layer, BatchNorm):
        return NormUnit(channels, eps=layer.eps), channels
    if isinstance(layer, LocalResponseNorm):
        return LocalNorm(layer), channels
    if not isinstance(layer, Concat | Residual | Bottleneck | PlainConv | SeparableConv):
        return _unit(channels, layer)
    builders: dict[type, Callable[[int, Any], Any]] = {
        Concat: Branches,
        Residual: ResidualUnit,
        Bottleneck: BottleneckUnit,
        PlainConv: _plain_conv,
        SeparableConv: SeparableUnit,
    }
    module = builders[type(layer)](channels, layer)
    return module, module.out_channels


def _plain_conv(channels: int, layer: PlainConv) -> nn.Conv2d:
    kernel, padding = layer.kernel, _half(layer.kernel)
    return nn.Conv2d(channels, layer.out_channels, kernel, layer.stride, padding, bias=False)


def _unit(channels: int, unit: Unit) -> tuple[nn.Module, int]:
    """The module of one unit, and its number of output channels."""
    if isinstance(unit, tuple):
        chain: list[nn.Module] = []
        for part in unit:
            module, channels = _unit(channels, part)
            chain.append(module)
        return nn.Sequential(*chain), channels
    if isinstance(unit, Conv):
        return ConvUnit(channels, unit), unit.out_channels
    if isinstance(unit, MaxPool):
        pool = nn.MaxPool2d(unit.kernel, unit.stride, unit.padding, ceil_mode=unit.ceil_mode)
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
        size, alpha, beta = self._layer.size, self._layer.alpha, self._layer.beta
        if torch.onnx.is_in_onnx_export():
            # PyTorch would export ten nodes that no engine recognises; ONNX has the operator LRN.
            attributes: dict[str, Any] = {"alpha": alpha, "beta": beta, "bias": 1.0, "size": size}
            return torch.onnx.ops.symbolic(
                "LRN", (x,), attributes, dtype=x.dtype, shape=x.shape, version=13
            )
        return nn.functional.local_response_norm(x, size, alpha, beta)
