"""Records of ``bench`` and ``compare`` as sections of the page, one for each file.

A file holds the times of one engine at one or several batch sizes, or those of two engines, A and
B, with the verdict on B. Files may come from other people: ``latency.record`` has checked their
structure, but numbers may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_inception import records
from edge_inception.latency.facts import EngineFacts
from edge_inception.latency.record import (
    BenchRecord,
    Layer,
    ResultRecord,
    RunRecord,
    is_record,
    read_records,
)
from edge_inception.report import charts
from edge_inception.report.latency import measurement_warnings, memory, middle, status
from edge_inception.report.pairs import pairs_chart
from edge_inception.report.provenance import pairs as fact_pairs
from edge_inception.report.table import DASH, milliseconds, size
from edge_inception.report.vega import Chart, finite

MEASURED = "MEASURED"
"""Status of an engine that was timed alone, since only a comparison has a verdict."""

_MOST_LAYERS = 10
_COLUMNS = ("p50", "p90", "p95", "p99", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Records in a file of ``bench``, ``compare`` or ``device.py bench``, upgraded to schema 2."""

    path: Path
    records: tuple[BenchRecord, ...]

    @property
    def model(self) -> str:
        """Name of the first record's model; a dash where it has none."""
        return self.records[0].model.name or DASH

    @property
    def created_utc(self) -> str:
        """Date and time of the first record."""
        return self.records[0].created_utc

    @property
    def status(self) -> str:
        """PASSED, FAILED or INCONCLUSIVE for a comparison, else MEASURED."""
        result = self.records[0].result
        return status(result) if result else MEASURED


def read_timings(paths: Iterable[Path]) -> list[Timing]:
    """The latency records among the files; other files are skipped.

    Raises:
        InputError: A record is damaged or of a later version.
    """
    return [
        Timing(path=path, records=tuple(read_records(path))) for path in paths if is_record(path)
    ]


def part(timing: Timing, identity: str) -> dict[str, Any]:
    """Content of the page's section on one file."""
    first = timing.records[0]
    sides = list(_sides(timing))
    drawn = {
        "latency": charts.latencies([side.row for side in sides]),
        **_further_charts(timing, sides),
    }
    return {
        "id": identity,
        "model": timing.model,
        "created_utc": timing.created_utc,
        "status": timing.status,
        "sentence": _sentence(timing),
        "figures": figures(timing),
        "columns": _COLUMNS,
        "rows": [_table_row(side) for side in sides],
        "charts": {name: chart for name, chart in drawn.items() if chart},
        "measurement_warnings": _measurement_warnings(timing),
        "layers": _layers(first.layers or ()),
        "has_several": any(len(side.runs) > 1 for side in sides),
        "facts": _facts(timing),
        "details": [
            (f"Engine {side}" if len(first.engines) > 1 else "Engine", _fact_pairs(engine))
            for side, engine in first.engines.items()
        ]
        + [
            ("Machine", _fact_pairs(first.device)),
            ("What the machine does not tell", _unknown(first)),
            ("Protocol", _fact_pairs(first.protocol)),
        ],
    }


def _fact_pairs(record: records.Record) -> list[tuple[str, str]]:
    return fact_pairs(records.plain(record))


def times_of(timed: Iterable[Timing], sha256: str) -> dict[str, float]:
    """Layer name -> time in ms in the engine with this hash, by the first record that has them."""
    for record in (record for timing in timed for record in timing.records):
        if record.layers is not None and sha256 and record.engine.sha256 == sha256:
            return {layer.name: layer.ms for layer in record.layers if finite(layer.ms)}
    return {}


