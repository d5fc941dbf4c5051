"""Records of ``bench`` and ``compare`` as sections of the page, one for each file.

A file holds the times of one engine at one or several batch sizes, or those of two engines, A and
B, with the verdict on B. Files may come from other people: ``latency.record`` has checked their
structure, but numbers may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from edge_inception.report.latency import (
    measurement_warnings,
    median,
    memory,
    slowest_first,
    status,
)
from edge_inception.report.pairs import draw_pairs
from edge_inception.report.provenance import field_texts
from edge_inception.report.table import DASH, Figure, finite, milliseconds, number, size
from edge_inception.report.vega import Chart

MEASURED = "MEASURED"
"""Status of an engine that was timed alone, since only a comparison has a verdict."""

_MAX_LAYERS = 10
_COLUMNS = ("p50", "p90", "p95", "p99", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The records in a file of ``bench``, ``compare`` or ``device.py bench``, as version 2."""

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


def section(timing: Timing, identity: str) -> dict[str, Any]:
    """Values of the page's section on one file, for the template timing.html."""
    first = timing.records[0]
    sides = list(_sides(timing))
    charts_by_name = {
        "latency": charts.draw_latency(side.times for side in sides),
        **_further_charts(timing, sides),
    }
    facts = [
        ("record", str(timing.path)),
        ("measured", timing.created_utc),
        ("fingerprint of machine and protocol", first.fingerprint),
    ]
    if first.against:
        facts.append(("A is of another day", first.against.created_utc))
    reasons = {name: why for run in first.runs for name, why in run.unavailable.items()}
    details = {
        f"Engine {side}" if len(first.engines) > 1 else "Engine": records.plain(engine)
        for side, engine in first.engines.items()
    } | {
        "Machine": records.plain(first.device),
        "What the machine does not tell": dict(sorted(reasons.items())),
        "Protocol": records.plain(first.protocol),
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
        "charts": {name: chart for name, chart in charts_by_name.items() if chart},
        "measurement_warnings": _measurement_warnings(timing),
        "layers": _layer_rows(first.layers or ()),
        "has_several": any(len(side.runs) > 1 for side in sides),
        "facts": facts,
        "details": [(title, field_texts(fields)) for title, fields in details.items()],
    }


def layer_times(timings: Iterable[Timing], sha256: str) -> dict[str, float]:
    """Layer name -> time in ms in the engine with this hash, by the first record that has them."""
    for record in (record for timing in timings for record in timing.records):
        if record.layers is not None and sha256 and record.engine.sha256 == sha256:
            return {layer.name: layer.ms for layer in record.layers if finite(layer.ms)}
    return {}


