"""One HTML page from reports, which runs no script and loads nothing from outside its file.

Templates escape every value, and the page's content security policy forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jinja2

from edge_inception._version import __version__
from edge_inception.metrics.intervals import Estimate
from edge_inception.report import (
    changed_images,
    charts,
    diagram,
    history,
    pareto,
    provenance,
    rooflines,
    timings,
)
from edge_inception.report.sources import Source, newest_first
from edge_inception.report.table import Figure, milliseconds, number, size, table
from edge_inception.report.timings import Timing
from edge_inception.report.vega import Chart
from edge_inception.validate.report_record import ReportRecord, Role, Row

MAX_DETAILED = 6
"""Largest number of sections on reports, and of those on latency records; the overview has all.

Only the newest report of each model gets a section.
"""


def to_html(sources: Sequence[Source], benches: Sequence[Timing] = (), *, created_utc: str) -> str:
    """The page as HTML.

    Args:
        sources: Reports, shown from the newest to the oldest.
        benches: Files of latency records, shown after the reports. At least one report or file is
            needed.
        created_utc: Date and time at which the page is made.
    """
    ordered = newest_first(sources)
    newest: dict[str, Source] = {}
    for source in ordered:
        newest.setdefault(source.report.model, source)
    detailed = list(newest.values())[:MAX_DETAILED]
    latest = sorted(benches, key=lambda one: one.created_utc, reverse=True)
    report_sections = [_section(source, f"r{i}", latest) for i, source in enumerate(detailed)]
    bench_sections = [timings.section(one, f"t{i}") for i, one in enumerate(latest[:MAX_DETAILED])]
    anchors = {id(source): f"r{i}" for i, source in enumerate(detailed)}
    overview = [
        {**_overview_line(source), "anchor": anchors.get(id(source), "")} for source in ordered
    ]
    overview += [
        {**timings.overview_line(one), "anchor": f"t{i}" if i < MAX_DETAILED else ""}
        for i, one in enumerate(latest)
    ]
    template = _environment().get_template("page.html")
    return template.render(
        parts=report_sections,
        timings=bench_sections,
        overview=overview if len(overview) > 1 else [],
        fronts=pareto.fronts(ordered),
        histories=history.draw_histories(ordered) + history.draw_bench_histories(benches),
        num_left_out=len(overview) - len(report_sections) - len(bench_sections),
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


def _page_title(sources: Sequence[Source], benches: Sequence[Timing]) -> str:
    results: list[tuple[str, str]] = [(one.report.model, one.report.status) for one in sources]
    results += [(str(one.records[0].model.name), one.status) for one in benches]
    if len(results) == 1:
        return f"{results[0][1]}: {results[0][0]}"
    models = list(dict.fromkeys(model for model, _ in results))
    return f"{len(results)} results on {', '.join(models[:3])}"


def _section(source: Source, identity: str, benches: Sequence[Timing]) -> dict[str, Any]:
    """Values of the page's section on one report, for the template part.html."""
    report, calibration = source.report, source.calibration
    judged = provenance.engine_sha256(report, report.subjects[0].name)
    times = timings.layer_times(benches, judged)
    diagram_input = (source.network, source.noise, times) if source.network else None
    rows = report.rows
    charts_by_name = {
        "pareto": charts.draw_pareto(rows),
        "accuracy": charts.draw_accuracy(rows),
        "latency": charts.draw_report_latency(rows),
        "speedup": charts.draw_speedup(rows),
        "size": charts.draw_size(rows),
        "placements": rooflines.draw_placements(source.search),
    }
    return {
        "id": identity,
        "model": report.model,
        "status": report.status,
        "verdict": report.verdict,
        "created_utc": report.created_utc,
        "figures": figures(report),
        "table": table(report),
        "charts": {name: chart for name, chart in charts_by_name.items() if chart},
        "diagram": diagram.draw_blocks(*diagram_input) if diagram_input else [],
        "layers": diagram.layer_rows(*diagram_input) if diagram_input else [],
        "has_noise": source.noise is not None,
        "has_times": bool(times),
        "rooflines": _draw_rooflines(source),
        "changed": changed_images.changed_images(source),
        "calibration": calibration,
        "histograms": list(map(charts.draw_histogram, calibration.drawn)) if calibration else [],
        "provenance": provenance.provenance(source),
        "classes": provenance.class_recalls(report),
        "problems": source.problems,
        "left_out": source.left_out,
    }


def _draw_rooflines(source: Source) -> list[Chart]:
    """A chart of all targets, and the roofline of the build's target or of ``orin-nano-8gb``."""
    overview = rooflines.draw_targets(source.rooflines)
    if overview is None:
        return []
    targets = {
        part
        for one in source.artifacts
        if one.kind == "engine"
        for part in one.path.name.split(".")[2:3]  # a renamed engine may have no target
    } | {"orin-nano-8gb"}
    ranked = sorted(source.rooflines, key=lambda one: one.target not in targets)
    return [overview, rooflines.draw_roofline(ranked[0])]


def figures(report: ReportRecord) -> list[Figure]:
    """Accuracy, speed-up, latency and size of the judged engine, as far as they were measured."""
    subject = report.subjects[0]
    reference = next((row for row in report.rows if row.role is Role.REFERENCE), None)
    candidates = [
        _accuracy_figure(subject),
        _speedup_figure(subject),
        _latency_figure(subject),
        _size_figure(subject, reference),
    ]
    return [figure for figure in candidates if figure]


def _accuracy_figure(row: Row) -> Figure | None:
    if row.accuracy is None:
        return None
    if row.labelled:
        drop, top1 = row.labelled.drop_pp, row.labelled.engine.top1
        note = f"drop {number(drop.value, '+.2f')} pp ({_interval(drop, 1, '.2f')})"
        return Figure(name="top-1", value=f"{number(100 * top1.value, '.2f')} %", note=note)
    agreement = row.accuracy.agreement
    note = f"with the baseline ({_interval(agreement, 100, '.1f')})"
    return Figure(name="agreement", value=f"{number(100 * agreement.value, '.2f')} %", note=note)


def _speedup_figure(row: Row) -> Figure | None:
    if row.speedup is None:
        return None
    note = f"as fast as the FP32 engine ({_interval(row.speedup, 1, '.2f')})"
    return Figure(name="speed-up", value=f"{number(row.speedup.value, '.2f')}x", note=note)


def _latency_figure(row: Row) -> Figure | None:
    if row.latency is None:
        return None
    p50, p90, p99 = map(milliseconds, (row.latency.p50_ms, row.latency.p90_ms, row.latency.p99_ms))
    return Figure(name="latency p50", value=f"{p50} ms", note=f"p90 {p90}, p99 {p99} ms")


def _size_figure(row: Row, reference: Row | None) -> Figure | None:
    if not row.size_bytes:
        return None
    full = reference.size_bytes if reference else None
    note = f"{row.size_bytes / full:.0%} of the FP32 engine" if full else "engine file"
    return Figure(name="size", value=size(row.size_bytes), note=note)


def _interval(estimate: Estimate, factor: float, form: str) -> str:
    lower, upper = (number(factor * bound, form) for bound in (estimate.lower, estimate.upper))
    return f"95 %: {lower} to {upper}"


def _overview_line(source: Source) -> dict[str, Any]:
    report = source.report
    return {
        "path": str(source.path),
        "model": report.model,
        "created_utc": report.created_utc,
        "status": report.status,
        "figures": {figure.name: figure.value for figure in figures(report)},
        "sentence": report.verdict.sentence,
    }
