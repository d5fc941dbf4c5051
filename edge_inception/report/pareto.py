"""Accuracy over latency of all that several reports tried: precisions, placements, models.

Reports stand in one chart where images, machine, threads and batch are the same. Their latencies
are of several sittings, so a small distance between two reports means little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge_inception.report.charts import pareto, quality
from edge_inception.report.provenance import engine_sha256
from edge_inception.report.sources import Source
from edge_inception.report.table import milliseconds
from edge_inception.report.vega import finite

_NOTE = "Of several reports, so not of one sitting: what is close may be equal."
_Row = Mapping[str, Any]


def fronts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Chart and numbered rows of each group of reports that may be compared, two or more.

    Args:
        sources: The newest first; of an engine that several reports timed, the newest counts.
    """
    groups: dict[tuple[str, ...], list[Source]] = {}
    for source in sources:
        groups.setdefault(_conditions(source.report), []).append(source)
    return [front for group in groups.values() if (front := _front(group)) is not None]


def _conditions(report: Mapping[str, Any]) -> tuple[str, ...]:
    """What two reports must have in common to stand in one chart."""
    data, machine, options = report["data"], report["machine"] or {}, report["latency_options"]
    options = options or {}
    told = (data.get("sha256"), machine.get("cpu"), options.get("threads"), options.get("batch"))
    return (data["name"], *map(str, told))


def _front(group: Sequence[Source]) -> dict[str, Any] | None:
    rows = sorted(_tried(group), key=lambda row: float(row["latency"]["p50_ms"]))
    if len({row["place"] for row in rows}) < 2:  # noqa: PLR2004 -- one has a chart of its own
        return None
    estimate, word = quality(rows)
    numbered = [{**row, "number": number} for number, row in enumerate(rows, 1)]
    chart = pareto(numbered, title=f"On {group[0].report['data']['name']}", note=_NOTE)
    lines = [
        {
            "number": row["number"],
            "name": row["name"],
            "place": row["place"],
            "is_subject": row["role"] == "subject",
            "quality": f"{100 * estimate(row)['value']:.2f}",
            "ms": milliseconds(row["latency"]["p50_ms"]),
        }
        for row in numbered
    ]
    return {"chart": chart, "lines": lines, "word": word} if chart else None


def _tried(group: Sequence[Source]) -> Iterator[_Row]:
    """Every engine once, with where its report lies; the model's name where there are several."""
    models = {source.report["model"] for source in group}
    seen = set()
    for source in group:
        model = source.report["model"]
        for row in source.report["rows"]:
            key = (model, row["name"], engine_sha256(source.report, row["name"]))
            if key in seen or not _can_be_drawn(row):
                continue
            seen.add(key)
            name = row["name"] if len(models) == 1 else f"{model} {row['name']}"
            yield {**row, "name": name, "place": str(source.path)}


def _can_be_drawn(row: _Row) -> bool:
    """Is there a latency and an accuracy, and both are numbers?"""
    if not row["latency"] or not row["accuracy"]:
        return False
    found = quality([row])[0](row)
    return finite(row["latency"]["p50_ms"]) is not None and finite(found["value"]) is not None
