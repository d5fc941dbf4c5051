"""One HTML page from reports, which runs no script and loads nothing from outside its file.

Templates escape every value, and the page's content security policy forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from edge_inception._version import __version__
from edge_inception.metrics.intervals import Estimate
from edge_inception.report import (
    charts,
    diagram,
    history,
    pareto,
    pictures,
    provenance,
    rooflines,
    timings,
)
from edge_inception.report.sources import Source, newest_first
from edge_inception.report.table import DASH, size, table
from edge_inception.report.timings import Timing, ms_text
from edge_inception.report.vega import Chart, finite
from edge_inception.validate.report_record import ReportRecord, Role, Row

MOST_DETAILED = 6
"""Largest number of reports shown in detail, the newest of each model, and of latency records.

The others stand in the overview only."""


def to_html(sources: Sequence[Source], timed: Sequence[Timing] = (), *, created_utc: str) -> str:
    """The page as HTML.

    Args:
        sources: Reports, shown from the newest to the oldest.
        timed: Records of latency, shown after the reports. One report or record is needed.
        created_utc: Date and time at which the page is made.
    """
    ordered = newest_first(sources)
    newest: dict[str, Source] = {}
    for source in ordered:
        newest.setdefault(source.report.model, source)
    chosen = list(newest.values())[:MOST_DETAILED]
    latest = sorted(timed, key=lambda one: one.created_utc, reverse=True)
    detailed = [_part(source, index, latest) for index, source in enumerate(chosen)]
    measured = [timings.part(one, f"t{i}") for i, one in enumerate(latest[:MOST_DETAILED])]
    anchors = {id(source): _anchor(index) for index, source in enumerate(chosen)}
    overview = [{**_line(source), "anchor": anchors.get(id(source), "")} for source in ordered]
    overview += [
        {**timings.line(one), "anchor": f"t{i}" if i < MOST_DETAILED else ""}
        for i, one in enumerate(latest)
    ]
    template = _environment().get_template("page.html")
    return template.render(
        parts=detailed,
        timings=measured,
        overview=overview if len(overview) > 1 else [],
        fronts=pareto.fronts(ordered),
        histories=history.histories(ordered) + history.histories_of_timings(timed),
        num_left_out=len(overview) - len(detailed) - len(measured),
        title=_page_title(ordered, latest),
        created_utc=created_utc,
        version=__version__,
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("edge_inception.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page_title(sources: Sequence[Source], timed: Sequence[Timing]) -> str:
    named: list[tuple[str, str]] = [(one.report.model, one.report.status) for one in sources]
    named += [(str(one.records[0].model.name), one.status) for one in timed]
    if len(named) == 1:
        return f"{named[0][1]}: {named[0][0]}"
    models = list(dict.fromkeys(model for model, _ in named))
    return f"{len(named)} results on {', '.join(models[:3])}"


def _part(source: Source, index: int, timed: Sequence[Timing]) -> dict[str, Any]:
    report, calibration = source.report, source.calibration
    judged = provenance.engine_sha256(report, report.subjects[0].name)
    measured = (source.noise, timings.times_of(timed, judged))
    rows = report.rows
    drawn = {
        "pareto": charts.pareto(rows),
        "accuracy": charts.accuracy(rows),
        "latency": charts.latency(rows),
        "speedup": charts.speedup(rows),
        "size": charts.size(rows),
        "placements": rooflines.placements(source.search),
    }
    return {
        "id": _anchor(index),
        "model": report.model,
        "status": report.status,
        "verdict": report.verdict,
        "created_utc": report.created_utc,
        "figures": figures(report),
        "table": table(report),
        "charts": {name: chart for name, chart in drawn.items() if chart},
        "diagram": diagram.blocks(source.network, *measured) if source.network else [],
        "layers": diagram.lines(source.network, *measured) if source.network else [],
        "has_noise": source.noise is not None,
        "has_times": bool(measured[1]),
        "rooflines": _rooflines(source),
        "changed": pictures.changed(source),
        "calibration": calibration,
        "histograms": list(map(pictures.histogram, calibration.drawn)) if calibration else [],
        "provenance": provenance.provenance(source),
        "classes": provenance.classes(report),
        "problems": source.problems,
        "left_out": source.left_out,
    }


def _anchor(index: int) -> str:
    return f"r{index}"


def _rooflines(source: Source) -> list[Chart]:
    """A chart of all targets, and one of the build's target, else of ``orin-nano-8gb``."""
    overview = rooflines.targets(source.rooflines)
    if overview is None:
        return []
    built = {
        part
        for one in source.artifacts
        if one.kind == "engine"
        for part in one.path.name.split(".")[2:3]  # a renamed engine may have no target
    }
    wanted = built | {"orin-nano-8gb"}
    ranked = sorted(source.rooflines, key=lambda one: one.target not in wanted)
    return [overview, rooflines.roofline(ranked[0])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its name; ``note`` is its interval, or what the figure is compared with."""

    name: str
    value: str
    note: str


def figures(report: ReportRecord) -> list[Figure]:
    """Accuracy, speed-up, latency and size of the judged engine, as far as they were measured."""
    subject = report.subjects[0]
    reference = next((row for row in report.rows if row.role is Role.REFERENCE), None)
    measured = [_quality(subject), _speed(subject), _latency(subject), _size(subject, reference)]
    return [figure for figure in measured if figure]


def _quality(row: Row) -> Figure | None:
    if row.accuracy is None:
        return None
    if row.labelled:
        drop, top1 = row.labelled.drop_pp, row.labelled.engine.top1
        against = f"drop {_signed(drop.value)} pp ({_range(drop, 1, 2)})"
        return Figure(name="top-1", value=f"{_fixed(top1.value, 100, 2)} %", note=against)
    agreement = row.accuracy.agreement
    note = f"with the baseline ({_range(agreement, 100, 1)})"
    return Figure(name="agreement", value=f"{_fixed(agreement.value, 100, 2)} %", note=note)


def _speed(row: Row) -> Figure | None:
    if row.speedup is None:
        return None
    note = f"as fast as the FP32 engine ({_range(row.speedup, 1, 2)})"
    return Figure(name="speed-up", value=f"{_fixed(row.speedup.value, 1, 2)}x", note=note)


def _latency(row: Row) -> Figure | None:
    timed = row.latency
    if timed is None:
        return None
    tail = f"p90 {ms_text(timed.p90_ms)}, p99 {ms_text(timed.p99_ms)} ms"
    return Figure(name="latency p50", value=f"{ms_text(timed.p50_ms)} ms", note=tail)


def _size(row: Row, reference: Row | None) -> Figure | None:
    if not row.size_bytes:
        return None
    full = reference.size_bytes if reference else None
    note = f"{row.size_bytes / full:.0%} of the FP32 engine" if full else "engine file"
    return Figure(name="size", value=size(row.size_bytes), note=note)


def _line(source: Source) -> dict[str, Any]:
    """A report's line in the overview."""
    report = source.report
    return {
        "path": str(source.path),
        "model": report.model,
        "created_utc": report.created_utc,
        "status": report.status,
        "figures": {figure.name: figure.value for figure in figures(report)},
        "sentence": report.verdict.sentence,
    }


def _fixed(value: float, factor: float, digits: int) -> str:
    number = finite(value)
    return DASH if number is None else f"{factor * number:.{digits}f}"


def _signed(value: float) -> str:
    number = finite(value)
    return DASH if number is None else f"{number:+.2f}"


def _range(estimate: Estimate, factor: float, digits: int) -> str:
    lower, upper = (_fixed(bound, factor, digits) for bound in (estimate.lower, estimate.upper))
    return f"95 %: {lower} to {upper}"
