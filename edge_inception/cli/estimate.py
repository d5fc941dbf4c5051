"""The command ``estimate``: bounds on the speed of a graph on a target that is not at hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._layout import shortened, wrapped
from edge_inception.cli._options import PATH, dynamic_batch_option, json_option

if TYPE_CHECKING:
    from edge_inception.estimate.roofline import Estimate, Peaks
    from edge_inception.hardware.feasibility import Request
    from edge_inception.hardware.target import Target

_INDENT = 14
PRECISIONS = ("fp32", "fp16", "int8")
"""Values of ``spec.Precision``, whose import would slow down every ``--help``."""
_ROW = "{:<28} {:<17}{:>8}{:>8}{:>9} {}"
_NAME, _OP = 28, 16
_SLOWEST = 10
_MIB = 2**20
_KERNEL_STARTS = "starting a kernel takes some us, which is not counted; try a larger --batch"


@click.command()
@click.argument("graph", type=PATH)
@click.option("--target", required=True, help="Target whose peak rates are known.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="int8",
    show_default=True,
    help="Precision that is assumed for every layer.",
)
@dynamic_batch_option
@click.option("--dla", is_flag=True, help="Use the GPU and all DLA cores, each with this batch.")
@click.option("--workspace", type=click.IntRange(min=0), default=0, help="Workspace in MiB.")
@json_option
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
    """Estimate the highest speed of any ONNX file on a target, without measuring.

    Each layer takes the longer of two times: its operations at the dense peak, its bytes at the
    bandwidth of memory (a roofline). The range to plan with comes from published figures of
    Inception-v4. A graph that the target cannot build is refused.
    """
    from edge_inception.estimate import roofline as rooflines
    from edge_inception.graph.check import load_graph
    from edge_inception.graph.statistics import statistics
    from edge_inception.hardware import feasibility, targets
    from edge_inception.spec import Precision

    hardware = targets.target(target)
    figures = statistics(load_graph(graph), batch=batch)
    request = feasibility.Request(
        precision=Precision(precision),
        dla=dla,
        batch=rooflines.batch_size(figures),
        memory=rooflines.memory_need(figures, Precision(precision), workspace=workspace * _MIB),
    )
    feasibility.require(hardware, request)
    peaks = rooflines.peaks_of(hardware, request.precision, dla=request.dla)
    bound = rooflines.estimate(figures, peaks)
    if as_json:
        record = {"graph": str(graph), **_record(hardware, request, bound)}
        click.echo(json.dumps({**record, "peaks": peaks.description}, indent=1))
        return
    summary = (
        wrapped(lead, text, indent=_INDENT)
        for lead, text in _summary(hardware, request, peaks, bound)
    )
    click.echo(
        "\n".join((_title(graph, hardware, request), "", *_layer_table(bound), "", *summary))
    )


def _record(target: Target, request: Request, bound: Estimate) -> dict[str, Any]:
    from edge_inception.estimate import roofline as rooflines

    assert request.memory is not None  # the command always states it
    low, middle, high = bound.expected
    return {
        "is_measurement": False,
        "target": target.name,
        "precision": request.precision.value,
        "dla": request.dla,
        "batch": request.batch,
        "bound_images_per_s": bound.bound,
        "plan_images_per_s": {"low": low, "middle": middle, "high": high},
        "share": rooflines.SHARE,
        "band": rooflines.BAND,
        "is_band_tested": rooflines.has_check_point(target),
        "suspicious_below_images_per_s": bound.suspicious_below,
        "compute_share": bound.compute_share,
        "memory_bytes": dataclasses.asdict(request.memory),
        "layers": [
            {**dataclasses.asdict(layer), "bound_by": layer.bound_by} for layer in bound.layers
        ],
    }


def _title(graph: Path, target: Target, request: Request) -> str:
    where = f"{target.name}, GPU and {target.num_dla_cores} DLA" if request.dla else target.name
    text = f"{graph} on {where} at {request.precision.value}, batch {request.batch}"
    return wrapped("", f"{text}: an estimate, not a measurement", indent=0)


def _layer_table(bound: Estimate) -> Iterator[str]:
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


def _summary(
    target: Target, request: Request, peaks: Peaks, bound: Estimate
) -> Iterator[tuple[str, str]]:
    from edge_inception.estimate.roofline import BAND, SHARE, has_check_point

    assert request.memory is not None  # the command always states it
    low, middle, high = map(_rate_text, bound.expected)
    compute = f"{bound.compute_share:.0%} of the time bound by compute, the rest by memory"
    yield "peaks", peaks.description
    yield "bound", f"{_rate_text(bound.bound)} images/s: {compute}"
    share = f"{SHARE:.0%} of the bound, +-{BAND:.0%}"
    yield "plan with", f"{middle} images/s, {low} to {high}: {share}"
    tested = "" if has_check_point(target) else f"{target.name} and "
    points = "published figures of Inception-v4 on Nano, TX2, Xavier NX and AGX Xavier"
    yield "band from", f"{points}; untested on {tested}other networks"
    if bound.is_launch_bound:
        mean = f"{bound.seconds / len(bound.layers) * 1e6:.2g} us"
        yield "too high", f"the mean bound of a layer is {mean}, and {_KERNEL_STARTS}"
    limits = (
        f"above {_rate_text(bound.bound)} or below {_rate_text(bound.suspicious_below)} images/s"
    )
    yield "suspicious", f"a measurement {limits}: wrong peak, power mode, precision or batch"
    yield "memory", f"at least {request.memory.description} of {target.memory_gb} GiB"


def _rate_text(value: float) -> str:
    """A rate with at least three significant figures."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004
