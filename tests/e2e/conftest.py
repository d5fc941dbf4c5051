"""A three-block Inception-v4 with realistic batch-norm statistics, and photos it can tell apart."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from loopback import deploy, sshd
from PIL import Image

from edge_inception.cli import main

__all__ = ["deploy", "sshd"]  # fixtures of a device on loopback

SIDE = 107  # the smallest input whose last feature map is not a single pixel
CLASSES = ("bright", "dark")
TINY = {"width": 0.03, "blocks_a": 1, "blocks_b": 1, "blocks_c": 1}


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What a user has: a checkpoint, photos, labelled photos, and a recipe that names them."""

    folder: Path
    checkpoint: Path
    calibration: Path
    validation: Path
    recipe: Path


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    folder = tmp_path_factory.mktemp("a workshop")  # the space is on purpose
    made = Workshop(
        folder=folder,
        checkpoint=folder / "tiny.safetensors",
        calibration=folder / "photos",
        validation=folder / "labelled",
        recipe=folder / "recipe.toml",
    )
    rng = np.random.default_rng(0)
    for name in CLASSES:
        _write_photos(made.validation / name, rng, 20, is_dark=name == "dark")
    _write_photos(made.calibration, rng, 12, is_dark=False)
    _write_photos(made.calibration, rng, 12, is_dark=True)
    _write_checkpoint(made)
    made.recipe.write_text(_RECIPE, encoding="utf-8")
    return made


_RECIPE = f"""\
schema = 1
[model]
name = "inception_v4"
checkpoint = "tiny.safetensors"
options = {{ width = 0.03, blocks_a = 1, blocks_b = 1, blocks_c = 1 }}
[preprocess]
input_size = {SIDE}
crop_fraction = 1.0
interpolation = "bilinear"
[data]
calibration = "photos"
validation = "labelled"
[build]
precision = "int8"
targets = ["cpu"]
threads = 1
[latency]
rounds = 3
calls_per_block = 5
[gates]
min_sqnr_db = 12.0
min_speedup = 0    # in so small a network INT8 may well be slower
"""


@pytest.fixture(scope="session")
def built(workshop, tmp_path_factory) -> Path:
    """The output folder of one undisturbed build; copy it to build on."""
    out = tmp_path_factory.mktemp("built")
    assert main.run(["build", "--recipe", str(workshop.recipe), "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(built, tmp_path) -> Path:
    """A copy of that folder, so that a test runs only the stages it is about."""
    return Path(shutil.copytree(built, tmp_path / "copied"))


def _write_photos(folder: Path, rng: np.random.Generator, count: int, *, is_dark: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        level = rng.uniform(20, 90) if is_dark else rng.uniform(160, 230)
        noise = rng.normal(level, 25, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{'dark' if is_dark else 'bright'} {index:03}.png")


def _write_checkpoint(made: Workshop) -> None:
    """Random weights, batch-norm statistics of these photos, a head that separates."""
    import torch
    from safetensors.torch import save_file

    from edge_inception import registry
    from edge_inception.data import images
    from edge_inception.data.imageset import open_set
    from edge_inception.spec import Preprocess

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = registry.model("inception_v4").build(num_classes=2, **TINY)
    how = Preprocess(input_size=(SIDE, SIDE))
    photos = open_set(made.validation)
    (batch,) = images.batches(photos.items, how, len(photos.items))
    pixels = torch.from_numpy(batch.images)
    labels = torch.tensor([item.label for item in photos.items])
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average: the statistics of these photos exactly
            # Activations around 1, spread 0.5: a Relu cuts 2 % and the network is well conditioned.
            # With random weights around 0 it is chaotic, and rounding to 8 bits decides its logits.
            torch.nn.init.constant_(module.weight, 0.5)
            torch.nn.init.constant_(module.bias, 1.0)
    with torch.no_grad():
        model.train()(pixels)
        features = model.eval().forward_features(pixels).mean(dim=(2, 3))
        direction = features[labels == 1].mean(0) - features[labels == 0].mean(0)
        middle = features.mean(0)
        model.last_linear.weight.copy_(torch.stack([-direction, direction]))
        model.last_linear.bias.copy_(torch.stack([direction @ middle, -direction @ middle]))
    save_file(model.state_dict(), made.checkpoint, metadata={"model": "inception_v4"})
