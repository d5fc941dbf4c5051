"""Builder and default options of an architecture, from the function that describes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_inception.models._layers import Architecture

if TYPE_CHECKING:
    from torch import nn

    from edge_inception.spec import Options


def builder(describe: Callable[..., Architecture]) -> Callable[..., nn.Module]:
    """A function that makes the torch module of the architecture that ``describe`` returns.

    The function takes the options of ``describe``, and imports torch only when it is called.
    """

    def build(**options: Any) -> nn.Module:
        from edge_inception.models._blocks import Network

        return Network(describe(**options))

    return build


def default_options(describe: Callable[..., Architecture]) -> Options:
    """Name -> default of every option of ``describe``, which is every keyword but num_classes."""
    parameters = inspect.signature(describe).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
