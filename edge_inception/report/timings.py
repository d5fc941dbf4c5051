"""Records of ``bench`` and ``compare`` as parts of the page.

A part is a file: an engine at one or several batches, or two engines with the verdict on B. Files
may come from elsewhere; ``latency.record`` has checked their shape, and numbers may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
from edge_inception.report.latency import doubts, memory, status
from edge_inception.report.pairs import pairs_chart
from edge_inception.report.provenance import pairs as fact_pairs
from edge_inception.report.table import DASH, milliseconds, size
from edge_inception.report.vega import Chart, finite

MEASURED = "MEASURED"
"""In the place of a verdict where an engine was timed alone: a latency claims nothing."""

_MOST_LAYERS = 10
_COLUMNS = ("p50", "p90", "p95", "p99", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A file of ``bench``, ``compare`` or ``device.py bench``: its records, as version 2."""

    path: Path
    records: tuple[BenchRecord, ...]

    @property
    def model(self) -> str:
        """Name of the model, of the first record; a dash where it has none."""
        return self.records[0].model.name or DASH

    @property
    def created_utc(self) -> str:
        """Of the first record."""
        return self.records[0].created_utc

    @property
    def status(self) -> str:
        """PASSED, FAILED or INCONCLUSIVE of a comparison, else MEASURED."""
        result = self.records[0].result
        return status(result) if result else MEASURED


def read_timings(paths: Iterable[Path]) -> list[Timing]:
    """Those of the files that hold records of latency; what is none is not looked into.

    Raises:
        InputError: A record is damaged or of a later version.
    """
    return [
        Timing(path=path, records=tuple(read_records(path))) for path in paths if is_record(path)
    ]


