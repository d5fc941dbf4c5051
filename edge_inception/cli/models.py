"""The command ``models``: architectures, their stages, and their published checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._layout import wrapped
from edge_inception.cli._options import json_option, model_option, parse_model_options
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.models._trace import TableRow
    from edge_inception.spec import (
        CheckpointFamily,
        ModelSpec,
        Options,
        Preprocess,
        PublishedCheckpoint,
    )

_NAME = 21


@click.command()
@click.argument("name", required=False)
@model_option
@click.option(
    "--input-size",
    "--imgsz",
    type=click.IntRange(min=1),
    help="Side of the input in pixels.",
)
@click.option("--num-classes", type=click.IntRange(min=1), help="Number of classes of the head.")
@json_option
def models(
    name: str | None,
    *,
    option: tuple[str, ...],
    input_size: int | None,
    num_classes: int | None,
    as_json: bool,
) -> None:
    """List the architectures, or describe the architecture NAME stage by stage.

    The list has the input size, the parameters, the multiply-adds, the checkpoint families that can
    be loaded, and published accuracies with their sources. With NAME, options, variants,
    preprocessing and stages are printed too.
    """
    from edge_inception import registry

    if name is None:
        if option or input_size or num_classes:
            raise InputError("these options are about one model", hint="name it: models NAME")
        specs = registry.models().values()
        if as_json:
            click.echo(json.dumps([_record(spec) for spec in specs], indent=1))
        else:
            click.echo("\n".join(line for spec in specs for line in _list_lines(spec)))
        return
    spec = registry.model(name)
    options = parse_model_options(option)
    size = (input_size, input_size) if input_size else spec.variants[0].input_size
    stages = _stages(spec, options, size, num_classes or 1000)
    if as_json:
        rows = [dataclasses.asdict(stage) for stage in stages]
        record = {**_record(spec), "stages": rows, "shown_options": options, "shown_size": size}
        click.echo(json.dumps(record, indent=1))
        return
    click.echo("\n".join((*_description_lines(spec), "", *_stage_table(stages, size, options))))


def _stages(
    spec: ModelSpec, options: dict[str, Any], size: tuple[int, int], num_classes: int
) -> list[TableRow]:
    from edge_inception import registry
    from edge_inception.models._trace import group_rows, trace

    registry.options(spec, options)
    architecture = registry.describe(spec, num_classes, options)
    try:
        return list(group_rows(trace(architecture, size)))
    except ValueError as error:
        raise InputError(
            f"{spec.name} cannot take {size[0]} x {size[1]} images: {error}",
            hint="use a larger --input-size; `edge-inception models NAME` shows the published one",
        ) from error


def _record(spec: ModelSpec) -> dict[str, Any]:
    from edge_inception import stage

    names = [field.name for field in dataclasses.fields(spec)]
    names += ["num_parameters", "gmacs", "preprocess"]
    builders = {"build", "describe"}
    return {name: stage.plain(getattr(spec, name)) for name in names if name not in builders}


def _options_text(options: Options) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _list_lines(spec: ModelSpec) -> Iterator[str]:
    figures = f"{spec.num_parameters:>12,} parameters{spec.gmacs:>8.3f} GMACs"
    yield f"{spec.name:<{_NAME}}{_size_text(spec.variants[0].input_size):<9}{figures}"
    yield wrapped("  checkpoints", ", ".join(f.name for f in spec.families), indent=_NAME)
    for family in spec.families:
        for claim in family.published:
            yield wrapped("  published", _claim_text(claim), indent=_NAME)


def _claim_text(claim: PublishedCheckpoint) -> str:
    figures = claim.claim or f"top-1 {claim.top1} %, top-5 {claim.top5} %"
    return f"{figures}: {claim.name} ({claim.source})"


def _description_lines(spec: ModelSpec) -> Iterator[str]:
    yield f"{spec.name}: {spec.title}"
    yield spec.paper
    yield ""
    for variant in spec.variants:
        chosen = _options_text(variant.options) or "default"
        figures = f"{variant.num_parameters:,} parameters, {variant.gmacs} GMACs at "
        text = f"{figures}{_size_text(variant.input_size)}: {chosen}"
        yield wrapped("form", f"{variant.name}: {text}", indent=_NAME)
    for key, value in spec.options.items():
        yield f"{'option':<{_NAME}}{key} = {value}"
    for family in spec.families:
        yield from _family_lines(family)


def _family_lines(family: CheckpointFamily) -> Iterator[str]:
    chosen = _options_text(family.options)
    text = family.name + (f" ({chosen})" if chosen else "")
    yield wrapped("checkpoints", text, indent=_NAME)
    yield wrapped("  preprocessing", _preprocessing_text(family.preprocess), indent=_NAME)
    if family.num_background:
        yield wrapped("  background", "logit 0 of 1001 is dropped", indent=_NAME)
    for claim in family.published:
        yield wrapped("  published", _claim_text(claim), indent=_NAME)
        yield wrapped("", f"{claim.licence}, {claim.url}", indent=_NAME)


def _preprocessing_text(preprocess: Preprocess) -> str:
    mean, std = (
        ", ".join(f"{v:.4g}" for v in values) for values in (preprocess.mean, preprocess.std)
    )
    order = "crop, then resize" if preprocess.crop == "before_resize" else "resize, then crop"
    return (
        f"{_size_text(preprocess.input_size)} {preprocess.channel_order}, "
        f"{order} {preprocess.crop_fraction:.4g}, "
        f"{preprocess.interpolation}, mean {mean}, std {std}"
    )


def _stage_table(
    stages: list[TableRow], size: tuple[int, int], options: dict[str, Any]
) -> Iterator[str]:
    from edge_inception.models._trace import total_cost

    yield f"stages at {_size_text(size)}, {_options_text(options) or 'default options'}"
    yield f"{'stage':<16}{'what':<32}{'output':>12}{'params':>11}{'MMACs':>9}"
    for stage in stages:
        what = f"{stage.count} x {stage.what}" if stage.count > 1 else stage.what
        yield _row(stage.path, what, stage.cost.shape, stage.cost.num_parameters, stage.cost.macs)
    whole = total_cost(stages)
    yield _row("total", "", None, whole.num_parameters, whole.macs)


def _row(
    path: str, what: str, shape: tuple[int, int, int] | None, num_parameters: int, macs: int
) -> str:
    output = "x".join(map(str, shape)) if shape else ""
    return f"{path:<16}{what:<32}{output:>12}{num_parameters:>11,}{macs / 1e6:>9,.1f}"
