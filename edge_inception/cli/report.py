"""The command ``report``: stored results on the terminal, as a page, Markdown or CSV."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import PATH, VERDICT_CODES
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.estimate.roofline import Estimate, Peaks
    from edge_inception.report.rooflines import Roofline
    from edge_inception.report.sources import Source
    from edge_inception.report.timings import Timing

_SIMPLIFIED = "model.simplified.onnx"
_WITH_ONNX = "pip install 'edge-inception[compile]'"
_WORST_FIRST = tuple(VERDICT_CODES[word] for word in ("FAILED", "INCONCLUSIVE"))


@click.command()
@click.argument("results", nargs=-1, required=True, type=PATH)
@click.option("--html", type=PATH, help="File to write as a self-contained HTML page.")
@click.option("--markdown", is_flag=True, help="Print Markdown instead of a table.")
@click.option("--csv", is_flag=True, help="Print CSV: a line for each engine or timed run.")
def report(results: tuple[Path, ...], *, html: Path | None, markdown: bool, csv: bool) -> int:
    """Show stored results: reports, build folders, records of bench, compare and device.py.

    A file that compare-layers wrote with --json adds the SQNR of each layer to the page. The exit
    code is the worst verdict among the newest report of each model and all records.
    """
    from edge_inception.report import devices
    from edge_inception.report.sources import read_sources
    from edge_inception.report.timings import read_timings

    paths = list(dict.fromkeys(results))
    if len(paths) == 1 and html is None:
        verification = devices.read_verification(paths[0])
        if verification is not None:
            click.echo(devices.to_text(verification))
            return VERDICT_CODES[verification.status]
    timings = read_timings(paths)
    timed = {timing.path for timing in timings}
    sources = read_sources(path for path in paths if path not in timed)
    if html is not None:
        _write_page(sources, timings, html)
    if csv or markdown:
        click.echo(_as_csv(sources, timings) if csv else _as_markdown(sources, timings), nl=not csv)
    elif html is None:
        _print(sources, timings)
    return _exit_code(sources, timings)


def _write_page(sources: Sequence[Source], timings: Sequence[Timing], path: Path) -> None:
    from edge_inception.artifact import replace_file
    from edge_inception.report.page import to_html

    complete = [_add_artifacts(source) for source in sources]
    for text in dict.fromkeys(text for source in complete for text in source.left_out):
        click.echo(text, err=True)
    now = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    replace_file(
        path, to_html(complete, timings, created_utc=now).encode("utf-8", "backslashreplace")
    )
    click.echo(f"wrote {path}", err=True)


def _add_artifacts(source: Source) -> Source:
    """The source with facts from its graphs and range table; without onnx, with a note instead."""
    from importlib.util import find_spec

    names = {artifact.path.name for artifact in source.artifacts}
    if find_spec("onnx"):
        return _add_calibration(_add_layers(source, names))
    missing = ["block diagram", "rooflines"] if _SIMPLIFIED in names else []
    missing += ["calibration"] if source.ranges else []
    if not missing:
        return source
    note = f"not on the page: {', '.join(missing)}, which need onnx: {_WITH_ONNX}"
    return dataclasses.replace(source, left_out=(note,))


def _add_calibration(source: Source) -> Source:
    """The source with facts from its range table, or with the problem of reading it."""
    if source.ranges is None:
        return source
    from edge_inception.quant.clipping import describe

    try:
        return dataclasses.replace(source, calibration=describe(source.ranges))
    except InputError as error:
        return dataclasses.replace(source, problems=(*source.problems, str(error)))


def _add_layers(source: Source, names: AbstractSet[str]) -> Source:
    """The source with facts from its graphs; ``names`` are the files that are beside it."""
    simplified = source.folder / _SIMPLIFIED
    if simplified.name not in names:
        return source
    from edge_inception.graph.check import load_graph
    from edge_inception.graph.topology import describe

    model = load_graph(simplified)
    typed = source.folder / f"model.{source.report.subjects[0].precision}.onnx"
    return dataclasses.replace(
        source,
        network=describe(model, load_graph(typed) if typed.name in names else None),
        rooflines=tuple(_rooflines(model)),
    )


def _rooflines(model: Any) -> Iterator[Roofline]:
    """Bounds on the graph's speed on each target with known peaks, in INT8 or else FP16."""
    from edge_inception.estimate import roofline as rooflines
    from edge_inception.graph.statistics import statistics
    from edge_inception.hardware.targets import TARGETS
    from edge_inception.spec import Precision

    figures = statistics(model, batch=1)
    for target in TARGETS.values():
        precision = Precision.INT8 if target.int8_tops else Precision.FP16
        try:
            peaks = rooflines.peaks_of(target, precision)
            bound = rooflines.estimate(figures, peaks)
        except InputError:  # the target's peaks or the graph's sizes are unknown
            continue
        yield _roofline(target.name, precision.value, peaks, bound)


def _roofline(target: str, precision: str, peaks: Peaks, bound: Estimate) -> Roofline:
    from edge_inception.report.rooflines import LayerCost, Roofline

    low, middle, high = bound.expected
    macs = sum(layer.macs for layer in bound.layers)
    return Roofline(
        target=target,
        precision=precision,
        macs_per_s=peaks.macs_per_s,
        bytes_per_s=peaks.bytes_per_s,
        bound=bound.bound,
        low=low,
        middle=middle,
        high=high,
        compute_share=bound.compute_share,
        intensity=macs / sum(layer.num_bytes for layer in bound.layers),
        layers=tuple(
            LayerCost(
                macs=layer.macs,
                num_bytes=layer.num_bytes,
                share=layer.seconds / bound.seconds,
            )
            for layer in bound.layers
        ),
    )


def _print(sources: Sequence[Source], timings: Sequence[Timing]) -> None:
    from edge_inception.report import devices, latency
    from edge_inception.report.terminal import print_report

    for index, source in enumerate(sources):
        if index:
            click.echo()
        print_report(source.report)
    for index, record in enumerate(record for timing in timings for record in timing.records):
        if index or sources:
            click.echo()
        if record.bundle:
            click.echo(devices.to_text(record))
            continue
        lines = latency.compare_lines if record.result else latency.bench_lines
        click.echo("\n".join(lines(record)))


def _as_markdown(sources: Sequence[Source], timings: Sequence[Timing]) -> str:
    from edge_inception.report import latency
    from edge_inception.report.markdown import to_markdown

    parts = [to_markdown(source.report) for source in sources]
    parts += [latency.to_markdown(record) for timing in timings for record in timing.records]
    return "\n---\n\n".join(parts)


def _as_csv(sources: Sequence[Source], timings: Sequence[Timing]) -> str:
    from edge_inception.report.to_csv import timings_to_csv, to_csv

    if sources and timings:
        raise InputError(
            "--csv got reports and records of latency, whose columns differ",
            hint="name only reports, or only records of latency",
        )
    if timings:
        return timings_to_csv({str(timing.path): timing.records for timing in timings})
    return to_csv({str(source.path): source.report for source in sources})


def _exit_code(sources: Sequence[Source], timings: Sequence[Timing]) -> int:
    from edge_inception.report.sources import newest_first
    from edge_inception.validate import comparison

    newest: dict[str, str] = {}
    for source in newest_first(sources):
        newest.setdefault(source.report.model, source.report.status)
    codes = {VERDICT_CODES[status] for status in newest.values()}
    records = [record for timing in timings for record in timing.records]
    codes |= {comparison.exit_code(one) for one in records if one.result}
    return next((code for code in _WORST_FIRST if code in codes), 0)
