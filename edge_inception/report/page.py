"""One self-contained HTML page from reports: no script, no network, nothing outside the file.

Templates escape every value; the page's own policy forbids scripts and requests besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2

from edge_inception._version import __version__
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
from edge_inception.report.table import DASH, milliseconds, size, table
from edge_inception.report.timings import Timing
from edge_inception.report.vega import Chart, finite

MOST_DETAILED = 6
"""Reports with a part of their own, the newest of each model; the overview tells of the others."""


def to_html(sources: Sequence[Source], timed: Sequence[Timing] = (), *, created_utc: str) -> str:
    """The page.

    Args:
        sources: Reports; the newest stands first.
        timed: Records of latency, after the reports; one of either at least.
        created_utc: When the page is made.
    """
    ordered = newest_first(sources)
    newest: dict[str, Source] = {}
    for source in ordered:
        newest.setdefault(str(source.report["model"]), source)
    chosen = list(newest.values())[:MOST_DETAILED]
    latest = sorted(timed, key=lambda one: one.created_utc, reverse=True)
    detailed = [_part(source, index, latest) for index, source in enumerate(chosen)]
    measured = [timings.part(one, f"t{i}") for i, one in enumerate(latest[:MOST_DETAILED])]
    anchors = {id(source): part["id"] for source, part in zip(chosen, detailed, strict=True)}
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
    named = [(str(one.report["model"]), one.report["verdict"]["status"]) for one in sources]
    named += [(str(one.records[0].model.name), one.status) for one in timed]
    if len(named) == 1:
        return f"{named[0][1]}: {named[0][0]}"
    models = list(dict.fromkeys(model for model, _ in named))
    return f"{len(named)} results on {', '.join(models[:3])}"


def _part(source: Source, index: int, timed: Sequence[Timing]) -> dict[str, Any]:
    report = source.report
    measured = (source.noise, timings.times_of(timed, _subject_sha256(report)))
    rows = report["rows"]
    drawn = {
        "pareto": charts.pareto(rows),
        "accuracy": charts.accuracy(rows),
        "latency": charts.latency(rows),
        "speedup": charts.speedup(rows),
        "size": charts.size(rows),
        "placements": rooflines.placements(source.search),
    }
    return {
        "id": f"r{index}",
        "model": report["model"],
        "verdict": report["verdict"],
        "created_utc": report["created_utc"],
        "figures": figures(report),
        "table": table(report),
        "charts": {name: chart for name, chart in drawn.items() if chart},
        "diagram": diagram.blocks(source.layers, *measured) if source.layers else [],
        "layers": diagram.lines(source.layers, *measured) if source.layers else [],
        "has_noise": source.noise is not None,
        "has_times": bool(measured[1]),
        "rooflines": _rooflines(source),
        "changed": pictures.changed(source),
        "calibration": pictures.calibration(source.calibration),
        "provenance": provenance.provenance(source),
        "classes": provenance.classes(report),
        "problems": source.problems,
        "left_out": source.left_out,
    }


def _subject_sha256(report: Mapping[str, Any]) -> str:
    """Hash of the engine file that is judged; empty where the report does not have it."""
    subject = next((row["name"] for row in report["rows"] if row["role"] == "subject"), "")
    return provenance.engine_sha256(report, subject)


def _rooflines(source: Source) -> list[Chart]:
    """All targets, and the roof of the one the build is for, or of the smallest Orin."""
    overview = rooflines.targets(source.rooflines)
    if overview is None:
        return []
    made = {str(one.path.name).split(".")[2] for one in source.artifacts if one.kind == "engine"}
    wanted = [*made, "orin-nano-8gb"]
    ranked = sorted(source.rooflines, key=lambda one: one["target"] not in wanted)
    return [overview, rooflines.roofline(ranked[0])]


def figures(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the verdict is about, in one glance: name, value and what it is compared with."""
    subject = next((row for row in report["rows"] if row["role"] == "subject"), None)
    if subject is None:
        return []
    reference = next((row for row in report["rows"] if row["role"] == "reference"), None)
    found = [_quality(subject), _speed(subject), _latency(subject), _size(subject, reference)]
    return [figure for figure in found if figure]


def _quality(row: Mapping[str, Any]) -> dict[str, str]:
    accuracy = row["accuracy"]
    if not accuracy:
        return {}
    if accuracy["labelled"]:
        drop = accuracy["labelled"]["drop_pp"]
        top1 = accuracy["labelled"]["engine"]["top1"]
        against = f"drop {_signed(drop['value'])} pp ({_range(drop, 1, 2)})"
        return {"name": "top-1", "value": f"{_fixed(top1['value'], 100, 2)} %", "note": against}
    agreement = accuracy["agreement"]
    note = f"with the baseline ({_range(agreement, 100, 1)})"
    return {"name": "agreement", "value": f"{_fixed(agreement['value'], 100, 2)} %", "note": note}


def _speed(row: Mapping[str, Any]) -> dict[str, str]:
    found = row["speedup"]
    if not found:
        return {}
    note = f"as fast as the FP32 engine ({_range(found, 1, 2)})"
    return {"name": "speed-up", "value": f"{_fixed(found['value'], 1, 2)}x", "note": note}


def _latency(row: Mapping[str, Any]) -> dict[str, str]:
    found = row["latency"]
    if not found:
        return {}
    tail = f"p90 {_ms(found['p90_ms'])}, p99 {_ms(found['p99_ms'])} ms"
    return {"name": "latency p50", "value": f"{_ms(found['p50_ms'])} ms", "note": tail}


def _size(row: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, str]:
    found = finite(row["size_bytes"])
    if not found:
        return {}
    full = finite(reference["size_bytes"]) if reference else None
    note = f"{found / full:.0%} of the FP32 engine" if full else "engine file"
    return {"name": "size", "value": size(int(found)), "note": note}


def _line(source: Source) -> dict[str, Any]:
    """One report in the overview."""
    report = source.report
    return {
        "path": str(source.path),
        "model": report["model"],
        "created_utc": report["created_utc"],
        "status": report["verdict"]["status"],
        "figures": {figure["name"]: figure["value"] for figure in figures(report)},
        "sentence": report["verdict"]["sentence"],
    }


def _fixed(value: Any, factor: float, digits: int) -> str:
    number = finite(value)
    return DASH if number is None else f"{factor * number:.{digits}f}"


def _signed(value: Any) -> str:
    number = finite(value)
    return DASH if number is None else f"{number:+.2f}"


def _ms(value: Any) -> str:
    return milliseconds(finite(value))


def _range(estimate: Mapping[str, Any], factor: float, digits: int) -> str:
    lower, upper = (_fixed(estimate[name], factor, digits) for name in ("lower", "upper"))
    return f"95 %: {lower} to {upper}"
