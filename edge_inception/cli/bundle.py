"""The command ``bundle``, which packs a finished build for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_inception.cli._options import (
    PATH,
    device_options,
    open_terminal,
    read_recipe,
    recipe_options,
    terminal_options,
    validation_options,
)
from edge_inception.errors import InputError


@click.command()
@click.option("--from", "folder", type=PATH, help="Folder of a build; by default the recipe's.")
@click.option("--target", required=True, help="Target; `edge-inception targets` lists all.")
@click.option("--out", type=PATH, default="bundles", show_default=True, help="Folder of bundles.")
@click.option("--name", default="", help="Name of the bundle; by default the model's.")
@click.option(
    "--golden",
    default=8,
    show_default=True,
    help="Number of images that verify the engine on the device.",
)
@click.option(
    "--baseline-images",
    default=1000,
    show_default=True,
    help="Largest number of images whose baseline outputs are in the bundle.",
)
@click.option("--sign", type=PATH, help="Ed25519 private key (PEM) to sign the manifest with.")
@click.option("--workspace", type=int, help="Limit of TensorRT's workspace in MiB.")
@click.option(
    "--builder-optimization-level",
    type=click.IntRange(0, 5),
    help="TensorRT: a higher level compiles longer, and the engine may run faster.",
)
@click.option("--keep-failed", is_flag=True, help="Bundle a build that missed a gate.")
@click.option("--force", is_flag=True, help="Replace another bundle of the same name.")
@device_options
@recipe_options
@validation_options
@terminal_options
def bundle(
    *,
    folder: Path | None,
    target: str,
    out: Path,
    name: str,
    golden: int,
    baseline_images: int,
    sign: Path | None,
    workspace: int | None,
    builder_optimization_level: int | None,
    keep_failed: bool,
    force: bool,
    **flags: Any,
) -> None:
    """Make a bundle, from which a device builds and checks its engine: a folder and an archive."""
    from edge_inception.bundle import make as bundles
    from edge_inception.pipeline import devices, inputs, outputs

    with open_terminal(flags) as terminal:
        recipe = read_recipe({**flags, "target": (target,)}, terminal)
        device = devices.device_for(recipe, target)
        options = bundles.BundleOptions(
            target=device.target.name,
            tensorrt=device.tensorrt_range,
            dla_core=device.dla_core,
            name=name,
            num_golden=_at_least_one("golden", golden),
            num_baseline=_at_least_one("baseline-images", baseline_images),
            workspace_mib=workspace,
            builder_optimization_level=builder_optimization_level,
            key=sign,
            keep_failed=keep_failed,
            force=force,
        )
        images = inputs.open_image_set(recipe.validation, "validation", recipe, terminal)
        artifacts = outputs.artifacts_for_bundle(folder or recipe.out, device, images)
        result = bundles.make_bundle(artifacts, options, out)
        state = "made" if result.is_new else "unchanged"
        terminal.note(f"{state}: version {result.version}, {result.num_golden} golden images")
        click.echo(f"{result.folder}\n{result.archive}")


def _at_least_one(flag: str, value: int) -> int:
    if value < 1:
        raise InputError(f"--{flag} is {value}", hint="wanted at least 1")
    return value
