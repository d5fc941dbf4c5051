"""A small Inception that loads and exports in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_inception import registry
from edge_inception.models._layers import AvgPool, Concat, Conv, MaxPool, branches
from edge_inception.spec import CheckpointFamily, ModelSpec, Preprocess, Variant

if TYPE_CHECKING:
    from torch import nn

TINY_CLASSES = 5


def _tiny_layers(width: float):
    out = round(8 * width)
    square, row, column = (3, 3), (1, 5), (5, 1)
    fork = {
        "branch0": Conv(out, (1, 1)),
        "branch1_0": Conv(out, (1, 1)),
        "branch1_1a": Conv(out, (1, 3)),
        "branch1_1b": Conv(out, (3, 1)),
        "branch2": (AvgPool(), Conv(out, (1, 1))),
    }
    routes = (
        ("branch0",),
        ("branch1_0", "branch1_1a"),
        ("branch1_0", "branch1_1b"),
        ("branch2",),
    )
    return (
        Conv(out, square, 2, is_same=False),
        branches(maxpool=MaxPool(), conv=Conv(out, square, 2, is_same=False)),
        branches(
            branch0=Conv(out, (1, 1)),
            branch1=(Conv(out, (1, 1)), Conv(out, row), Conv(out, column)),
            branch2=(AvgPool(), Conv(out, (1, 1))),
        ),
        Concat(fork, routes),
    )


def _build_tiny(*, num_classes: int, width: float = 1.0, dropout: float = 0.2) -> nn.Module:
    from edge_inception.models._blocks import Classifier

    return Classifier(_tiny_layers(width), num_classes=num_classes, dropout=dropout)


TINY = ModelSpec(
    name="tiny_inception",
    title="Three blocks for tests",
    paper="none",
    build=_build_tiny,
    families=(CheckpointFamily(name="timm", preprocess=Preprocess(input_size=(32, 40))),),
    variants=(Variant(name="tests", num_parameters=0, gmacs=0.0, input_size=(32, 40)),),
    num_classes=TINY_CLASSES,
    options={"width": 1.0, "dropout": 0.2},
)


@pytest.fixture(scope="session")
def tiny_model() -> Iterator[ModelSpec]:
    """``tiny_inception`` in the registry: 12 Conv, 3 Concat, 2 AveragePool, 1 MaxPool."""
    real = registry.models
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "models", lambda: {**real(), TINY.name: TINY})
        yield TINY


@pytest.fixture(scope="session")
def randomise():
    """Weights that keep the image's signal: He-normal kernels, norm statistics of real activations.

    Default weights give logits near 1e-7, where every tolerance passes.
    """
    import torch

    def settle(model: nn.Module, size: tuple[int, int], *, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, generator=generator)
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                torch.nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
                module.momentum = None  # the running statistics become those of the next batch
        with torch.no_grad():
            model.train()(torch.randn(4, 3, *size, generator=generator))
        return model.eval()

    return settle


@pytest.fixture(scope="session")
def tiny_weights(tiny_model, randomise) -> nn.Module:
    """The tiny model with random weights, in eval mode; do not change it."""
    return randomise(tiny_model.build(num_classes=TINY_CLASSES), tiny_model.preprocess.input_size)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_weights, tmp_path_factory) -> Path:
    """safetensors of ``tiny_weights``."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file(tiny_weights.state_dict(), path)
    return path