def line(timing: Timing) -> dict[str, Any]:
    """A file's line in the overview; the figures of a comparison are those of B."""
    *_, last = _sides(timing)
    return {
        "path": str(timing.path),
        "model": timing.model,
        "created_utc": timing.created_utc,
        "status": timing.status,
        "figures": {
            "latency p50": f"{_median_ms(last.runs)} ms",
            "size": size(last.engine.bytes),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """An engine of one record with its runs, and its row for charts."""

    engine: EngineFacts
    runs: tuple[RunRecord, ...]
    row: charts.Timed

    @property
    def throughput(self) -> float | None:
        """Median over the runs, in images/s."""
        return middle(run.throughput for run in self.runs)


def _sides(timing: Timing) -> Iterator[_Side]:
    for record in timing.records:
        engines = record.engines
        for side, engine in engines.items():
            name = f"{side} {_title(engine)}" if len(engines) > 1 else _title(engine)
            if len(timing.records) > 1:
                name = f"batch {record.protocol.batch}"
            runs = record.runs_of(side)
            row = charts.Timed(
                name=name,
                is_subject=side == list(engines)[-1],
                median_ms=middle(run.median for run in runs),
                samples_ms=[sample for run in runs for sample in run.samples_ms],
            )
            yield _Side(engine=engine, runs=runs, row=row)


def _title(engine: EngineFacts) -> str:
    return f"{engine.precision or ''} {engine.backend}".strip()


def _median_ms(runs: Sequence[RunRecord]) -> str:
    return milliseconds(middle(run.median for run in runs))


def _sentence(timing: Timing) -> str:
    first = timing.records[0]
    if first.result:
        return first.result.sentence
    protocol, device = first.protocol, first.device
    threads = "" if protocol.threads is None else f", {protocol.threads} threads"
    machine = device.model or device.cpu or "an unknown machine"
    return f"{_title(first.engine)} on {machine}{threads}, fed {protocol.input}"


def figures(timing: Timing) -> list[dict[str, str]]:
    """Main figures of a file, each with ``name``, ``value`` and ``note``."""
    first = timing.records[0]
    return list(_compared(first, first.result) if first.result else _alone(timing))


def _compared(record: BenchRecord, result: ResultRecord) -> Iterator[dict[str, str]]:
    ratio = finite(result.ratio)
    if ratio is not None and result.ci95:
        low, high = (_change(bound) for bound in result.ci95)
        note = f"95 %: {low} to {high}; limit {100 * result.delta:+g} %"
        yield {"name": "B over A", "value": f"{_change(ratio)} %", "note": note}
    for side, engine in record.engines.items():
        runs = record.runs_of(side)
        note = f"{_title(engine)}, {size(engine.bytes)}, {len(runs)} processes"
        yield {"name": f"{side} latency p50", "value": f"{_median_ms(runs)} ms", "note": note}
    if record.accuracy:
        drop = record.accuracy.drop_pp
        note = f"95 %: {drop.lower:.2f} to {drop.upper:.2f}"
        yield {"name": "top-1 drop", "value": f"{drop.value:+.2f} pp", "note": note}


def _change(ratio: Any) -> str:
    """A ratio as a change in percent, such as ``+3.1``."""
    value = finite(ratio)
    return DASH if value is None else f"{100 * (value - 1):+.1f}"


def _alone(timing: Timing) -> Iterator[dict[str, str]]:
    first = timing.records[0]
    run = first.runs[0]
    tail = f"p90 {ms_text(run.p90)} ms" + (f", p99 {ms_text(run.p99)} ms" if run.p99 else "")
    yield {"name": "latency p50", "value": f"{ms_text(run.median)} ms", "note": tail}
    fastest = max(timing.records, key=lambda one: finite(one.runs[0].throughput) or -math.inf)
    protocol, speed = fastest.protocol, finite(fastest.runs[0].throughput)
    value = DASH if speed is None else f"{speed:.1f}"
    note = f"images/s at batch {protocol.batch}"
    note += f", {protocol.streams} streams" if protocol.streams != 1 else ""
    yield {"name": "throughput", "value": value, "note": note}
    opened = finite(run.open_s)
    value = DASH if opened is None else f"{opened:.2f} s"
    notes = [f"first call {ms_text(run.first_ms)} ms"] if run.first_ms else []
    notes += [f"memory {memory(finite(run.peak_mib))}"] if run.peak_mib else []
    yield {"name": "opened in", "value": value, "note": ", ".join(notes)}
    yield {"name": "size", "value": size(first.engine.bytes), "note": "engine file"}


def ms_text(value: float | None) -> str:
    """A time in ms to three significant digits, without the unit; a dash where it is no number."""
    return milliseconds(finite(value))


def _table_row(side: _Side) -> dict[str, Any]:
    runs = side.runs
    opened, speed = middle(run.open_s for run in runs), side.throughput
    latencies = zip(
        *((run.median, run.p90, run.p95, run.p99, run.mean) for run in runs), strict=True
    )
    return {
        "name": side.row.name,
        "path": side.engine.path,
        "is_subject": side.row.is_subject,
        "cells": [
            *(milliseconds(middle(figures)) for figures in latencies),
            DASH if speed is None else f"{speed:.1f}",
            DASH if opened is None else f"{opened:.2f}",
            milliseconds(middle(run.first_ms for run in runs)),
            memory(middle(run.peak_mib for run in runs)),
            str(len(runs)),
            str(sum(run.n for run in runs)),
        ],
    }


def _measurement_warnings(timing: Timing) -> list[str]:
    """Warnings of all runs, with the batch size where the file has several."""
    if len(timing.records) == 1:
        runs = timing.records[0].runs
        return list(runs[0].warnings) if len(runs) == 1 else measurement_warnings(timing.records[0])
    return [
        f"batch {record.protocol.batch}: {text}"
        for record in timing.records
        for run in record.runs
        for text in run.warnings
    ]


def _layers(layers: Sequence[Layer]) -> list[dict[str, str]]:
    """Executed layers in order, each with its share of the time of all layers in percent."""
    total = sum(finite(one.ms) or 0.0 for one in layers)
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "kernel": one.kernel,
            "ms": f"{ms:.3f}",
            "share": f"{100 * ms / total:.1f}" if total else DASH,
        }
        for one in layers
        if (ms := finite(one.ms)) is not None
    ]


