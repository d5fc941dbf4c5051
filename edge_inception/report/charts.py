"""The charts of a report, drawn by Vega-Lite; values that are NaN or missing are left out.

Each public function that draws returns None where no value is left to draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_inception.metrics.intervals import Estimate
from edge_inception.report.table import milliseconds
from edge_inception.report.vega import NARROW, TEXT, Chart, draw, finite, layer
from edge_inception.validate.report_record import Row

_Rows = Sequence[Row]
_Spec = Mapping[str, Any]
_MOST_LABELS = 6  # numbers on a logarithmic axis
_ROW_PX, _AROUND_PX = 34, 52  # height of a row, and of what is above and below all rows
_MOST_TICKS = 120  # thin lines for one engine in the chart of latency
_LOG_FROM = 6.0
"""An axis is logarithmic if the largest value is at least this many times the smallest."""
_HALO = {"stroke": "var(--paper)", "strokeWidth": 4, "strokeJoin": "round"}
_ACCENT, _QUIET = "var(--accent)", "var(--quiet)"
_COLOUR = {"condition": {"test": "datum.subject", "value": _ACCENT}, "value": _QUIET}
_LONGEST_NAME_PX, _CHARACTER_PX = 136, 7.4
"""Room for a name: the most, and for each character. Vega's own font is narrower than browsers'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value with its name, its text and its bounds; ``subject`` marks the judged engine."""

    name: str
    subject: bool
    value: float
    text: str
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Times of an engine's calls in ms; ``is_subject``: this engine is the judged one."""

    name: str
    is_subject: bool
    median_ms: float | None
    samples_ms: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried(Point):
    """An accuracy with the median latency in ms, and the label beside the point."""

    ms: float
    label: str


def accuracy(rows: _Rows) -> Chart | None:
    """Chart of top-1 with its interval, or of agreement where no image is labelled."""
    estimate, word = quality(rows)
    points = [point for row in rows if (point := _point(row, estimate(row), 100.0))]
    says = _describe(points, "%", f"{word} with 95 % intervals")
    return _dots(f"{word.capitalize()}, %", points, says, word)


def speedup(rows: _Rows) -> Chart | None:
    """Chart of the speed-up over the FP32 engine, with 95 % intervals."""
    points = [point for row in rows if (point := _point(row, row.speedup))]
    says = _describe(points, "x", "speed-up over the FP32 engine with 95 % intervals")
    return _dots("Speed-up over the FP32 engine", points, says, "times", ends_at=1.0)


def size(rows: _Rows) -> Chart | None:
    """Chart of the sizes of the engine files, in MiB."""
    sizes = [
        Point(name=row.name, subject=row.is_subject, value=mib, text=f"{mib:.1f}")
        for row in rows
        if row.size_bytes and (mib := row.size_bytes / 2**20)
    ]
    return bars("Engine file, MiB", sizes, "MiB", "size of the engine files")


def bars(title: str, values: Sequence[Point], unit: str, word: str) -> Chart | None:
    """Chart with a bar for each value; None where there is no value."""
    if not values:
        return None

    def spec(_: int) -> _Spec:
        x = {"field": "value", "type": "quantitative", "title": unit, "axis": {"tickCount": 4}}
        layers = [
            layer("bar", {"color": _COLOUR}, height=12),
            layer("text", TEXT, align="left", dx=5),
        ]
        return _by_name(values, x, layers)

    return draw(title, _describe(values, f" {unit}", word), spec)


def latency(rows: _Rows) -> Chart | None:
    """Chart of every timed call of the rows, as ``latencies`` draws it."""
    timed = [
        Timed(
            name=row.name,
            is_subject=row.is_subject,
            median_ms=row.latency.p50_ms,
            # a report may have been written without single calls
            samples_ms=row.latency.samples_ms or row.latency.block_medians_ms,
        )
        for row in rows
        if row.latency
    ]
    return latencies(timed)


def latencies(engines: Sequence[Timed]) -> Chart | None:
    """Chart with a thin line for every timed call and a thick one for the median."""
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
        ink = {"color": {"value": "var(--ink)"}}
        layers = [
            layer("tick", {"color": _COLOUR}, _data(ticks), size=14, opacity=0.45, yOffset=5),
            layer("tick", ink, _data(marks), size=22, thickness=3, yOffset=3),
            layer("text", TEXT, _data(marks), dy=-13),
        ]
        return _by_name(ticks, x, layers, row_px=46)

    thinned = any(len(samples) > _MOST_TICKS for _, samples in timed)
    note = "Each thin line is one call, the thick one the median."
    if thinned:
        note = f"{_MOST_TICKS} evenly spaced quantiles of all calls; the thick line is the median."
    says = _describe(marks, " ms", "distribution of the latency; medians")
    return draw("Latency of every call, ms", says, spec, note)


