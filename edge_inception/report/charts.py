"""The charts of a report, as Vega-Lite: what cannot be drawn, since it is NaN or missing, is not.

Each function gives None where nothing is left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_inception.metrics.intervals import Estimate
from edge_inception.report.table import milliseconds
from edge_inception.report.vega import NARROW, Chart, draw, finite
from edge_inception.validate.report_record import Row

_Rows = Sequence[Row]
_Spec = Mapping[str, Any]
_MOST_LABELS = 6
_ROW_PX, _AROUND_PX = 34, 52
_MOST_TICKS = 120
_LOG_FROM = 6.0
"""Axes are logarithmic when the largest value is this many times the smallest."""
_HALO = {"stroke": "var(--paper)", "strokeWidth": 4, "strokeJoin": "round"}
_ACCENT, _QUIET = "var(--accent)", "var(--quiet)"
_COLOUR = {"condition": {"test": "datum.subject", "value": _ACCENT}, "value": _QUIET}
_LONGEST_NAME_PX, _CHARACTER_PX = 136, 7.4
"""Browsers' fonts are wider than the one that Vega measures with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value with its name and text, and bounds where it has them; ``subject``: it is judged."""

    name: str
    subject: bool
    value: float
    text: str
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """An engine's calls in ms; ``is_subject``: it is judged."""

    name: str
    is_subject: bool
    median_ms: float | None
    samples_ms: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried(Point):
    """A point over its median latency, with what stands beside it."""

    ms: float
    label: str


def accuracy(rows: _Rows) -> Chart | None:
    """Top-1, or agreement where nothing is labelled, with its interval."""
    estimate, word = quality(rows)
    points = [point for row in rows if (point := _point(row, estimate(row), 100.0))]
    says = _told(points, "%", f"{word} with 95 % intervals")
    return _dots(f"{word.capitalize()}, %", points, says, word)


def speedup(rows: _Rows) -> Chart | None:
    """How many times as fast as the FP32 engine, with intervals."""
    points = [point for row in rows if (point := _point(row, row.speedup))]
    says = _told(points, "x", "speed-up over the FP32 engine with 95 % intervals")
    return _dots("Speed-up over the FP32 engine", points, says, "times", ends_at=1.0)


def size(rows: _Rows) -> Chart | None:
    """Bytes of the engine files, in MiB."""
    sizes = [
        Point(name=row.name, subject=row.is_subject, value=mib, text=f"{mib:.1f}")
        for row in rows
        if row.size_bytes and (mib := row.size_bytes / 2**20)
    ]
    return bars("Engine file, MiB", sizes, "MiB", "size of the engine files")


def bars(title: str, values: Sequence[Point], unit: str, word: str) -> Chart | None:
    """A bar for each of the values; None of none."""
    if not values:
        return None

    def spec(_: int) -> _Spec:
        x = {"field": "value", "type": "quantitative", "title": unit, "axis": {"tickCount": 4}}
        layers = [
            {"mark": {"type": "bar", "height": 12}, "encoding": {"color": _COLOUR}},
            {
                "mark": {"type": "text", "align": "left", "dx": 5},
                "encoding": {"text": {"field": "text"}},
            },
        ]
        return _by_name(values, x, layers)

    return draw(title, _told(values, f" {unit}", word), spec)


def latency(rows: _Rows) -> Chart | None:
    """Every timed call of the rows, as ``latencies`` draws them."""
    timed = [
        Timed(
            name=row.name,
            is_subject=row.is_subject,
            median_ms=row.latency.p50_ms,
            # of a report without samples its medians of blocks
            samples_ms=row.latency.samples_ms or row.latency.block_medians_ms,
        )
        for row in rows
        if row.latency
    ]
    return latencies(timed)


