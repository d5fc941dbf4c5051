"""Texts of a report's table, for the terminal, Markdown and the HTML page.

No result is computed here. A dash stands for a value that was not measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edge_inception.errors import counted
from edge_inception.metrics.intervals import Estimate
from edge_inception.quant.search_record import ScoredSet, SearchOutcome
from edge_inception.validate.report_record import ReportRecord, Role, Row

DASH = "-"
_MAX_FOREIGN_CORES = 0.1  # cores in use by other programs; a desktop at rest uses a few percent
_KIB = 1024
_MIN_FRONT, _MAX_FRONT = 2, 5  # number of sets listed
_COLUMNS = (
    ("top-1", "%"),
    ("agree", "%"),
    ("SQNR", "dB"),
    ("p50", "ms"),
    ("p90", "ms"),
    ("p99", "ms"),
    ("speed-", "up"),
    ("size", ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A main figure of a report; ``note`` is its interval, or what the figure is compared with."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value as text, and its interval as text, which may be empty."""

    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A row with a cell for each column; ``note_number`` counts from 1, None without a note."""

    name: str
    precision: str
    cells: tuple[Cell, ...]
    is_subject: bool
    note_number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The texts of a report in reading order; ``last_line`` is the verdict.

    ``columns`` are (name, unit). ``checks`` are (status, sentence) of each gate and each warning;
    the status of a warning is WARNING. ``choices`` name the engine chosen for each target. ``kept``
    are the groups that a search left in float, and the reason; a group is the tensors that share a
    scale, with the layers that read them. ``front`` lists sets of such groups by falling top-1
    drop.
    """

    title: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    choices: tuple[str, ...]
    kept: tuple[str, ...]
    front: str
    checks: tuple[tuple[str, str], ...]
    last_line: str


def table(report: ReportRecord) -> Table:
    """The texts of one report."""
    notes: list[str] = []
    rows = tuple(_row(row, notes) for row in report.rows)
    verdict = report.verdict
    return Table(
        title=_title(report),
        columns=_COLUMNS,
        rows=rows,
        notes=tuple(notes),
        choices=tuple(f"{choice.target}: {choice.sentence}" for choice in report.choices),
        kept=_kept(report.search) if report.search else (),
        front=_front(report.search) if report.search else "",
        checks=(
            *((check.status.value, check.sentence) for check in verdict.checks),
            *(("WARNING", sentence) for sentence in verdict.warnings),
        ),
        last_line=verdict.line,
    )


def _kept(search: SearchOutcome) -> tuple[str, ...]:
    """The groups that the search keeps in float, each with its layers; the reason is last."""
    kept = [f"{name}, read by {', '.join(layers)}" for name, layers in search.kept.items()]
    return (*kept, search.why)


def _front(search: SearchOutcome) -> str:
    """The five sets of groups with the lowest top-1 drop on the search's Pareto front, or fewer."""
    steps: list[ScoredSet] = []
    for point in search.front:
        if not steps or point.drop_pp < steps[-1].drop_pp:
            steps.append(point)
    if len(steps) < _MIN_FRONT:
        return ""
    texts: list[str] = []
    for point in steps[-_MAX_FRONT:]:
        groups, share = counted(len(point.keep), "group"), 100 * point.float_share_of_macs
        texts.append(f"{groups}, {share:.1f} % of the multiply-adds: {point.drop_pp:.2f} pp")
    return "; ".join(texts)


def size(num_bytes: int | None) -> str:
    """A size in binary units, such as ``11.7 MiB``; a dash for None."""
    if num_bytes is None:
        return DASH
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < _KIB:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} GiB"


def _row(row: Row, notes: list[str]) -> TableRow:
    number = None
    text = _note(row)
    if text:
        if text not in notes:
            notes.append(text)
        number = notes.index(text) + 1
    latency = row.latency
    quantiles = (latency.p50_ms, latency.p90_ms, latency.p99_ms) if latency else (None, None, None)
    cells = (
        _top1_cell(row),
        *_baseline_cells(row),
        *(Cell(value=milliseconds(value)) for value in quantiles),
        _speedup_cell(row.speedup),
        Cell(value=size(row.size_bytes)),
    )
    return TableRow(
        name=row.name,
        precision=_precision(row),
        cells=cells,
        is_subject=row.is_subject,
        note_number=number,
    )