def pareto(
    rows: _Rows, *, labels: Sequence[str] = (), title: str = "", note: str = ""
) -> Chart | None:
    """Chart of accuracy over median latency; a line joins the rows that no other row beats in both.

    Args:
        rows: Rows of reports; those with a latency and an accuracy are drawn.
        labels: Texts beside the points, one for each row; by default the names of the rows.
        title: Text before the chart's own title.
        note: Text after the chart's own note.
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
            layer(
                "line",
                {"y": y, "order": {"field": "ms"}},
                _data(front),
                color=_QUIET,
                strokeDash=[3, 3],
            ),
            *_whiskers(points, y),
            *_labels(points, y),
        ]
        return {"height": 260 if width > NARROW else 240, "encoding": {"x": x}, "layer": layers}

    says = "; ".join(f"{p.name} {p.ms:.3g} ms at {p.value:.2f} %" for p in points)
    notes = ["The broken line joins the points that no other beats in both."] * (len(front) > 1)
    own_title = f"{word.capitalize()} over latency"
    return draw(
        f"{title}: {own_title}" if title else own_title,
        f"{word} over latency: {says}",
        spec,
        " ".join((*notes, note)).strip(),
    )


def quality(rows: _Rows) -> tuple[Callable[[Row], Estimate | None], str]:
    """Function from a row to top-1, or to agreement if no row has labels; and the figure's name."""

    def top1(row: Row) -> Estimate | None:
        return row.labelled.engine.top1 if row.labelled else None

    def agreement(row: Row) -> Estimate | None:
        return row.accuracy.agreement if row.accuracy else None

    return (top1, "top-1") if any(row.labelled for row in rows) else (agreement, "agreement")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points, sorted by first coordinate; less is better in both."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front


def _dots(
    title: str, points: Sequence[Point], says: str, unit: str, *, ends_at: float | None = None
) -> Chart | None:
    """Chart with a row for each value and its interval; ``ends_at`` places a vertical rule."""
    if not points:
        return None
    reference = [] if ends_at is None else [{"value": ends_at}]

    def spec(_: int) -> _Spec:
        x = {
            "field": "value", "type": "quantitative", "title": unit,
            "scale": {"zero": False, "padding": 26}, "axis": {"tickCount": 5},
        }  # fmt: skip
        lower = {"field": "lower", "type": "quantitative"}
        layers = [
            layer("rule", {"y": None}, reference, strokeWidth=1, color="var(--muted)"),
            layer("rule", {"x": lower, "x2": {"field": "upper"}, "color": _COLOUR}),
            layer("point", {"color": _COLOUR}),
            layer("text", TEXT, dy=-11),
        ]
        return _by_name(points, x, layers)

    return draw(title, says, spec)


def _by_name(
    points: Sequence[Point], x: _Spec, layers: Sequence[_Spec], *, row_px: int = _ROW_PX
) -> _Spec:
    """Specification of a chart with a row for each name."""
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
    bounds = {"y": {**y, "field": "lower"}, "y2": {"field": "upper"}, "color": _COLOUR}
    yield layer("rule", bounds, _data(points))
    yield layer("point", {"y": y, "color": _COLOUR}, _data(points), size=90)


def _labels(points: Sequence[_Tried], y: _Spec) -> Iterator[_Spec]:
    """Labels on the side of a point that faces the middle, above and below the points in turn."""
    ordered = sorted(points, key=lambda p: p.ms)
    middle = (ordered[0].ms + ordered[-1].ms) / 2 if ordered else 0.0
    for place, point in enumerate(ordered):
        align, dx = ("left", 9) if point.ms <= middle else ("right", -9)
        text = {"y": y, "text": {"field": "label"}}
        for halo in (_HALO, {}):
            dy = -10 if place % 2 else 14
            yield layer("text", text, _data([point]), align=align, dx=dx, dy=dy, **halo)


def _point(row: Row, estimate: Estimate | None, factor: float = 1.0) -> Point | None:
    """An estimate times ``factor``, None if NaN; a bound that is no number becomes the value."""
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
    """Scale and axis for the values; ``room`` is the factor that widens a logarithmic axis."""
    least, most = min(values), max(values)
    if least <= 0 or most < _LOG_FROM * least:
        return {"scale": {"zero": False, "padding": 20}, "axis": {"tickCount": 5}}
    return {
        "scale": {"type": "log", "domain": [least / room, most * room], "nice": False},
        "axis": {"values": log_ticks(least, most), "format": "~r"},
    }


def log_ticks(least: float, most: float) -> list[float]:
    """Ticks from ``least`` to ``most`` at 1, 2 and 5 times powers of ten; fewer where over six."""
    highest = min(int(np.ceil(np.log10(most))), sys.float_info.max_10_exp)
    powers = range(int(np.floor(np.log10(least))), highest + 1)
    end = min(most * 1.3, sys.float_info.max)
    ticks: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if least / 1.3 <= tick <= end]
        if len(ticks) <= _MOST_LABELS:
            break
    return ticks[:: -(-len(ticks) // _MOST_LABELS) or 1]


def _describe(points: Sequence[Point], unit: str, lead: str) -> str:
    return f"{lead}: " + "; ".join(f"{p.name} {p.text}{unit}" for p in points)
