"""Commands that run one stage each; ``build`` runs them all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_inception.cli._options import (
    PATH,
    VERDICT_CODES,
    batch_options,
    gate_options,
    graph_options,
    labels_option,
    open_terminal,
    out_option,
    precision_options,
    print_artifact,
    read_recipe,
    recipe_options,
    split_names,
    terminal_options,
    threads_option,
    validation_options,
)
from edge_inception.errors import InputError, member

if TYPE_CHECKING:
    from edge_inception.artifact import Baseline, Graph
    from edge_inception.cli._terminal import Terminal
    from edge_inception.data.imageset import ImageSet
    from edge_inception.quant.options import QuantizeOptions
    from edge_inception.recipe.reader import Recipe


@click.command()
@recipe_options
@graph_options
@labels_option
@batch_options
@out_option
@terminal_options
def export(*, out: Path, **flags: object) -> None:
    """Export a checkpoint, or with --onnx import a graph, to the ONNX graph of a build."""
    from edge_inception.export.export import export as run
    from edge_inception.pipeline import inputs

    with open_terminal(flags) as terminal:
        recipe = read_recipe(flags, terminal)
        if recipe.is_imported:
            print_artifact(terminal, _import(recipe, out)[1])
            return
        options = inputs.export_options(recipe, inputs.class_names(recipe))
        print_artifact(terminal, run(recipe.checkpoint, options, out))


@click.command()
@click.argument("graph", type=PATH)
@out_option
@terminal_options
def simplify(graph: Path, out: Path, **flags: object) -> None:
    """Simplify an exported graph with onnxsim and this project's passes."""
    from edge_inception import artifact
    from edge_inception.artifact import Graph
    from edge_inception.graph.options import SimplifyOptions
    from edge_inception.graph.simplify import simplify as run

    with open_terminal(flags) as terminal:
        print_artifact(terminal, run(artifact.load(Graph, graph), SimplifyOptions(), out))


@click.command()
@recipe_options
@validation_options
@threads_option
@out_option
@terminal_options
def baseline(*, out: Path, **flags: object) -> None:
    """Record the FP32 logits of the validation images: PyTorch's, or with --onnx onnxruntime's."""
    from edge_inception.baseline.pytorch import record_baseline
    from edge_inception.pipeline import inputs

    with open_terminal(flags) as terminal:
        recipe = read_recipe(flags, terminal)
        images = inputs.open_image_set(recipe.validation, "validation", recipe, terminal)
        inputs.require_threads(recipe.threads)
        if recipe.is_imported:
            print_artifact(terminal, _onnx_baseline(recipe, images, out, terminal))
            return
        options = inputs.baseline_options(recipe)
        with terminal.working("baseline") as progress:
            recorded = record_baseline(recipe.checkpoint, images, options, out, progress=progress)
        print_artifact(terminal, recorded)


def _import(recipe: Recipe, out: Path) -> tuple[Graph, Graph]:
    """The imported graph, beside ``out``, and the graph in ``out`` with preprocessing and head."""
    from edge_inception.export.interface import add_interface
    from edge_inception.graph.import_onnx import import_graph
    from edge_inception.pipeline import inputs

    options = inputs.import_options(recipe, inputs.class_names(recipe))
    plain = import_graph(recipe.checkpoint, options, out.with_suffix(".imported.onnx"))
    return plain, add_interface(plain, inputs.interface_options(recipe), out)


def _onnx_baseline(recipe: Recipe, images: ImageSet, out: Path, terminal: Terminal) -> Baseline:
    from edge_inception.baseline.onnx import record_baseline
    from edge_inception.pipeline import inputs

    plain, _ = _import(recipe, out.with_suffix(".onnx"))
    options = inputs.onnx_baseline_options(recipe)
    with terminal.working("baseline") as progress:
        return record_baseline(plain, images, options, out, progress=progress)