def latencies(engines: Sequence[Timed]) -> Chart | None:
    """Every timed call as a tick, the median beneath."""
    timed = [(one, samples) for one in engines if len(samples := _sorted(one.samples_ms))]
    if not timed:
        return None
    ticks = [
        Point(name=one.name, subject=one.is_subject, value=float(value), text="")
        for one, samples in timed
        for value in _thinned(samples)
    ]
    marks = [
        Point(name=one.name, subject=one.is_subject, value=value, text=milliseconds(value))
        for one, _ in timed
        if (value := finite(one.median_ms)) is not None
    ]
    scale = _scale([tick.value for tick in ticks])
    x = {"field": "value", "type": "quantitative", "title": "ms", **scale}

    def spec(_: int) -> _Spec:
        layers = [
            {
                "data": {"values": _data(ticks)},
                "mark": {"type": "tick", "size": 14, "opacity": 0.45, "yOffset": 5},
                "encoding": {"color": _COLOUR},
            },
            {
                "data": {"values": _data(marks)},
                "mark": {"type": "tick", "size": 22, "thickness": 3, "yOffset": 3},
                "encoding": {"color": {"value": "var(--ink)"}},
            },
            {
                "data": {"values": _data(marks)},
                "mark": {"type": "text", "dy": -13},
                "encoding": {"text": {"field": "text"}},
            },
        ]
        return _by_name(ticks, x, layers, row_px=46)

    thinned = any(len(samples) > _MOST_TICKS for _, samples in timed)
    note = "Each thin line is one call, the thick one the median."
    if thinned:
        note = f"{_MOST_TICKS} evenly spaced quantiles of all calls; the thick line is the median."
    says = _told(marks, " ms", "distribution of the latency; medians")
    return draw("Latency of every call, ms", says, spec, note)


def pareto(
    rows: _Rows, *, labels: Sequence[str] = (), title: str = "", note: str = ""
) -> Chart | None:
    """Accuracy over median latency; the line joins what no other row beats in both.

    Args:
        rows: Those with a latency and a quality are drawn.
        labels: What stands beside the points; the names where not given.
        title: Before the chart's own.
        note: Beneath it, after the chart's own.
    """
    estimate, word = quality(rows)
    points = [
        _Tried(**asdict(point), ms=ms, label=label)
        for row, label in zip(rows, labels or [row.name for row in rows], strict=True)
        if row.latency
        and (ms := finite(row.latency.p50_ms)) is not None
        and (point := _point(row, estimate(row), 100.0))
    ]
    if len(points) < 2:  # noqa: PLR2004 -- one point compares nothing
        return None
    front = [points[index] for index in pareto_front([(p.ms, -p.value) for p in points])]
    x_scale = _scale([point.ms for point in points], room=1.25)
    y = {
        "field": "value", "type": "quantitative", "title": f"{word}, %",
        "scale": {"zero": False, "padding": 14}, "axis": {"tickCount": 5},
    }  # fmt: skip

    def spec(width: int) -> _Spec:
        x = {"field": "ms", "type": "quantitative", "title": "median latency, ms", **x_scale}
        layers = [
            {
                "data": {"values": _data(front)},
                "mark": {"type": "line", "color": _QUIET, "strokeDash": [3, 3]},
                "encoding": {"y": y, "order": {"field": "ms"}},
            },
            *_whiskers(points, y),
            *_labels(points, y),
        ]
        return {"height": 260 if width > NARROW else 240, "encoding": {"x": x}, "layer": layers}

    says = "; ".join(f"{p.name} {p.ms:.3g} ms at {p.value:.2f} %" for p in points)
    notes = ["The broken line joins what no other beats in both."] if len(front) > 1 else []
    told = f"{word.capitalize()} over latency"
    return draw(
        f"{title}: {told}" if title else told,
        f"{word} over latency: {says}",
        spec,
        " ".join((*notes, note)).strip(),
    )


