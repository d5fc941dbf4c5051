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
@click.option(
    "--option", multiple=True, metavar="KEY=VALUE", help="Model option, such as width=0.25."
)
@click.option("--qat", type=PATH, metavar="RANGES", help="Fine-tune a graph in int8 instead.")
@click.option("--graph", type=PATH, help="With --qat: graph; by default beside RANGES.")
@click.option("--data", type=PATH, required=True, help="Training images.")
@click.option("--data-split", default="", help="Split of the set file of --data.")
@click.option("--validation", type=PATH, required=True, help="Images for the metrics.")
@click.option("--validation-split", default="", help="Split of the set file of --validation.")
@click.option("--input-size", "--imgsz", type=int, help="Side of the input in pixels.")
@click.option("--crop-fraction", type=float, help="Share of the image kept for validation.")
@click.option("--interpolation", help="Resize by nearest, bilinear, bicubic or lanczos.")
@click.option("--epochs", type=int, help="Passes over the images. Default: 60, with --qat 3.")
@click.option("--batch", type=int, help="Images per step. Default: 32.")
@click.option(
    "--learning-rate",
    type=float,
    help="Peak of the cosine schedule. Default: 0.002, with --qat 0.00005.",
)
@click.option(
    "--start-size", type=int, help="Side of the first epoch's images. Default: 160; it grows."
)
@click.option(
    "--distillation", type=float, help="With --qat: weight of the float logits, 0..1. Default: 1."
)
@click.option("--placement", metavar="NAME", help="With --qat: placement that quantize will get.")
@click.option("--keep-float", metavar="GROUP[,GROUP]", help="With --qat: as quantize will get it.")
@click.option("--keep-failed", is_flag=True, help="With --qat: write a graph that got worse.")
@click.option("--seed", type=int, help="Seed of every random choice.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Device to train on.")
@click.option("--threads", type=int, help="CPU threads; 0 = all usable.")
@click.option("--out", type=PATH, required=True, help="Folder to write; an unfinished run resumes.")
@terminal_options
def train(**options: object) -> None:
    """Train a model on class folders or a set file; writes a checkpoint and its metrics.

    With --qat RANGES the weights of a simplified graph are fine-tuned for the int8 scales of its
    range table, as a last resort where calibration, placement and layers in float do not suffice.
    The command then writes the graph with its new weights and range table, to be quantized with
    --no-bias-correction, and the gain in qat.json. If int8 got worse it exits with 6 and writes no
    graph.
    """
    from edge_inception.data import imageset

    flags = record_of(_Flags, options)
    _require_fit(flags)
    with terminal_of(options) as terminal:
        train_set = imageset.open_set(flags.data, split=flags.data_split)
        monitor = imageset.open_set(flags.validation, split=flags.validation_split)
        if flags.qat:
            _fine_tune((train_set, monitor), flags.qat, flags, terminal)
        elif flags.model:
            _train((train_set, monitor), flags.model, flags, terminal)


def _require_fit(flags: _Flags) -> None:
    """Refuse flags that belong to the other kind of training.

    Raises:
        InputError: Such a flag is given, or neither --model nor --qat is given.
    """
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
        terminal.note(f"{when}: {_accuracy(getattr(gained, when))}")
    click.echo(f"{trained.path}\n{bound.path}")


def _given(names_of: tuple[str, ...], flags: _Flags) -> dict[str, Any]:
    values = {name: getattr(flags, name) for name in names_of}
    return {name: value for name, value in values.items() if value is not None}


def _accuracy(figures: QatFigures) -> str:
    """Figures as text, such as ``top-1 83.20 %, 31.0 dB``; the float graph has no SQNR."""
    sqnr = "" if figures.sqnr_db is None else f", {figures.sqnr_db:.1f} dB"
    return f"top-1 {100 * figures.accuracy:.2f} %{sqnr}"


COMMANDS = (train,)
