"""The command that trains: a model from an image set, or with --qat a quantized graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import (
    PATH,
    given_flags,
    model_options,
    names,
    record_of,
    terminal_of,
    terminal_options,
)
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.cli._terminal import Terminal
    from edge_inception.data.imageset import ImageSet
    from edge_inception.sidecar import QatFigures

_SHARED = ("epochs", "batch", "learning_rate", "seed", "device", "threads")
_OF_A_MODEL = ("model", "option", "input_size", "crop_fraction", "interpolation", "start_size")
_OF_A_GRAPH = ("graph", "distillation", "placement", "keep_float", "keep_failed")
_OTHERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "--model": (_OF_A_GRAPH, "leave it out: it is for --qat"),
    "--qat": (_OF_A_MODEL, "leave it out: the graph has its own"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    """What ``train`` was called with; None and empty are flags that were not given."""

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
@click.option("--model", help="Architecture.")
@click.option("--option", multiple=True, metavar="KEY=VALUE", help="Model option: width=0.25.")
@click.option("--qat", type=PATH, metavar="RANGES", help="Fine-tune a graph in int8 instead.")
@click.option("--graph", type=PATH, help="With --qat: else model.simplified.onnx beside RANGES.")
@click.option("--data", type=PATH, required=True, help="Class folders, or a set file.")
@click.option("--data-split", default="", help="Split of a set file to train on.")
@click.option("--validation", type=PATH, required=True, help="Class folders, or a set file.")
@click.option("--validation-split", default="", help="Split of a set file for the metrics.")
@click.option("--input-size", "--imgsz", type=int, help="Side of the input in pixels.")
@click.option("--crop-fraction", type=float, help="Share of the image that validation sees.")
@click.option("--interpolation", help="nearest, bilinear, bicubic or lanczos.")
@click.option("--epochs", type=int, help="Passes over the training images: 60, with --qat 3.")
@click.option("--batch", type=int, help="Images per step: 32.")
@click.option(
    "--learning-rate", type=float, help="Peak of the cosine schedule: 0.002, with --qat 0.00005."
)
@click.option("--start-size", type=int, help="Side of the first epoch's images: 160; grows.")
@click.option("--distillation", type=float, help="With --qat: pull to the float logits, 0..1: 1.")
@click.option("--placement", metavar="NAME", help="With --qat: what quantize will be given.")
@click.option("--keep-float", metavar="GROUP[,GROUP]", help="With --qat: likewise.")
@click.option("--keep-failed", is_flag=True, help="With --qat: write it even if int8 got worse.")
@click.option("--seed", type=int, help="Of every random choice.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to train.")
@click.option("--threads", type=int, help="CPU threads; 0 = all usable.")
@click.option("--out", type=PATH, required=True, help="Folder; an unfinished run is resumed.")
@terminal_options
def train(**given: object) -> None:
    """Train a model on an image folder or set: a checkpoint and its metrics.

    With --qat RANGES a simplified graph learns to live with the int8 scales of its range table: the
    last resort where calibration, placement and layers in float do not suffice. It writes the same
    graph with other weights and its range table, for quantize --no-bias-correction, and says in
    qat.json what was gained; int8 that got worse exits 6 and writes no graph.
    """
    from edge_inception.data import imageset

    flags = record_of(_Flags, given)
    _require_fit(flags)
    with terminal_of(given) as terminal:
        train_set = imageset.open_set(flags.data, split=flags.data_split)
        monitor = imageset.open_set(flags.validation, split=flags.validation_split)
        if flags.qat:
            _fine_tune((train_set, monitor), flags.qat, flags, terminal)
        elif flags.model:
            _train((train_set, monitor), flags.model, flags, terminal)


def _require_fit(flags: _Flags) -> None:
    """Refuse flags of the other kind of training.

    Raises:
        InputError: One is given, or neither a model nor ranges are.
    """
    if not flags.qat and not flags.model:
        raise InputError("nothing to train", hint="--model NAME, or --qat RANGES")
    kind = "--qat" if flags.qat else "--model"
    others, why = _OTHERS[kind]
    if given := given_flags(others, flags):
        raise InputError(f"{', '.join(given)} with {kind}", hint=why)


def _train(sets: tuple[ImageSet, ImageSet], model: str, flags: _Flags, terminal: Terminal) -> None:
    from msgspec import structs

    from edge_inception import registry, stage
    from edge_inception.training.options import TrainOptions
    from edge_inception.training.train import train as run

    spec = registry.model(model)
    changes = _given(("crop_fraction", "interpolation"), flags)
    if flags.input_size:
        changes |= {"input_size": (flags.input_size, flags.input_size)}
    options = TrainOptions(
        model=spec.name,
        num_classes=len(sets[0].classes),
        preprocess=structs.replace(spec.preprocess, **changes),
        model_options=model_options(flags.option),
        **_given((*_SHARED, "start_size"), flags),
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
        keep=tuple(names(flags.keep_float)),
        is_kept_when_worse=flags.keep_failed,
        **_given((*_SHARED, "distillation", "placement"), flags),
    )
    table = artifact.load(RangeTable, ranges)
    with stage.lock(flags.out), terminal.working("qat") as progress:
        trained, bound = fine_tune(graph, table, sets, options, flags.out, progress=progress)
    gained = trained.details.qat
    assert gained is not None
    for when in ("float32", "before", "after"):
        terminal.note(f"{when}: {_told(getattr(gained, when))}")
    click.echo(f"{trained.path}\n{bound.path}")


def _given(names_of: tuple[str, ...], flags: _Flags) -> dict[str, Any]:
    values = {name: getattr(flags, name) for name in names_of}
    return {name: value for name, value in values.items() if value is not None}


def _told(figures: QatFigures) -> str:
    """``top-1 83.2 %, 31.0 dB``; the float graph has no SQNR."""
    sqnr = "" if figures.sqnr_db is None else f", {figures.sqnr_db:.1f} dB"
    return f"top-1 {100 * figures.accuracy:.2f} %{sqnr}"


COMMANDS = (train,)
