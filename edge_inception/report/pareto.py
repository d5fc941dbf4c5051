"""Charts of accuracy over latency for the engines of several reports.

Reports share a chart where images, CPU, threads and batch are the same. The latencies of different
reports were not measured side by side, so a small difference between them means little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from edge_inception.report.charts import accuracy_metric, draw_pareto
from edge_inception.report.provenance import engine_sha256
from edge_inception.report.sources import Source
from edge_inception.report.table import finite, milliseconds, number
from edge_inception.report.vega import Chart
from edge_inception.validate.report_record import ReportRecord, Row

_NOTE = "These latencies are not of one sitting, so points that lie close may be equal."


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRow:
    """An engine in the table beside a chart; ``number`` labels its point in the chart."""

    number: int
    name: str
    report_path: str
    is_subject: bool
    accuracy: str
    ms: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A chart with its table; ``metric`` names the accuracy: "top-1" or "agreement"."""

    chart: Chart
    rows: tuple[FrontRow, ...]
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """An engine that can be drawn, its median latency and the path of its report."""

    row: Row
    ms: float
    report_path: str


def fronts(sources: Sequence[Source]) -> list[Front]:
    """Chart and numbered rows for each group of two or more comparable reports.

    Args:
        sources: Reports from the newest to the oldest; an engine is drawn from its newest report.
    """
    groups: dict[tuple[str, ...], list[Source]] = {}
    for source in sources:
        groups.setdefault(_conditions(source.report), []).append(source)
    return [front for group in groups.values() if (front := _front(group)) is not None]


def _conditions(report: ReportRecord) -> tuple[str, ...]:
    """Conditions that must be equal for two reports to share a chart."""
    data, machine, options = report.data, report.machine, report.latency_options
    protocol = (options.threads, options.batch) if options else ()
    return (data.name, data.sha256, machine.cpu if machine else "", *map(str, protocol))


def _front(group: Sequence[Source]) -> Front | None:
    candidates = sorted(_candidates(group), key=lambda one: one.ms)
    if len({one.report_path for one in candidates}) < 2:  # noqa: PLR2004 -- one has its own chart
        return None
    engine_rows = [one.row for one in candidates]
    estimate, metric = accuracy_metric(engine_rows)
    rows = tuple(
        FrontRow(
            number=index,
            name=one.row.name,
            report_path=one.report_path,
            is_subject=one.row.is_subject,
            accuracy=number(100 * figure.value if (figure := estimate(one.row)) else None, ".2f"),
            ms=milliseconds(one.ms),
        )
        for index, one in enumerate(candidates, 1)
    )
    labels = [str(row.number) for row in rows]
    title = f"On {group[0].report.data.name}"
    chart = draw_pareto(engine_rows, labels=labels, title=title, note=_NOTE)
    return Front(chart=chart, rows=rows, metric=metric) if chart else None


def _candidates(group: Sequence[Source]) -> Iterator[_Candidate]:
    """Engines whose latency and accuracy are numbers, each once, from its first report.

    An engine's name begins with the name of the model where there are several models.
    """
    models = {source.report.model for source in group}
    seen = set()
    for source in group:
        model = source.report.model
        for row in source.report.rows:
            key = (model, row.name, engine_sha256(source.report, row.name))
            figure = accuracy_metric([row])[0](row)
            ms = finite(row.latency.p50_ms) if row.latency else None
            if key in seen or ms is None or figure is None or finite(figure.value) is None:
                continue
            seen.add(key)
            name = row.name if len(models) == 1 else f"{model} {row.name}"
            yield _Candidate(row=replace(row, name=name), ms=ms, report_path=str(source.path))
