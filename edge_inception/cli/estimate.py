"""The command ``estimate``: how fast a graph could be on a target that is not at hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import PATH
from edge_inception.spec import Precision

if TYPE_CHECKING:
    from edge_inception.estimate.roofline import Estimate, Peaks
    from edge_inception.hardware.feasibility import Request
    from edge_inception.hardware.target import Target

_INDENT = 14
_ROW = "{:<28} {:<17}{:>8}{:>8}{:>9} {}"
_NAME, _OP = 28, 16
_SLOWEST = 10
_MIB = 2**20
_STARTS = "starting a kernel takes some us, which is not counted; try a larger --batch"


@click.command()
@click.argument("graph", type=PATH)
@click.option("--target", required=True, help="Named hardware with known peaks.")
@click.option(
    "--precision",
    type=click.Choice([precision.value for precision in Precision]),
    default=Precision.INT8.value,
    show_default=True,
    help="What every layer is taken to run at, whatever the file has.",
)
@click.option("--batch", type=click.IntRange(min=1), help="Fills a free batch; 1 if not given.")
@click.option("--dla", is_flag=True, help="GPU and all DLA cores at once, each with this batch.")
@click.option("--workspace", type=click.IntRange(min=0), default=0, help="MiB for the compiler.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every layer.")
def estimate(
    graph: Path,
    target: str,
    *,
    precision: str,
    batch: int | None,
    dla: bool,
    workspace: int,
    as_json: bool,
) -> None:
    """Bound the speed of any ONNX file on a target; an estimate, not a measurement.

    A roofline per layer: operations at the dense peak, bytes at the bandwidth of memory. Then the
    range to plan with, from published figures of Inception-v4. What cannot be built is refused.
    """
    from edge_inception.estimate import roofline as rooflines
    from edge_inception.graph.check import load_graph
    from edge_inception.graph.statistics import statistics
    from edge_inception.hardware import feasibility, targets

    hardware, asked_precision = targets.target(target), Precision(precision)
    found = statistics(load_graph(graph), batch=batch)
    asked = feasibility.Request(
        precision=asked_precision,
        dla=dla,
        batch=rooflines.batch_of(found),
        memory=rooflines.memory_need(found, asked_precision, workspace=workspace * _MIB),
    )
    feasibility.require(hardware, asked)
    peaks = rooflines.peaks_of(hardware, asked.precision, dla=asked.dla)
    bound = rooflines.estimate(found, peaks)
    if as_json:
        record = {"graph": str(graph), **_record(hardware, asked, bound), "peaks": peaks.words}
        click.echo(json.dumps(record, indent=1))
        return
    lines = (*_title(graph, hardware, asked), "", *_table(bound), "")
    click.echo("\n".join((*lines, *_summary(hardware, asked, peaks, bound))))


def _record(target: Target, asked: Request, bound: Estimate) -> dict[str, Any]:
    from edge_inception.estimate import roofline as rooflines

    assert asked.memory is not None  # the command always states it
    low, middle, high = bound.expected
    return {
        "is_measurement": False,
        "target": target.name,
        "precision": asked.precision.value,
        "dla": asked.dla,
        "batch": asked.batch,
        "bound_images_per_s": bound.bound,
        "plan_images_per_s": {"low": low, "middle": middle, "high": high},
        "share": rooflines.SHARE,
        "band": rooflines.BAND,
        "is_band_tested": rooflines.is_tested(target),
        "suspicious_below_images_per_s": bound.suspicious_below,
        "compute_share": bound.compute_share,
        "memory_bytes": dataclasses.asdict(asked.memory),
        "layers": [
            {**dataclasses.asdict(layer), "bound_by": layer.bound_by} for layer in bound.layers
        ],
    }


def _title(graph: Path, target: Target, asked: Request) -> Iterator[str]:
    from edge_inception.cli._terminal import wrapped

    where = f"{target.name}, GPU and {target.num_dla_cores} DLA" if asked.dla else target.name
    text = f"{graph} on {where} at {asked.precision.value}, batch {asked.batch}"
    yield wrapped("", f"{text}: an estimate, not a measurement", indent=0)


def _table(bound: Estimate) -> Iterator[str]:
    from edge_inception.cli._terminal import shortened

    slowest = sorted(bound.layers, key=lambda layer: -layer.seconds)[:_SLOWEST]
    yield _ROW.format("slowest layers", "op", "MMACs", "MiB", "us", "bound by")
    for layer in slowest:
        name, op = shortened(layer.name, _NAME), shortened(layer.op, _OP)
        figures = _figures(layer.macs, layer.num_bytes, layer.seconds)
        yield _ROW.format(name, op, *figures, layer.bound_by)
    macs = sum(layer.macs for layer in bound.layers)
    num_bytes = sum(layer.num_bytes for layer in bound.layers)
    lead = f"all {len(bound.layers)} that take time"
    yield _ROW.format(lead, "", *_figures(macs, num_bytes, bound.seconds), "").rstrip()


def _figures(macs: int, num_bytes: int, seconds: float) -> tuple[str, str, str]:
    return f"{macs / 1e6:,.0f}", f"{num_bytes / _MIB:,.1f}", f"{seconds * 1e6:,.1f}"


def _summary(target: Target, asked: Request, peaks: Peaks, bound: Estimate) -> Iterator[str]:
    from edge_inception.cli._terminal import wrapped

    for lead, text in _sentences(target, asked, peaks, bound):
        yield wrapped(lead, text, indent=_INDENT)


def _sentences(
    target: Target, asked: Request, peaks: Peaks, bound: Estimate
) -> Iterator[tuple[str, str]]:
    from edge_inception.estimate.roofline import BAND, SHARE, is_tested

    assert asked.memory is not None  # the command always states it
    low, middle, high = map(_rate, bound.expected)
    compute = f"{bound.compute_share:.0%} of the time bound by compute, the rest by memory"
    yield "peaks", peaks.words
    yield "bound", f"{_rate(bound.bound)} images/s: {compute}"
    share = f"{SHARE:.0%} of the bound, +-{BAND:.0%}"
    yield "plan with", f"{middle} images/s, {low} to {high}: {share}"
    tested = "" if is_tested(target) else f"{target.name} and "
    points = "published figures of Inception-v4 on Nano, TX2, Xavier NX and AGX Xavier"
    yield "band from", f"{points}; untested on {tested}other networks"
    if bound.is_start_bound:
        mean = f"{bound.seconds / len(bound.layers) * 1e6:.2g} us"
        yield "too high", f"the mean bound of a layer is {mean}, and {_STARTS}"
    limits = f"above {_rate(bound.bound)} or below {_rate(bound.suspicious_below)} images/s"
    yield "suspicious", f"a measurement {limits}: wrong peak, power mode, precision or batch"
    yield "memory", f"at least {asked.memory.words} of {target.memory_gb} GiB"


def _rate(value: float) -> str:
    """Three figures at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


COMMANDS = (estimate,)
"""Every command. Bodies import the one function they call: ``--help`` imports only click."""