@click.command()
@click.argument("graph", type=PATH)
@click.option("--ranges", type=PATH, help="Range table that calibrate wrote; int8 needs it.")
@precision_options
@click.option(
    "--typing",
    default="strong",
    show_default=True,
    help="strong, cpu (uint8 with zero points), weak (for TensorRT 8) or implicit (for a DLA; int8 "
    "also gets a .cache).",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Fix a dynamic batch to this size, which a DLA needs.",
)
@click.option("--dla", is_flag=True, help="Rewrite and share scales as --typing implicit does.")
@click.option("--tensorrt", metavar="VERSION", help="TensorRT to read the .cache, such as 8.5.2.")
@out_option
@terminal_options
def quantize(
    graph: Path,
    ranges: Path | None,
    out: Path,
    *,
    precision: str | None,
    typing: str,
    float_rest: str | None,
    batch: int | None,
    dla: bool,
    placement: str | None,
    rounding: str | None,
    fold_zero_points: bool | None,
    keep_float: str | None,
    bias_correction: bool | None,
    tensorrt: str | None,
    **flags: object,
) -> None:
    """Write the typed graph of a precision: Q/DQ nodes for int8, casts for fp16."""
    from edge_inception import artifact
    from edge_inception.artifact import RangeTable, SimplifiedGraph
    from edge_inception.quant.insert_qdq import quantize as run
    from edge_inception.quant.options import FloatRest, QuantizeOptions, Rounding, Typing
    from edge_inception.spec import Precision

    with open_terminal(flags) as terminal:
        options = QuantizeOptions(
            precision=member(Precision, "precision", precision or "int8"),
            typing=member(Typing, "typing", typing),
            float_rest=member(FloatRest, "float rest", float_rest or "fp16"),
            batch=batch,
            is_for_dla=dla,
            placement=placement or "",
            rounding=member(Rounding, "rounding", rounding) if rounding else None,
            fold_zero_points=fold_zero_points,
            keep=tuple(split_names(keep_float)),
            bias_correction=bias_correction,
        )
        table = artifact.load(RangeTable, ranges) if ranges else None
        version = _cache_version(options, tensorrt)
        typed = run(artifact.load(SimplifiedGraph, graph), table, options, out)
        print_artifact(terminal, typed)
        if version and table:
            from edge_inception.quant.calibration_cache import write_cache
            from edge_inception.quant.options import CacheOptions

            path = out.with_suffix(".cache")
            cache = write_cache(typed, table, CacheOptions(tensorrt=version), path)
            print_artifact(terminal, cache)


def _cache_version(options: QuantizeOptions, version: str | None) -> str:
    """Version of the TensorRT that will read the calibration cache; empty without a cache."""
    is_cached = options.typing.value == "implicit" and options.precision.value == "int8"
    if is_cached and not version:
        raise InputError(
            "the calibration cache names the TensorRT that will read it, and none is given",
            hint="--tensorrt 8.5.2 for JetPack 5.1, 8.6.2 for 6.0, 10.3.0 for 6.1 and 6.2",
        )
    if version and not is_cached:
        raise InputError(
            f"--tensorrt {version} is for a calibration cache, which only implicit int8 has",
            hint="leave it out, or add --typing implicit --precision int8",
        )
    if version:
        from edge_inception.quant.calibration_cache import header

        header(version)
    return version or ""


@click.command()
@click.argument("engine", type=PATH)
@click.option("--baseline", "baseline_path", type=PATH, required=True, help="Recorded baseline.")
@recipe_options
@validation_options
@gate_options
@threads_option
@click.option("--cuda-graph/--no-cuda-graph", default=True, help="Run as a CUDA graph on a GPU.")
@out_option
@terminal_options
def validate(
    engine: Path, baseline_path: Path, out: Path, *, cuda_graph: bool, **flags: object
) -> int:
    """Compare an engine with the baseline, and judge it by the gates."""
    from edge_inception import artifact
    from edge_inception.artifact import Baseline, EngineFile
    from edge_inception.pipeline import inputs
    from edge_inception.report.terminal import print_report
    from edge_inception.validate import report_record
    from edge_inception.validate.run import validate as run

    with open_terminal(flags) as terminal:
        recipe = read_recipe(flags, terminal)
        if recipe.is_imported:
            raise InputError(
                "validate takes --model and --checkpoint, not --onnx",
                hint="build --onnx validates; report shows its report.json again",
            )
        images = inputs.open_image_set(recipe.validation, "validation", recipe, terminal)
        loaded = artifact.load(EngineFile, engine)
        inputs.require_threads(recipe.threads)
        options = inputs.validate_options(recipe, images, loaded, terminal)
        options = dataclasses.replace(options, cuda_graph=cuda_graph)
        recorded, entries = artifact.load(Baseline, baseline_path), [inputs.engine_entry(loaded)]
        with terminal.working("validate") as progress:
            written = run(recorded, entries, images, options, out, progress=progress)
        record = report_record.read(written.path)
        print_report(record)
        return VERDICT_CODES[record.status]
