"""What makes a PyTorch module of an architecture's table; imports torch when called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_inception.models._layers import Architecture

if TYPE_CHECKING:
    from torch import nn


def builder(describe: Callable[..., Architecture]) -> Callable[..., nn.Module]:
    """The function that makes a module of what ``describe`` returns; imports torch when called."""

    def build(**options: Any) -> nn.Module:
        from edge_inception.models._blocks import Network

        return Network(describe(**options))

    return build
