"""Records of ``bench`` and ``compare`` as parts of the page.

A part is a file: an engine at one or several batches, or two engines with the verdict on B. Files
may come from elsewhere; ``validate.record`` has checked their shape, and numbers may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edge_inception.latency.record import is_record, read_records
from edge_inception.latency.regression import log_ratio
from edge_inception.report import charts
from edge_inception.report.latency import doubts, memory, status
from edge_inception.report.provenance import pairs as fact_pairs
from edge_inception.report.table import DASH, milliseconds, size
from edge_inception.report.vega import NARROW, Chart, draw, finite

MEASURED = "MEASURED"
"""In the place of a verdict where an engine was timed alone: a latency claims nothing."""

_MOST_LAYERS = 10
_Record = Mapping[str, Any]
_COLUMNS = ("p50", "p90", "p95", "p99", "mean")
_KEYS = ("median", "p90", "p95", "p99", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A file of ``bench``, ``compare`` or ``device.py bench``: its records, as version 2."""

    path: Path
    records: tuple[_Record, ...]

    @property
    def created_utc(self) -> str:
        """Of the first record."""
        return str(self.records[0]["created_utc"])

    @property
    def status(self) -> str:
        """PASSED, FAILED or INCONCLUSIVE of a comparison, else MEASURED."""
        return status(self.records[0]) if "result" in self.records[0] else MEASURED


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
        "model": first["model"]["name"] or DASH,
        "created_utc": timing.created_utc,
        "status": timing.status,
        "sentence": _sentence(timing),
        "figures": figures(timing),
        "columns": _COLUMNS,
        "rows": [_table_row(arm) for arm in arms],
        "charts": {name: chart for name, chart in drawn.items() if chart},
        "doubts": _doubts(timing),
        "layers": _layers(first.get("layers", ())),
        "has_several": any(len(arm.runs) > 1 for arm in arms),
        "facts": _facts(timing),
        "details": [
            (f"Engine {arm}" if len(first["engines"]) > 1 else "Engine", fact_pairs(engine))
            for arm, engine in first["engines"].items()
        ]
        + [
            ("Machine", fact_pairs(first["device"])),
            ("What the machine does not tell", _unknown(first)),
            ("Protocol", fact_pairs(first["protocol"])),
        ],
    }


def times_of(timed: Iterable[Timing], sha256: str) -> dict[str, float]:
    """Layer to ms, of the first of the records that timed the layers of that engine file."""
    for record in (record for one in timed for record in one.records if "layers" in record):
        if sha256 and record["engines"]["A"]["sha256"] == sha256:
            return {one["name"]: one["ms"] for one in record["layers"] if finite(one["ms"])}
    return {}


