"""The command ``train``, which trains a model, or with --qat fine-tunes a graph in int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import (
    PATH,
    given_flags,
    input_size_option,
    interpolation_option,
    model_option,
    open_terminal,
    parse_model_options,
    read_flags,
    split_names,
    terminal_options,
)
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.cli._terminal import Terminal
    from edge_inception.data.imageset import ImageSet
    from edge_inception.sidecar import QatFigures

_SHARED_FLAGS = ("epochs", "batch", "learning_rate", "seed", "device", "threads")
_FLAGS_OF_MODEL = ("model", "option", "input_size", "crop_fraction", "interpolation", "start_size")
_FLAGS_OF_QAT = ("graph", "distillation", "placement", "keep_float", "keep_failed")
# Kind of training -> flags that it refuses, and the hint.
_REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "--model": (_FLAGS_OF_QAT, "leave it out: it is for --qat"),
    "--qat": (_FLAGS_OF_MODEL, "leave it out: the graph has its own"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    """Flags of ``train``; None and () are flags that were not given."""

    model: str | None
    option: tuple[str, ...]
    qat: Path | None
    graph: Path | None
    data: Path
    data_split: str
    validation: Path
    validation_split: str
    input_size: int | None
    crop_fraction: float | None
    interpolation: str | None
    epochs: int | None
    batch: int | None
    learning_rate: float | None
    start_size: int | None
    distillation: float | None
    placement: str | None
    keep_float: str | None
    keep_failed: bool
    seed: int | None
    device: str | None
    threads: int | None
    out: Path


@click.command()
@click.option("--model", help="Architecture to train.")
@model_option
@click.option("--qat", type=PATH, metavar="RANGES", help="Fine-tune the graph of RANGES in int8.")
@click.option("--graph", type=PATH, help="With --qat: graph; by default beside RANGES.")
@click.option("--data", type=PATH, required=True, help="Class folders or a set file.")
@click.option("--data-split", default="", help="Split of the set file of --data.")
@click.option("--validation", type=PATH, required=True, help="Images to measure accuracy on.")
@click.option("--validation-split", default="", help="Split of the set file of --validation.")
@input_size_option
@click.option("--crop-fraction", type=float, help="Share of a validation image that is kept.")
@interpolation_option
@click.option("--epochs", type=int, help="Passes over the images. Default: 60, with --qat 3.")
@click.option("--batch", type=int, help="Images per step. Default: 32.")
@click.option(
    "--learning-rate",
    type=float,
    help="Peak of the cosine schedule. Default: 0.002, with --qat 0.00005.",
)
@click.option("--start-size", type=int, help="Image size of epoch 1. Default: 160; it grows.")
@click.option(
    "--distillation",
    type=float,
    help="With --qat: share of the loss that compares logits with the float graph's. Default: 1.",
)
@click.option("--placement", metavar="NAME", help="With --qat: --placement of quantize.")
@click.option("--keep-float", metavar="GROUP[,GROUP]", help="With --qat: --keep-float of quantize.")
@click.option("--keep-failed", is_flag=True, help="With --qat: write a graph that got worse.")
@click.option("--seed", type=int, help="Seed of every random choice.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Device to train on.")
@click.option("--threads", type=int, help="CPU threads; by default, and for 0, PyTorch's own.")
@click.option("--out", type=PATH, required=True, help="Folder to write; an unfinished run resumes.")
@terminal_options
def train(**options: object) -> None:
    """Train a model, and write a checkpoint and its metrics.

    With --qat RANGES the weights of a simplified graph are fine-tuned for the int8 scales of its
    range table, as a last resort where calibration, placement and layers in float do not suffice.
    The command then writes the graph with its new weights and range table, to be quantized with
    --no-bias-correction, and the gain in qat.json. If int8 got worse it exits with 6 and writes no
    graph.
    """
    from edge_inception.data import imageset

    flags = read_flags(_Flags, options)
    _require_fitting_flags(flags)
    with open_terminal(options) as terminal:
        train_set = imageset.open_set(flags.data, split=flags.data_split)
        validation_set = imageset.open_set(flags.validation, split=flags.validation_split)
        sets = (train_set, validation_set)
        if flags.qat:
            _fine_tune(sets, flags.qat, flags, terminal)
        elif flags.model:
            _train(sets, flags.model, flags, terminal)


def _require_fitting_flags(flags: _Flags) -> None:
    """Refuse flags of the other kind of training, and a command line without --model or --qat."""
    if not flags.qat and not flags.model:
        raise InputError("nothing to train", hint="--model NAME, or --qat RANGES")
    kind = "--qat" if flags.qat else "--model"
    refused, hint = _REFUSED[kind]
    if given := given_flags(refused, flags):
        raise InputError(f"{', '.join(given)} with {kind}", hint=hint)


def _train(sets: tuple[ImageSet, ImageSet], model: str, flags: _Flags, terminal: Terminal) -> None:
    from msgspec import structs

    from edge_inception import registry, stage
    from edge_inception.training.options import TrainOptions
    from edge_inception.training.train import train as run

    spec = registry.model(model)
    changes = _given_values(("crop_fraction", "interpolation"), flags)
    if flags.input_size:
        changes |= {"input_size": (flags.input_size, flags.input_size)}
    options = TrainOptions(
        model=spec.name,
        num_classes=len(sets[0].classes),
        preprocess=structs.replace(spec.preprocess, **changes),
        model_options=parse_model_options(flags.option),
        **_given_values((*_SHARED_FLAGS, "start_size"), flags),
    )
    with stage.lock(flags.out), terminal.working("train") as progress:
        path = run(*sets, options, flags.out, progress=progress)
    click.echo(f"{path}")


def _fine_tune(
    sets: tuple[ImageSet, ImageSet], ranges: Path, flags: _Flags, terminal: Terminal
) -> None:
    from edge_inception import artifact, stage
    from edge_inception.artifact import RangeTable, SimplifiedGraph
    from edge_inception.training.qat import QatOptions, fine_tune

    simplified = flags.graph or ranges.with_name("model.simplified.onnx")
    graph = artifact.load(SimplifiedGraph, simplified)
    options = QatOptions(
        keep=tuple(split_names(flags.keep_float)),
        is_kept_when_worse=flags.keep_failed,
        **_given_values((*_SHARED_FLAGS, "distillation", "placement"), flags),
    )
    table = artifact.load(RangeTable, ranges)
    with stage.lock(flags.out), terminal.working("qat") as progress:
        trained, new_ranges = fine_tune(graph, table, sets, options, flags.out, progress=progress)
    gain = trained.details.qat
    assert gain is not None
    for graph_name in ("float32", "before", "after"):
        terminal.note(f"{graph_name}: {_accuracy(getattr(gain, graph_name))}")
    click.echo(f"{trained.path}\n{new_ranges.path}")


def _given_values(names: tuple[str, ...], flags: _Flags) -> dict[str, Any]:
    values = {name: getattr(flags, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _accuracy(figures: QatFigures) -> str:
    """Figures as text, such as ``top-1 83.20 %, 31.0 dB``; the float graph has no SQNR."""
    sqnr = "" if figures.sqnr_db is None else f", {figures.sqnr_db:.1f} dB"
    return f"top-1 {100 * figures.accuracy:.2f} %{sqnr}"