def _slowest(layers: Sequence[Layer]) -> Chart | None:
    timed = [one for one in layers if finite(one.ms) is not None]
    ranked = sorted(timed, key=lambda one: -one.ms)[:_MOST_LAYERS]
    values = [
        charts.Point(name=one.name, subject=True, value=one.ms, text=f"{one.ms:.3f}")
        for one in ranked
    ]
    return charts.bars("Slowest layers, ms", values, "ms", "time of the slowest layers")


def _unknown(record: BenchRecord) -> list[tuple[str, str]]:
    """Names of the figures that could not be read, each with the reason."""
    reasons: dict[str, str] = {}
    for run in record.runs:
        reasons |= run.unavailable
    return fact_pairs(dict(sorted(reasons.items())))


def _facts(timing: Timing) -> list[tuple[str, str]]:
    first = timing.records[0]
    facts = [("record", str(timing.path)), ("measured", timing.created_utc)]
    facts.append(("fingerprint of machine and protocol", first.fingerprint))
    if first.against:
        facts.append(("A is of another day", first.against.created_utc))
    return facts


def _further_charts(timing: Timing, sides: Sequence[_Side]) -> dict[str, Chart | None]:
    """Chart of the pairs of a comparison, of the slowest layers, or of throughput by batch size."""
    first = timing.records[0]
    if first.result:
        return {"pairs": pairs_chart(first, first.result)}
    if len(timing.records) == 1:
        return {"slowest": _slowest(first.layers or ())}
    bars = [
        charts.Point(
            name=side.row.name, subject=side.row.is_subject, value=speed, text=f"{speed:.1f}"
        )
        for side in sides
        if (speed := side.throughput) is not None
    ]
    return {"throughput": charts.bars("Throughput, images/s", bars, "images/s", "throughput")}