def line(timing: Timing) -> dict[str, Any]:
    """One file in the overview; of a comparison the figures of B."""
    *_, last = _arms(timing)
    return {
        "path": str(timing.path),
        "model": timing.records[0]["model"]["name"] or DASH,
        "created_utc": timing.created_utc,
        "status": timing.status,
        "figures": {
            "latency p50": f"{milliseconds(_middle(last.runs, 'median'))} ms",
            "size": size(last.engine["bytes"]),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """The runs of one engine in one record, and a row as charts take it."""

    name: str
    engine: Mapping[str, Any]
    runs: tuple[_Record, ...]
    row: charts.Timed


def _arms(timing: Timing) -> Iterator[_Arm]:
    for record in timing.records:
        engines = record["engines"]
        for arm, engine in engines.items():
            runs = tuple(run for run in record["runs"] if run["arm"] == arm)
            name = f"{arm} {_title(engine)}" if len(engines) > 1 else _title(engine)
            if len(timing.records) > 1:
                name = f"batch {record['protocol']['batch']}"
            samples = [sample for run in runs for sample in run["samples_ms"]]
            row = charts.Timed(
                name=name,
                is_subject=arm == list(engines)[-1],
                median_ms=_middle(runs, "median"),
                samples_ms=samples,
            )
            yield _Arm(name=name, engine=engine, runs=runs, row=row)


def _title(engine: Mapping[str, Any]) -> str:
    return f"{engine['precision'] or ''} {engine['backend']}".strip()


def _middle(runs: Sequence[_Record], key: str) -> float | None:
    """Median over the runs of what is a number; None where none is."""
    values = [value for run in runs if (value := finite(run[key])) is not None]
    return float(np.median(values)) if values else None


def _sentence(timing: Timing) -> str:
    first = timing.records[0]
    if "result" in first:
        return str(first["result"]["sentence"])
    engine, how = first["engines"]["A"], first["protocol"]
    threads = "" if how["threads"] is None else f", {how['threads']} threads"
    where = first["device"].get("model") or first["device"].get("cpu") or "an unknown machine"
    return f"{_title(engine)} on {where}{threads}, fed {how['input']}"


def figures(timing: Timing) -> list[dict[str, str]]:
    """What the file is about, in one glance: name, value and what it is compared with."""
    found = _compared(timing.records[0]) if "result" in timing.records[0] else _alone(timing)
    return [figure for figure in found if figure]


def _compared(record: _Record) -> Iterator[dict[str, str]]:
    result = record["result"]
    ratio, interval = finite(result["ratio"]), result["ci95"] or ()
    if ratio is not None and len(interval) == 2:  # noqa: PLR2004 -- lower and upper
        low, high = (_change(bound) for bound in interval)
        note = f"95 %: {low} to {high}; limit {100 * result['delta']:+g} %"
        yield {"name": "B over A", "value": f"{_change(ratio)} %", "note": note}
    for arm, engine in record["engines"].items():
        runs = [run for run in record["runs"] if run["arm"] == arm]
        note = f"{_title(engine)}, {size(engine['bytes'])}, {len(runs)} processes"
        value = f"{milliseconds(_middle(runs, 'median'))} ms"
        yield {"name": f"{arm} latency p50", "value": value, "note": note}
    if record.get("accuracy"):
        drop = record["accuracy"]["drop_pp"]
        note = f"95 %: {drop['lower']:.2f} to {drop['upper']:.2f}"
        yield {"name": "top-1 drop", "value": f"{drop['value']:+.2f} pp", "note": note}


def _change(ratio: Any) -> str:
    """A ratio as a change in percent, without the sign for it."""
    value = finite(ratio)
    return DASH if value is None else f"{100 * (value - 1):+.1f}"


def _alone(timing: Timing) -> Iterator[dict[str, str]]:
    first = timing.records[0]
    run = first["runs"][0]
    tail = f"p90 {_ms(run['p90'])} ms" + (f", p99 {_ms(run['p99'])} ms" if run["p99"] else "")
    yield {"name": "latency p50", "value": f"{_ms(run['median'])} ms", "note": tail}
    fastest = max(timing.records, key=lambda one: finite(one["runs"][0]["throughput"]) or -math.inf)
    how, speed = fastest["protocol"], finite(fastest["runs"][0]["throughput"])
    value = DASH if speed is None else f"{speed:.1f}"
    note = f"images/s at batch {how['batch']}"
    note += f", {how['streams']} streams" if how["streams"] != 1 else ""
    yield {"name": "throughput", "value": value, "note": note}
    opened = finite(run["open_s"])
    value = DASH if opened is None else f"{opened:.2f} s"
    known = [f"first call {_ms(run['first_ms'])} ms"] if run["first_ms"] else []
    known += [f"memory {memory(finite(run['peak_mib']))}"] if run["peak_mib"] else []
    note = ", ".join(known)
    yield {"name": "opened in", "value": value, "note": note}
    engine = first["engines"]["A"]
    yield {"name": "size", "value": size(engine["bytes"]), "note": "engine file"}


def _ms(value: Any) -> str:
    return milliseconds(finite(value))


def _table_row(arm: _Arm) -> dict[str, Any]:
    opened, peak = _middle(arm.runs, "open_s"), _middle(arm.runs, "peak_mib")
    speed = _middle(arm.runs, "throughput")
    return {
        "name": arm.name,
        "path": arm.engine["path"],
        "is_subject": arm.row.is_subject,
        "cells": [
            *(milliseconds(_middle(arm.runs, key)) for key in _KEYS),
            DASH if speed is None else f"{speed:.1f}",
            DASH if opened is None else f"{opened:.2f}",
            milliseconds(_middle(arm.runs, "first_ms")),
            memory(peak),
            str(len(arm.runs)),
            str(sum(run["n"] for run in arm.runs)),
        ],
    }


def _doubts(timing: Timing) -> list[str]:
    """Warnings of all runs; of several batches each once, with the batch it is of."""
    if len(timing.records) == 1:
        runs = timing.records[0]["runs"]
        return list(runs[0]["warnings"]) if len(runs) == 1 else doubts(timing.records[0])
    return [
        f"batch {record['protocol']['batch']}: {text}"
        for record in timing.records
        for run in record["runs"]
        for text in run["warnings"]
    ]


def _layers(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Executed layers in order, with their share of the time that was counted."""
    total = sum(finite(one["ms"]) or 0.0 for one in found)
    return [
        {
            **{key: str(one[key]) for key in ("name", "kind", "kernel")},
            "ms": f"{ms:.3f}",
            "share": f"{100 * ms / total:.1f}" if total else DASH,
        }
        for one in found
        if (ms := finite(one["ms"])) is not None
    ]


def _slowest(found: Sequence[Mapping[str, Any]]) -> Chart | None:
    known = [one for one in found if finite(one["ms"]) is not None]
    ranked = sorted(known, key=lambda one: -float(one["ms"]))[:_MOST_LAYERS]
    values = [
        charts.Point(name=one["name"], subject=True, value=one["ms"], text=f"{one['ms']:.3f}")
        for one in ranked
    ]
    return charts.bars("Slowest layers, ms", values, "ms", "time of the slowest layers")


def _unknown(record: _Record) -> list[tuple[str, str]]:
    """What could not be read, and why."""
    reasons: dict[str, Any] = {}
    for run in record["runs"]:
        reasons |= run["unavailable"]
    return fact_pairs(dict(sorted(reasons.items())))


def _facts(timing: Timing) -> list[tuple[str, str]]:
    first = timing.records[0]
    found = [("record", str(timing.path)), ("measured", timing.created_utc)]
    found.append(("fingerprint of machine and protocol", first["fingerprint"]))
    if isinstance(first.get("against"), dict):
        found.append(("A is of another day", str(first["against"].get("created_utc"))))
    return found


def _more(timing: Timing, arms: Sequence[_Arm]) -> dict[str, Chart | None]:
    """The pairs of a comparison, or throughput by batch."""
    first = timing.records[0]
    if "result" in first:
        return {"pairs": _pairs_chart(first)}
    if len(timing.records) == 1:
        return {"slowest": _slowest(first.get("layers", ()))}
    bars = [
        charts.Point(name=arm.name, subject=arm.row.is_subject, value=speed, text=f"{speed:.1f}")
        for arm in arms
        if (speed := _middle(arm.runs, "throughput")) is not None
    ]
    return {"throughput": charts.bars("Throughput, images/s", bars, "images/s", "throughput")}


def pair_changes(record: _Record) -> list[tuple[int, float]]:
    """Number of each pair and B over A in percent, from the blocks of its two runs.

    A pair whose runs have no blocks that take turns is left out, and so is a record of two days.
    """
    by_pair: dict[int, dict[str, list[float]]] = {}
    for run in record["runs"]:
        by_pair.setdefault(int(run["pair"]), {})[run["arm"]] = _block_medians(run)
    found = []
    for number, arms in sorted(by_pair.items()):
        a, b = arms.get("A", []), arms.get("B", [])
        if a and len(a) == len(b) and min(*a, *b) > 0 and "against" not in record:
            found.append((number, 100 * math.expm1(log_ratio(a, b))))
    return [(number, change) for number, change in found if math.isfinite(change)]


def _block_medians(run: _Record) -> list[float]:
    if sum(run["blocks"]) != len(run["samples_ms"]) or min(run["blocks"], default=0) < 1:
        return []
    ends = [0, *np.cumsum(run["blocks"]).tolist()]
    return [float(np.median(run["samples_ms"][a:b])) for a, b in pairwise(ends)]


def _pairs_chart(record: _Record) -> Chart | None:
    """B over A in each pair, the interval of the whole and the limit."""
    changes = pair_changes(record)
    if not changes:
        return None
    result = record["result"]
    limit = 100 * (finite(result["delta"]) or 0.0)
    bounds = [finite(bound) for bound in result["ci95"] or ()]
    has_interval = len(bounds) == 2 and None not in bounds  # noqa: PLR2004 -- lower and upper
    band = [{"low": 100 * (bounds[0] - 1), "high": 100 * (bounds[1] - 1)}] if has_interval else []  # type: ignore[operator]
    dots = [{"pair": number + 1, "change": change} for number, change in changes]
    last = max(dot["pair"] for dot in dots)

    def spec(width: int) -> Mapping[str, Any]:
        y = {
            "type": "quantitative", "title": "B over A, %", "scale": {"zero": True, "padding": 16},
            "axis": {"tickCount": 5, "format": "+~r"},
        }  # fmt: skip
        x = {
            "field": "pair", "type": "quantitative", "title": "pair of fresh processes",
            "scale": {"domain": [0.5, last + 0.5], "nice": False},
            "axis": {"tickMinStep": 1, "grid": False, "tickCount": min(last, 10)},
        }  # fmt: skip
        red = "var(--failed)"
        at_limit = {"data": {"values": [{"change": limit, "text": f"limit {limit:+g} %"}]}}
        place = {"y": {**y, "field": "change"}}
        text = {"text": {"field": "text"}, "x": {"value": 4}}
        return {
            "height": 220 if width > NARROW else 200,
            "layer": [
                {
                    "data": {"values": band},
                    "mark": {"type": "rect", "color": "var(--accent-wash)"},
                    "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
                },
                {
                    **at_limit,
                    "mark": {"type": "rule", "color": red, "strokeDash": [4, 3]},
                    "encoding": place,
                },
                {
                    **at_limit,
                    "mark": {"type": "text", "align": "left", "dy": -8, "color": red},
                    "encoding": {**place, **text},
                },
                {
                    "data": {"values": dots},
                    "mark": {"type": "point", "color": "var(--accent)"},
                    "encoding": {**place, "x": x},
                },
            ],
        }

    values = [change for _, change in changes]
    says = (
        f"change from A to B in {len(changes)} pairs: {min(values):+.1f} % to {max(values):+.1f} %"
        f"; limit {limit:+g} %"
    )
    note = "Each dot is two processes that took turns."
    if band:
        note += " The band is the 95 % interval that the verdict rests on."
    return draw("Change from A to B by pair, %", says, spec, note)