def part(timing: Timing, identity: str) -> dict[str, Any]:
    """What the page shows of one file."""
    first = timing.records[0]
    arms = list(_arms(timing))
    drawn = {"latency": charts.latencies([arm.row for arm in arms]), **_more(timing, arms)}
    return {
        "id": identity,
        "model": timing.model,
        "created_utc": timing.created_utc,
        "status": timing.status,
        "sentence": _sentence(timing),
        "figures": figures(timing),
        "columns": _COLUMNS,
        "rows": [_table_row(arm) for arm in arms],
        "charts": {name: chart for name, chart in drawn.items() if chart},
        "doubts": _doubts(timing),
        "layers": _layers(first.layers or ()),
        "has_several": any(len(arm.runs) > 1 for arm in arms),
        "facts": _facts(timing),
        "details": [
            (f"Engine {arm}" if len(first.engines) > 1 else "Engine", _fact_pairs(engine))
            for arm, engine in first.engines.items()
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
    """Layer to ms, of the first of the records that timed the layers of that engine file."""
    for record in (record for one in timed for record in one.records):
        if record.layers is not None and sha256 and record.engine.sha256 == sha256:
            return {layer.name: layer.ms for layer in record.layers if finite(layer.ms)}
    return {}


def line(timing: Timing) -> dict[str, Any]:
    """One file in the overview; of a comparison the figures of B."""
    *_, last = _arms(timing)
    return {
        "path": str(timing.path),
        "model": timing.model,
        "created_utc": timing.created_utc,
        "status": timing.status,
        "figures": {
            "latency p50": f"{milliseconds(_middle(last.runs, _median))} ms",
            "size": size(last.engine.bytes),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """The runs of one engine in one record, and a row as charts take it."""

    name: str
    engine: EngineFacts
    runs: tuple[RunRecord, ...]
    row: charts.Timed


def _arms(timing: Timing) -> Iterator[_Arm]:
    for record in timing.records:
        engines = record.engines
        for arm, engine in engines.items():
            name = f"{arm} {_title(engine)}" if len(engines) > 1 else _title(engine)
            if len(timing.records) > 1:
                name = f"batch {record.protocol.batch}"
            runs = record.runs_of(arm)
            row = charts.Timed(
                name=name,
                is_subject=arm == list(engines)[-1],
                median_ms=_middle(runs, _median),
                samples_ms=[sample for run in runs for sample in run.samples_ms],
            )
            yield _Arm(name=name, engine=engine, runs=runs, row=row)


def _title(engine: EngineFacts) -> str:
    return f"{engine.precision or ''} {engine.backend}".strip()


def _middle(runs: Sequence[RunRecord], figure: Callable[[RunRecord], float | None]) -> float | None:
    """Median over the runs of what is a number; None where none is."""
    values = [value for run in runs if (value := finite(figure(run))) is not None]
    return float(np.median(values)) if values else None


def _median(run: RunRecord) -> float:
    return run.median


def _throughput(run: RunRecord) -> float:
    return run.throughput


def _sentence(timing: Timing) -> str:
    first = timing.records[0]
    if first.result:
        return first.result.sentence
    how, device = first.protocol, first.device
    threads = "" if how.threads is None else f", {how.threads} threads"
    where = device.model or device.cpu or "an unknown machine"
    return f"{_title(first.engine)} on {where}{threads}, fed {how.input}"


def figures(timing: Timing) -> list[dict[str, str]]:
    """What the file is about, in one glance: name, value and what it is compared with."""
    first = timing.records[0]
    return list(_compared(first, first.result) if first.result else _alone(timing))


def _compared(record: BenchRecord, result: ResultRecord) -> Iterator[dict[str, str]]:
    ratio = finite(result.ratio)
    if ratio is not None and result.ci95:
        low, high = (_change(bound) for bound in result.ci95)
        note = f"95 %: {low} to {high}; limit {100 * result.delta:+g} %"
        yield {"name": "B over A", "value": f"{_change(ratio)} %", "note": note}
    for arm, engine in record.engines.items():
        runs = record.runs_of(arm)
        note = f"{_title(engine)}, {size(engine.bytes)}, {len(runs)} processes"
        value = f"{milliseconds(_middle(runs, _median))} ms"
        yield {"name": f"{arm} latency p50", "value": value, "note": note}
    if record.accuracy:
        drop = record.accuracy.drop_pp
        note = f"95 %: {drop.lower:.2f} to {drop.upper:.2f}"
        yield {"name": "top-1 drop", "value": f"{drop.value:+.2f} pp", "note": note}


def _change(ratio: Any) -> str:
    """A ratio as a change in percent, without the sign for it."""
    value = finite(ratio)
    return DASH if value is None else f"{100 * (value - 1):+.1f}"


def _alone(timing: Timing) -> Iterator[dict[str, str]]:
    first = timing.records[0]
    run = first.runs[0]
    tail = f"p90 {_ms(run.p90)} ms" + (f", p99 {_ms(run.p99)} ms" if run.p99 else "")
    yield {"name": "latency p50", "value": f"{_ms(run.median)} ms", "note": tail}
    fastest = max(timing.records, key=lambda one: finite(one.runs[0].throughput) or -math.inf)
    how, speed = fastest.protocol, finite(fastest.runs[0].throughput)
    value = DASH if speed is None else f"{speed:.1f}"
    note = f"images/s at batch {how.batch}"
    note += f", {how.streams} streams" if how.streams != 1 else ""
    yield {"name": "throughput", "value": value, "note": note}
    opened = finite(run.open_s)
    value = DASH if opened is None else f"{opened:.2f} s"
    known = [f"first call {_ms(run.first_ms)} ms"] if run.first_ms else []
    known += [f"memory {memory(finite(run.peak_mib))}"] if run.peak_mib else []
    note = ", ".join(known)
    yield {"name": "opened in", "value": value, "note": note}
    yield {"name": "size", "value": size(first.engine.bytes), "note": "engine file"}


def _ms(value: float | None) -> str:
    return milliseconds(finite(value))


def _table_row(arm: _Arm) -> dict[str, Any]:
    runs = arm.runs
    opened, speed = _middle(runs, lambda run: run.open_s), _middle(runs, _throughput)
    latencies = (
        _middle(runs, _median),
        _middle(runs, lambda run: run.p90),
        _middle(runs, lambda run: run.p95),
        _middle(runs, lambda run: run.p99),
        _middle(runs, lambda run: run.mean),
    )
    return {
        "name": arm.name,
        "path": arm.engine.path,
        "is_subject": arm.row.is_subject,
        "cells": [
            *map(milliseconds, latencies),
            DASH if speed is None else f"{speed:.1f}",
            DASH if opened is None else f"{opened:.2f}",
            milliseconds(_middle(runs, lambda run: run.first_ms)),
            memory(_middle(runs, lambda run: run.peak_mib)),
            str(len(runs)),
            str(sum(run.n for run in runs)),
        ],
    }


def _doubts(timing: Timing) -> list[str]:
    """Warnings of all runs; of several batches each once, with the batch it is of."""
    if len(timing.records) == 1:
        runs = timing.records[0].runs
        return list(runs[0].warnings) if len(runs) == 1 else doubts(timing.records[0])
    return [
        f"batch {record.protocol.batch}: {text}"
        for record in timing.records
        for run in record.runs
        for text in run.warnings
    ]


def _layers(found: Sequence[Layer]) -> list[dict[str, str]]:
    """Executed layers in order, with their share of the time that was counted."""
    total = sum(finite(one.ms) or 0.0 for one in found)
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "kernel": one.kernel,
            "ms": f"{ms:.3f}",
            "share": f"{100 * ms / total:.1f}" if total else DASH,
        }
        for one in found
        if (ms := finite(one.ms)) is not None
    ]


def _slowest(found: Sequence[Layer]) -> Chart | None:
    known = [one for one in found if finite(one.ms) is not None]
    ranked = sorted(known, key=lambda one: -one.ms)[:_MOST_LAYERS]
    values = [
        charts.Point(name=one.name, subject=True, value=one.ms, text=f"{one.ms:.3f}")
        for one in ranked
    ]
    return charts.bars("Slowest layers, ms", values, "ms", "time of the slowest layers")


def _unknown(record: BenchRecord) -> list[tuple[str, str]]:
    """What could not be read, and why."""
    reasons: dict[str, str] = {}
    for run in record.runs:
        reasons |= run.unavailable
    return fact_pairs(dict(sorted(reasons.items())))


def _facts(timing: Timing) -> list[tuple[str, str]]:
    first = timing.records[0]
    found = [("record", str(timing.path)), ("measured", timing.created_utc)]
    found.append(("fingerprint of machine and protocol", first.fingerprint))
    if first.against:
        found.append(("A is of another day", first.against.created_utc))
    return found


def _more(timing: Timing, arms: Sequence[_Arm]) -> dict[str, Chart | None]:
    """The pairs of a comparison, or throughput by batch."""
    first = timing.records[0]
    if first.result:
        return {"pairs": pairs_chart(first, first.result)}
    if len(timing.records) == 1:
        return {"slowest": _slowest(first.layers or ())}
    bars = [
        charts.Point(name=arm.name, subject=arm.row.is_subject, value=speed, text=f"{speed:.1f}")
        for arm in arms
        if (speed := _middle(arm.runs, _throughput)) is not None
    ]
    return {"throughput": charts.bars("Throughput, images/s", bars, "images/s", "throughput")}