def quality(rows: _Rows) -> tuple[Callable[[Row], Estimate | None], str]:
    """Row -> the estimate that tells its quality, and the word for it."""

    def top1(row: Row) -> Estimate | None:
        return row.labelled.engine.top1 if row.labelled else None

    def agreement(row: Row) -> Estimate | None:
        return row.accuracy.agreement if row.accuracy else None

    return (top1, "top-1") if any(row.labelled for row in rows) else (agreement, "agreement")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats, less being better in both, by the first."""
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not found or points[index][1] < points[found[-1]][1]:
            found.append(index)
    return found


def _dots(
    title: str, points: Sequence[Point], says: str, unit: str, *, ends_at: float | None = None
) -> Chart | None:
    """Values with intervals, one line each; a rule at ``ends_at``."""
    if not points:
        return None
    reference = [] if ends_at is None else [{"value": ends_at}]

    def spec(_: int) -> _Spec:
        x = {
            "field": "value", "type": "quantitative", "title": unit,
            "scale": {"zero": False, "padding": 26}, "axis": {"tickCount": 5},
        }  # fmt: skip
        layers: list[Mapping[str, Any]] = [
            {
                "data": {"values": reference},
                "mark": {"type": "rule", "strokeWidth": 1, "color": "var(--muted)"},
                "encoding": {"y": None},
            },
            {
                "mark": "rule",
                "encoding": {
                    "x": {"field": "lower", "type": "quantitative"},
                    "x2": {"field": "upper"},
                    "color": _COLOUR,
                },
            },
            {"mark": "point", "encoding": {"color": _COLOUR}},
            {"mark": {"type": "text", "dy": -11}, "encoding": {"text": {"field": "text"}}},
        ]
        return _by_name(points, x, layers)

    return draw(title, says, spec)


def _by_name(
    points: Sequence[Point], x: _Spec, layers: Sequence[_Spec], *, row_px: int = _ROW_PX
) -> _Spec:
    """A specification with a row per name."""
    names = list(dict.fromkeys(point.name for point in points))
    extent = min(_LONGEST_NAME_PX, _CHARACTER_PX * max(map(len, names)))
    axis = {"grid": False, "labelLimit": 120, "minExtent": extent}
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": axis}
    return {
        "height": len(names) * row_px + _AROUND_PX,
        "data": {"values": _data(points)},
        "encoding": {"x": x, "y": y},
        "layer": list(layers),
    }


def _data(points: Sequence[Point]) -> list[_Spec]:
    return [asdict(point) for point in points]


def _whiskers(points: Sequence[Point], y: _Spec) -> Iterator[_Spec]:
    yield {
        "data": {"values": _data(points)},
        "mark": "rule",
        "encoding": {
            "y": {**y, "field": "lower"},
            "y2": {"field": "upper"},
            "color": _COLOUR,
        },
    }
    yield {
        "data": {"values": _data(points)},
        "mark": {"type": "point", "size": 90},
        "encoding": {"y": y, "color": _COLOUR},
    }


def _labels(points: Sequence[_Tried], y: _Spec) -> Iterator[_Spec]:
    """Names beside the points, towards the middle; neighbours above and below in turn."""
    ordered = sorted(points, key=lambda p: p.ms)
    middle = (ordered[0].ms + ordered[-1].ms) / 2 if ordered else 0.0
    for place, point in enumerate(ordered):
        align, dx = ("left", 9) if point.ms <= middle else ("right", -9)
        mark = {"type": "text", "align": align, "dx": dx, "dy": -10 if place % 2 else 14}
        for look in (_HALO, {}):
            yield {
                "data": {"values": _data([point])},
                "mark": {**mark, **look},
                "encoding": {"y": y, "text": {"field": "label"}},
            }


def _point(row: Row, estimate: Estimate | None, factor: float = 1.0) -> Point | None:
    """Value and bounds times ``factor``; bounds that are no numbers fall on the value."""
    if estimate is None or (value := finite(factor * estimate.value)) is None:
        return None
    lower, upper = finite(factor * estimate.lower), finite(factor * estimate.upper)
    return Point(
        name=row.name,
        subject=row.is_subject,
        value=value,
        lower=value if lower is None else lower,
        upper=value if upper is None else upper,
        text=f"{value:.2f}",
    )


def _sorted(samples: Sequence[float]) -> Any:
    """Finite samples in ms, ascending."""
    return np.sort([value for sample in samples if (value := finite(sample)) is not None])


def _thinned(samples: Any) -> Any:
    if len(samples) <= _MOST_TICKS:
        return samples
    return np.quantile(samples, np.linspace(0, 1, _MOST_TICKS))


def _scale(values: Sequence[float], *, room: float = 1.0) -> dict[str, Any]:
    """A logarithmic axis where values differ much and all are above 0; ``room`` at both ends."""
    least, most = min(values), max(values)
    if least <= 0 or most < _LOG_FROM * least:
        return {"scale": {"zero": False, "padding": 20}, "axis": {"tickCount": 5}}
    return {
        "scale": {"type": "log", "domain": [least / room, most * room], "nice": False},
        "axis": {"values": log_ticks(least, most), "format": "~r"},
    }


def log_ticks(least: float, most: float) -> list[float]:
    """Up to six of 1, 2, 5 times powers of ten from least to most, or of the powers alone."""
    highest = min(int(np.ceil(np.log10(most))), sys.float_info.max_10_exp)
    powers = range(int(np.floor(np.log10(least))), highest + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        found = [
            tick for tick in ticks if least / 1.3 <= tick <= min(most * 1.3, sys.float_info.max)
        ]
        if len(found) <= _MOST_LABELS:
            break
    return found


def _told(points: Sequence[Point], unit: str, lead: str) -> str:
    return f"{lead}: " + "; ".join(f"{p.name} {p.text}{unit}" for p in points)