def overview_line(timing: Timing) -> dict[str, Any]:
    """A file's line in the overview; the figures of a comparison are those of B."""
    *_, last = _sides(timing)
    return {
        "path": str(timing.path),
        "model": timing.model,
        "created_utc": timing.created_utc,
        "status": timing.status,
        "figures": {
            "latency p50": f"{milliseconds(last.times.median_ms)} ms",
            "size": size(last.engine.bytes),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """An engine of one record with its runs, and its times for the chart of latency."""

    engine: EngineFacts
    runs: tuple[RunRecord, ...]
    times: charts.EngineTimes

    def median(self, name: str) -> float | None:
        """Median over the runs of the field ``name`` of ``RunRecord``."""
        return median(getattr(run, name) for run in self.runs)


def _sides(timing: Timing) -> Iterator[_Side]:
    for record in timing.records:
        engines = record.engines
        for side, engine in engines.items():
            name = f"{side} {_title(engine)}" if len(engines) > 1 else _title(engine)
            if len(timing.records) > 1:
                name = f"batch {record.protocol.batch}"
            runs = record.runs_of(side)
            times = charts.EngineTimes(
                name=name,
                is_subject=side == list(engines)[-1],
                median_ms=median(run.median for run in runs),
                samples_ms=[sample for run in runs for sample in run.samples_ms],
            )
            yield _Side(engine=engine, runs=runs, times=times)


def _title(engine: EngineFacts) -> str:
    return f"{engine.precision or ''} {engine.backend}".strip()


def _sentence(timing: Timing) -> str:
    first = timing.records[0]
    if first.result:
        return first.result.sentence
    protocol, device = first.protocol, first.device
    threads = "" if protocol.threads is None else f", {protocol.threads} threads"
    machine = device.model or device.cpu or "an unknown machine"
    return f"{_title(first.engine)} on {machine}{threads}, fed {protocol.input}"


def figures(timing: Timing) -> list[Figure]:
    """Main figures of a file: of both engines and their ratio, or of the engine timed alone."""
    result = timing.records[0].result
    return list(_comparison_figures(timing, result) if result else _single_figures(timing))


def _comparison_figures(timing: Timing, result: ResultRecord) -> Iterator[Figure]:
    record = timing.records[0]
    if finite(result.ratio) is not None and result.ci95:
        ratio, low, high = (_percent_change(one) for one in (result.ratio, *result.ci95))
        note = f"95 %: {low} to {high}; limit {100 * result.delta:+g} %"
        yield Figure(name="B over A", value=f"{ratio} %", note=note)
    for side, one in zip(record.engines, _sides(timing), strict=True):
        note = f"{_title(one.engine)}, {size(one.engine.bytes)}, {len(one.runs)} processes"
        value = f"{milliseconds(one.times.median_ms)} ms"
        yield Figure(name=f"{side} latency p50", value=value, note=note)
    if record.accuracy:
        drop = record.accuracy.drop_pp
        note = f"95 %: {drop.lower:.2f} to {drop.upper:.2f}"
        yield Figure(name="top-1 drop", value=f"{drop.value:+.2f} pp", note=note)


def _percent_change(ratio: float | None) -> str:
    """A ratio as a change in percent, such as ``+3.1``."""
    return number(None if ratio is None else 100 * (ratio - 1), "+.1f")


def _single_figures(timing: Timing) -> Iterator[Figure]:
    first = timing.records[0]
    run = first.runs[0]
    note = f"p90 {milliseconds(run.p90)} ms"
    note += f", p99 {milliseconds(run.p99)} ms" if run.p99 else ""
    yield Figure(name="latency p50", value=f"{milliseconds(run.median)} ms", note=note)
    fastest = max(timing.records, key=lambda one: finite(one.runs[0].throughput) or -math.inf)
    protocol = fastest.protocol
    note = f"images/s at batch {protocol.batch}"
    note += f", {protocol.streams} streams" if protocol.streams != 1 else ""
    yield Figure(name="throughput", value=number(fastest.runs[0].throughput, ".1f"), note=note)
    notes = [f"first call {milliseconds(run.first_ms)} ms"] if run.first_ms else []
    notes += [f"memory {memory(run.peak_mib)}"] if run.peak_mib else []
    yield Figure(name="opened in", value=number(run.open_s, ".2f", " s"), note=", ".join(notes))
    yield Figure(name="size", value=size(first.engine.bytes), note="engine file")


def _table_row(side: _Side) -> dict[str, Any]:
    return {
        "name": side.times.name,
        "path": side.engine.path,
        "is_subject": side.times.is_subject,
        "cells": [
            *(milliseconds(side.median(name)) for name in ("median", "p90", "p95", "p99", "mean")),
            number(side.median("throughput"), ".1f"),
            number(side.median("open_s"), ".2f"),
            milliseconds(side.median("first_ms")),
            memory(side.median("peak_mib")),
            str(len(side.runs)),
            str(sum(run.n for run in side.runs)),
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


def _layer_rows(layers: Sequence[Layer]) -> list[dict[str, str]]:
    """Executed layers in order, each with its share of the time of all layers in percent."""
    total = sum(finite(layer.ms) or 0.0 for layer in layers)
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "kernel": layer.kernel,
            "ms": f"{ms:.3f}",
            "share": number(100 * ms / total if total else None, ".1f"),
        }
        for layer in layers
        if (ms := finite(layer.ms)) is not None
    ]


def _further_charts(timing: Timing, sides: Sequence[_Side]) -> Mapping[str, Chart | None]:
    """Chart of the pairs of a comparison, of the slowest layers, or of throughput by batch size."""
    first = timing.records[0]
    if first.result:
        return {"pairs": draw_pairs(first, first.result)}
    if len(timing.records) == 1:
        layers = [
            charts.Point(name=layer.name, is_subject=True, value=layer.ms, text=f"{layer.ms:.3f}")
            for layer in slowest_first(first.layers or ())[:_MAX_LAYERS]
        ]
        quantity = "time of the slowest layers"
        return {"slowest": charts.draw_bars("Slowest layers, ms", layers, "ms", quantity)}
    speeds = [
        charts.Point(
            name=side.times.name, is_subject=side.times.is_subject, value=speed, text=f"{speed:.1f}"
        )
        for side in sides
        if (speed := side.median("throughput")) is not None
    ]
    bars = charts.draw_bars("Throughput, images/s", speeds, "images/s", "throughput")
    return {"throughput": bars}