def _precision(row: Row) -> str:
    """Precisions of graph and float arithmetic: ``fp32``, ``fp32 at bf16``, ``int8, rest f32``."""
    graph, arithmetic = row.precision, row.float_precision
    if not arithmetic or arithmetic == graph.replace("fp", "f"):
        return graph
    return f"{graph}, rest {arithmetic}" if graph == "int8" else f"{graph} at {arithmetic}"


def _note(row: Row) -> str:
    """Reasons for empty cells, the size of the weights, and the executed layers by precision."""
    parts = [row.note] if row.note else []
    if row.weight_bytes is not None:
        parts.append(f"weights {size(row.weight_bytes)}")
    if row.executed_layers:
        by_precision: Counter[str] = Counter()
        for kind, count in row.executed_layers.items():
            by_precision[kind.rpartition(" ")[2]] += count
        layers = (f"{count} {precision}" for precision, count in by_precision.most_common())
        parts.append(f"executed layers: {', '.join(layers)}")
    if row.latency and row.latency.p99_ms is None:
        parts.append("p99 needs 100 timed calls or more")
    if row.accuracy and row.accuracy.labelled is None:
        parts.append("no labels, so no top-1")
    return "; ".join(parts)


def _top1_cell(row: Row) -> Cell:
    if row.labelled is None:
        return Cell(value=DASH)
    top1 = row.labelled.engine.top1
    low, high = 100 * top1.lower, 100 * top1.upper
    return Cell(value=f"{100 * top1.value:.2f}", interval=f"{low:.1f}-{high:.1f}")


def _baseline_cells(row: Row) -> tuple[Cell, Cell]:
    """Agreement with the baseline and SQNR against it; dashes for the baseline itself."""
    if row.accuracy is None or row.role is Role.BASELINE:
        return Cell(value=DASH), Cell(value=DASH)
    agreement = Cell(value=f"{100 * row.accuracy.agreement.value:.2f}")
    return agreement, Cell(value=f"{row.accuracy.sqnr_db:.1f}")


def finite(value: Any) -> float | None:
    """``value`` as a float; None where it is no number, NaN or infinite."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def number(value: float | None, form: str, unit: str = "") -> str:
    """A number such as ``8.25 s``, by a format specification such as ".2f", with its unit.

    A dash, without the unit, stands for None, NaN and infinity.
    """
    known = finite(value)
    return DASH if known is None else f"{known:{form}}{unit}"


def milliseconds(value: float | None) -> str:
    """A time in ms with three decimals below 1, two below 10, else one; a dash if not finite."""
    known = finite(value) or 0.0
    digits = 1 if known >= 10 else 2 if known >= 1 else 3  # noqa: PLR2004 -- decimal places
    return number(value, f".{digits}f")


def _speedup_cell(speedup: Estimate | None) -> Cell:
    if speedup is None:
        return Cell(value=DASH)
    interval = f"{speedup.lower:.2f}-{speedup.upper:.2f}"
    return Cell(
        value=f"{speedup.value:.2f}x", interval="" if speedup.lower == speedup.upper else interval
    )


def _title(report: ReportRecord) -> tuple[str, ...]:
    data = report.data
    lines = [f"{report.model} on {data.num_images} images of {data.name}, 95 % intervals"]
    lines += _accuracy_legend(report)
    machine, options = report.machine, report.latency_options
    if machine and options:
        latencies = [row.latency for row in report.rows if row.latency]
        threads = sorted({latency.threads for latency in latencies})
        lines.append(
            f"latency: batch {options.batch}, {_join(threads)} threads, "
            f"{options.rounds} interleaved rounds, fresh process each"
        )
        lines.append(f"{machine.cpu}: {_join(machine.instruction_sets)}")
        foreign = max((latency.foreign_cores or 0.0 for latency in latencies), default=0.0)
        if foreign > _MAX_FOREIGN_CORES:
            lines.append(f"not a quiet machine: other programs used {foreign:.1f} cores meanwhile")
    return tuple(lines)


def _accuracy_legend(report: ReportRecord) -> list[str]:
    """A line on what agreement and SQNR compare; no line where no accuracy was measured."""
    quantities = [row.accuracy.sqnr_of for row in report.rows if row.accuracy]
    if not quantities or not quantities[-1]:
        return []
    same = "nearest other image" if quantities[-1] == "embeddings" else "top-1"
    return [f"agree: same {same} as the baseline; SQNR: of {quantities[-1]}"]


def _join(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values) or DASH
