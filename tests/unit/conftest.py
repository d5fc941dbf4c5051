"""A small Inception that loads and exports in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_inception import registry
from edge_inception.cli import main
from edge_inception.errors import InputError
from edge_inception.models._builder import builder
from edge_inception.models._layers import (
    VALID,
    Architecture,
    AvgPool,
    ClassifierHead,
    Concat,
    ConvFactory,
    MaxPool,
    branches,
    sequential,
)
from edge_inception.spec import CheckpointFamily, ModelSpec, Preprocess, Variant

if TYPE_CHECKING:
    from torch import nn

TINY_CLASSES = 5


def _describe_tiny(*, num_classes: int, width: float = 1.0, dropout: float = 0.2) -> Architecture:
    conv = ConvFactory(width=width).conv
    fork = {
        "branch0": conv("1x1", 8),
        "branch1_0": conv("1x1", 8),
        "branch1_1a": conv("1x3", 8),
        "branch1_1b": conv("3x1", 8),
        "branch2": (AvgPool(), conv("1x1", 8)),
    }
    routes = (
        ("branch0",),
        ("branch1_0", "branch1_1a"),
        ("branch1_0", "branch1_1b"),
        ("branch2",),
    )
    layers = (
        conv("3x3", 8, 2, VALID),
        branches(maxpool=MaxPool(), conv=conv("3x3", 8, 2, VALID)),
        branches(
            branch0=conv("1x1", 8),
            branch1=(conv("1x1", 8), conv("1x5", 8), conv("5x1", 8)),
            branch2=(AvgPool(), conv("1x1", 8)),
        ),
        Concat(fork, routes),
    )
    head = ClassifierHead(name="last_linear", num_classes=num_classes, dropout=dropout)
    return Architecture(layers=sequential("features", layers), head=head)


TINY = ModelSpec(
    name="tiny_inception",
    title="Three blocks for tests",
    paper="none",
    describe=_describe_tiny,
    build=builder(_describe_tiny),
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


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[str, str]]:
    """``refusal("export", ...)`` in an empty folder: error line and hint of an InputError.

    The command line shows the class by its exit code alone, which no other class has. Nothing is on
    stdout and no file is written.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[str, str]:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main.run(list(arguments)) == InputError.exit_code == 3
        said = capsys.readouterr()
        assert said.out == ""
        *_, error, hint = said.err.splitlines()
        assert [line for line in said.err.splitlines() if line.startswith("error: ")] == [error]
        assert hint.startswith("hint: ")
        assert sorted(tmp_path.rglob("*")) == before
        return error.removeprefix("error: "), hint.removeprefix("hint: ")

    return run


@pytest.fixture(scope="session")
def tells(lacking) -> Callable[[tuple[str, str], str, str], None]:
    """``tells((line, hint), words, words)``: both have all of their words, see ``lacking``."""

    def check(said: tuple[str, str], line: str, hint: str) -> None:
        assert lacking(said[0], line) == []
        assert lacking(said[1], hint) == []

    return check
