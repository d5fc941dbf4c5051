"""The command that makes a bundle of a finished build."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli_options import (
    PATH,
    recipe_of,
    recipe_options,
    terminal_of,
    terminal_options,
    validation_options,
)
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.artifact import EngineFile, TypedGraph
    from edge_inception.bundle import BundleOptions, BundleResult, Material
    from edge_inception.imageset import ImageSet


@click.command()
@click.option("--from", "folder", type=PATH, help="Folder of a finished build; else the recipe's.")
@click.option("--target", required=True, help="Named hardware: `edge-inception targets`.")
@click.option("--out", type=PATH, default="bundles", show_default=True, help="Where bundles lie.")
@click.option("--name", default="", help="Name of the bundle; else the model's.")
@click.option("--golden", default=8, show_default=True, help="Photos whose answers prove it.")
@click.option("--baseline-images", default=1000, show_default=True, help="Baseline rows, at most.")
@click.option("--sign", type=PATH, help="Ed25519 private key (PEM) to sign the manifest with.")
@click.option("--workspace", type=int, help="TensorRT's workspace limit in MiB.")
@click.option("--builder-optimization-level", type=click.IntRange(0, 5), help="TensorRT's.")
@click.option("--keep-failed", is_flag=True, help="Bundle a build that missed a gate.")
@click.option("--force", is_flag=True, help="Replace another bundle of that name.")
@recipe_options
@validation_options
@terminal_options
def bundle(**flags: Any) -> None:
    """Make the folder that builds and proves an engine on a device, and its archive."""
    from edge_inception import bundle as bundles
    from edge_inception import ingredients

    with terminal_of(flags) as terminal:
        recipe = recipe_of({**flags, "out": None, "target": None}, terminal)
        options = _options(flags)
        photos = ingredients.open_source(recipe.validation, "validation", recipe, terminal)
        material = _material(flags["folder"] or recipe.out, options, photos)
        made = bundles.make_bundle(material, options, flags["out"])
        terminal.note(_told(made))
        click.echo(f"{made.folder}\n{made.archive}")


def _options(flags: Mapping[str, Any]) -> BundleOptions:
    from edge_inception.bundle import BundleOptions

    for name in ("golden", "baseline_images"):
        if flags[name] < 1:
            raise InputError(
                f"--{name.replace('_', '-')} is {flags[name]}", hint="wanted at least 1"
            )
    return BundleOptions(
        target=flags["target"],
        name=flags["name"],
        num_golden=flags["golden"],
        num_baseline=flags["baseline_images"],
        workspace_mib=flags["workspace"],
        builder_optimization_level=flags["builder_optimization_level"],
        key=flags["sign"],
        keep_failed=flags["keep_failed"],
        force=flags["force"],
    )


def _told(made: BundleResult) -> str:
    what = "made" if made.is_new else "unchanged"
    return f"{what}: version {made.version}, {made.num_golden} golden images"


def _material(folder: Path, options: BundleOptions, photos: ImageSet) -> Material:
    """What the build in ``folder`` left; a spelling that it did not write is written there.

    Raises:
        InputError: There is no finished build, or no engine of it was executed here.
    """
    from edge_inception import artifact, targets
    from edge_inception.artifact import Baseline, Report
    from edge_inception.bundle import Material, needed_typings

    target = targets.target(options.target)
    report = artifact.load(Report, folder / "report.json")
    engine = _judged_engine(folder, report.path)
    precision = str(engine.details["precision"])
    typings = needed_typings(target, is_implicit=False)
    return Material(
        graphs=tuple(_graph(folder, precision, typing) for typing in typings),
        engine=engine,
        baseline=artifact.load(Baseline, folder / "baseline.npz"),
        report=report,
        images=photos,
    )


def _judged_engine(folder: Path, report: Path) -> EngineFile:
    """The engine that the report judged; it must be OpenVINO's, which runs anywhere.

    Raises:
        InputError: Another library's, so that no answers can be recorded here.
    """
    from edge_inception import artifact
    from edge_inception.artifact import EngineFile

    record = json.loads(report.read_text(encoding="utf-8"))
    subject = next(row for row in record["rows"] if row["role"] == "subject")
    if subject["backend"] != "openvino":
        raise InputError(
            f"{report} judged an engine of {subject['backend']}, whose answers cannot be recorded "
            "on a CPU",
            hint="build with --target cpu: bundles for any target are made from that",
        )
    return artifact.load(EngineFile, folder / record["context"]["engines"][subject["name"]]["file"])


def _graph(folder: Path, precision: str, typing: str) -> TypedGraph:
    """The typed graph of that spelling: the build's own, or quantized from the same ranges."""
    from edge_inception import artifact, stage
    from edge_inception.artifact import RangeTable, SimplifiedGraph, TypedGraph
    from edge_inception.quant.options import (
        FloatRest,
        QuantizeOptions,
        Spelling,
        quantize_provenance,
    )
    from edge_inception.spec import Precision

    strong = artifact.load(TypedGraph, folder / f"model.{precision}.onnx")
    if typing == "strong":
        return strong
    path = folder / f"model.{precision}.{typing}.onnx"
    options = QuantizeOptions(
        precision=Precision(precision),
        spelling=Spelling(typing),
        float_rest=FloatRest(str(strong.details["float_rest"])),
    )
    graph = artifact.load(SimplifiedGraph, folder / "model.simplified.onnx")
    is_int8 = precision == "int8"
    ranges = artifact.load(RangeTable, folder / "model.ranges.json") if is_int8 else None
    expected = quantize_provenance(graph, ranges, options)
    found, _ = stage.reusable(TypedGraph, path, expected)
    if found is not None:
        return found
    from edge_inception.quant.insert import quantize

    return quantize(graph, ranges, options, path)


COMMANDS = (bundle,)
