"""Records of ``_layers.py`` as torch modules; shared by every architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_inception.models._layers import Concat, Conv, Layer, MaxPool, Unit

BATCH_NORM_EPS = 1e-3  # TF-slim, Keras and timm agree on it for the Inception family
RGB_CHANNELS = 3


class ConvUnit(nn.Module):
    """conv (no bias) - batch norm - ReLU; keys ``conv.weight`` and ``bn.*``."""

    def __init__(self, channels: int, layer: Conv) -> None:
        super().__init__()
        rows, columns = layer.kernel
        padding = (rows // 2, columns // 2) if layer.is_same else (0, 0)
        self.conv = nn.Conv2d(channels, layer.out, layer.kernel, layer.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(layer.out, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = nn.functional.relu(self.bn(self.conv(x)))
        return out


class Branches(nn.Module):
    """Parallel routes through named units, concatenated over channels."""

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


class Classifier(nn.Module):
    """Feature layers - global average pool - dropout - linear; keys ``features``, ``last_linear``.

    Input float32 [N, 3, H, W], output logits [N, num_classes].
    """

    def __init__(self, layers: Sequence[Layer], *, num_classes: int, dropout: float) -> None:
        super().__init__()
        channels = RGB_CHANNELS
        modules: list[nn.Module] = []
        for layer in layers:
            module, channels = _layer(channels, layer)
            modules.append(module)
        self.features = nn.Sequential(*modules)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean(dim=(2, 3))
        logits: Tensor = self.last_linear(self.dropout(pooled))
        return logits


def _layer(channels: int, layer: Layer) -> tuple[nn.Module, int]:
    if isinstance(layer, Concat):
        block = Branches(channels, layer)
        return block, block.out_channels
    return _unit(channels, layer)


def _unit(channels: int, unit: Unit) -> tuple[nn.Module, int]:
    """Module of one unit and the channels that leave it."""
    if isinstance(unit, tuple):
        chain: list[nn.Module] = []
        for part in unit:
            module, channels = _unit(channels, part)
            chain.append(module)
        return nn.Sequential(*chain), channels
    if isinstance(unit, Conv):
        return ConvUnit(channels, unit), unit.out
    if isinstance(unit, MaxPool):
        return nn.MaxPool2d(unit.kernel, unit.stride), channels
    padding = unit.kernel // 2
    pool = nn.AvgPool2d(unit.kernel, 1, padding, count_include_pad=unit.count_include_pad)
    return pool, channels
