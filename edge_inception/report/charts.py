"""The charts of a report, drawn by Vega-Lite; values that are NaN or missing are left out.

Functions that return ``Chart | None`` return None where no value is left to draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_inception.metrics.intervals import Estimate
from edge_inception.report.table import finite, milliseconds
from edge_inception.report.vega import (
    BY_SUBJECT,
    DARK_GREY,
    GREY,
    HIGHLIGHT,
    TEXT,
    Chart,
    axis,
    draw,
    layer,
    name_axis,
)
from edge_inception.validate.report_record import Row

if TYPE_CHECKING:
    from edge_inception.quant.clipping import ClippedTensor

_Spec = Mapping[str, Any]
_MAX_LOG_LABELS = 6  # numbers on a logarithmic axis
_ROW_PX, _AROUND_PX = 34, 52  # height of a row, and of what is above and below all rows
_MAX_TICKS = 120  # thin lines for one engine in the chart of latency
_MIN_LOG_RATIO = 6.0
"""An axis is logarithmic if the largest value is at least this many times the smallest."""
_HALO = {"stroke": "var(--paper)", "strokeWidth": 4, "strokeJoin": "round"}
_MAX_NAME_PX, _CHARACTER_PX = 136, 7.4
"""Width for names: the most, and of one character. Vega's own font is narrower than browsers'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value with its name, its text and its bounds; ``is_subject`` marks the judged engine."""

    name: str
    is_subject: bool
    value: float
    text: str
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTimes:
    """Times of an engine's calls in ms; ``is_subject``: this engine is the judged one."""

    name: str
    is_subject: bool
    median_ms: float | None
    samples_ms: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _AccuracyPoint(Point):
    """An accuracy with the median latency in ms, and the label beside the point."""

    ms: float
    label: str


def draw_accuracy(rows: Sequence[Row]) -> Chart | None:
    """Chart of top-1 with its interval, or of agreement where no image is labelled."""
    estimate, metric = accuracy_metric(rows)
    points = [point for row in rows if (point := _point(row, estimate(row), 100.0))]
    description = _describe(points, "%", f"{metric} with 95 % intervals")
    return _draw_dots(f"{metric.capitalize()}, %", points, description, metric)


def draw_speedup(rows: Sequence[Row]) -> Chart | None:
    """Chart of the speed-up over the FP32 engine, with 95 % intervals."""
    points = [point for row in rows if (point := _point(row, row.speedup))]
    description = _describe(points, "x", "speed-up over the FP32 engine with 95 % intervals")
    return _draw_dots("Speed-up over the FP32 engine", points, description, "times", reference=1.0)


def draw_size(rows: Sequence[Row]) -> Chart | None:
    """Chart of the sizes of the engine files, in MiB."""
    sizes = [
        Point(name=row.name, is_subject=row.is_subject, value=mib, text=f"{mib:.1f}")
        for row in rows
        if row.size_bytes and (mib := row.size_bytes / 2**20)
    ]
    return draw_bars("Engine file, MiB", sizes, "MiB", "size of the engine files")


def draw_bars(title: str, values: Sequence[Point], unit: str, quantity: str) -> Chart | None:
    """Chart with a bar for each value; ``quantity`` names what the values are, in words."""
    if not values:
        return None
    layers = [
        layer("bar", {"color": BY_SUBJECT}, height=12),
        layer("text", TEXT, align="left", dx=5),
    ]
    spec = _rows_by_name(values, axis(unit, "value", ticks=4), layers)
    return draw(title, _describe(values, f" {unit}", quantity), spec, is_height_fixed=True)


def draw_report_latency(rows: Sequence[Row]) -> Chart | None:
    """Chart of every timed call of the rows, as ``draw_latency`` draws it."""
    return draw_latency(
        EngineTimes(
            name=row.name,
            is_subject=row.is_subject,
            median_ms=row.latency.p50_ms,
            # a report may have been written without single calls
            samples_ms=row.latency.samples_ms or row.latency.block_medians_ms,
        )
        for row in rows
        if row.latency
    )


def draw_latency(engines: Iterable[EngineTimes]) -> Chart | None:
    """Chart with a thin line for every timed call and a thick one for the median."""
    pairs = [(one, samples) for one in engines if (samples := _finite_sorted(one.samples_ms))]
    if not pairs:
        return None
    ticks = [
        Point(name=one.name, is_subject=one.is_subject, value=value, text="")
        for one, samples in pairs
        for value in _thin_out(samples)
    ]
    medians = [
        Point(name=one.name, is_subject=one.is_subject, value=value, text=milliseconds(value))
        for one, _ in pairs
        if (value := finite(one.median_ms)) is not None
    ]
    tick = {"color": BY_SUBJECT}, _data(ticks)
    layers = [
        layer("tick", *tick, size=14, opacity=0.45, yOffset=5),
        layer("tick", {"color": {"value": "var(--ink)"}}, _data(medians), size=22, thickness=3,
              yOffset=3),
        layer("text", TEXT, _data(medians), dy=-13),
    ]  # fmt: skip
    note = "Each thin line is one call, the thick one the median."
    if any(len(samples) > _MAX_TICKS for _, samples in pairs):
        note = f"{_MAX_TICKS} evenly spaced quantiles of all calls; the thick line is the median."
    description = _describe(medians, " ms", "distribution of the latency; medians")
    x = axis("ms", "value", **_spread([point.value for point in ticks]))
    spec = _rows_by_name(ticks, x, layers, row_px=46)
    return draw("Latency of every call, ms", description, spec, note, is_height_fixed=True)


def draw_pareto(
    rows: Sequence[Row], *, labels: Sequence[str] = (), title: str = "", note: str = ""
) -> Chart | None:
    """Chart of accuracy over median latency; a line joins the rows that no other row beats in both.

    One row alone is not drawn, since there is nothing to compare it with.

    Args:
        rows: Rows of reports; those with a latency and an accuracy are drawn.
        labels: Texts beside the points, one for each row; by default the names of the rows.
        title: Text before the chart's own title.
        note: Text after the chart's own note.
    """
    estimate, metric = accuracy_metric(rows)
    points = [
        _AccuracyPoint(**asdict(point), ms=ms, label=label)
        for row, label in zip(rows, labels or [row.name for row in rows], strict=True)
        if row.latency
        and (ms := finite(row.latency.p50_ms)) is not None
        and (point := _point(row, estimate(row), 100.0))
    ]
    if len(points) < 2:  # noqa: PLR2004 -- one point compares nothing
        return None
    front = [points[index] for index in pareto_front([(p.ms, -p.value) for p in points])]
    y = axis(f"{metric}, %", "value", scale={"zero": False, "padding": 14}, ticks=5)
    line = {"y": y, "order": {"field": "ms"}}
    bounds = {"y": {**y, "field": "lower"}, "y2": {"field": "upper"}, "color": BY_SUBJECT}
    spread = _spread([point.ms for point in points], margin=1.25)
    spec = {
        "height": 260,
        "encoding": {"x": axis("median latency, ms", "ms", **spread)},
        "layer": [
            layer("line", line, _data(front), color=GREY, strokeDash=[3, 3]),
            layer("rule", bounds, _data(points)),
            layer("point", {"y": y, "color": BY_SUBJECT}, _data(points), size=90),
            *_labels(points, y),
        ],
    }
    texts = "; ".join(f"{p.name} {p.ms:.3g} ms at {p.value:.2f} %" for p in points)
    notes = ["The broken line joins the points that no other beats in both."] * (len(front) > 1)
    own_title = f"{metric.capitalize()} over latency"
    return draw(
        f"{title}: {own_title}" if title else own_title,
        f"{metric} over latency: {texts}",
        spec,
        " ".join((*notes, note)).strip(),
    )


def draw_histogram(tensor: ClippedTensor) -> Chart:
    """Chart of the share of a tensor's values by magnitude, and the amax that was chosen."""
    # a logarithmic axis has no 0: bars start at half of the smallest share
    floor = min((share for share in tensor.shares if share > 0.0), default=1e-6) / 2
    bars = [
        {"from": a, "to": b, "share": share, "floor": floor}
        for (a, b), share in zip(pairwise(tensor.edges), tensor.shares, strict=True)
        if share > 0.0
    ]

    x = axis("magnitude", ticks=4, grid=False)
    y = axis("share", "share", scale={"type": "log", "domainMin": floor}, ticks=4, format="~e")
    bar = {
        "x": {**x, "field": "from"}, "x2": {"field": "to"}, "y": y, "y2": {"field": "floor"},
    }  # fmt: skip
    amax_mark = [{"amax": tensor.amax, "text": f"amax {tensor.amax:.3g}"}]
    at_amax = {"x": {**x, "field": "amax"}}
    spec = {
        "height": 170,
        "layer": [
            layer("rect", bar, bars, color=GREY),
            layer("rule", at_amax, amax_mark, color=HIGHLIGHT),
            layer("text", {**at_amax, **TEXT}, amax_mark, align="right", dx=-5, y=8),
        ],
    }
    description = (
        f"histogram of the magnitudes of {tensor.name}: largest {tensor.observed:.3g}, chosen "
        f"amax {tensor.amax:.3g}"
    )
    return draw(tensor.name, description, spec)


def accuracy_metric(rows: Sequence[Row]) -> tuple[Callable[[Row], Estimate | None], str]:
    """Function from a row to top-1, or to agreement if no row has labels; and the metric's name."""

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


def _draw_dots(
    title: str,
    points: Sequence[Point],
    description: str,
    unit: str,
    *,
    reference: float | None = None,
) -> Chart | None:
    """Chart with a row for each value and its interval, and a vertical line at ``reference``."""
    if not points:
        return None
    lower = {"field": "lower", "type": "quantitative"}
    line = [] if reference is None else [{"value": reference}]
    layers = [
        layer("rule", {"y": None}, line, strokeWidth=1, color=DARK_GREY),
        layer("rule", {"x": lower, "x2": {"field": "upper"}, "color": BY_SUBJECT}),
        layer("point", {"color": BY_SUBJECT}),
        layer("text", TEXT, dy=-11),
    ]
    x = axis(unit, "value", scale={"zero": False, "padding": 26}, ticks=5)
    return draw(title, description, _rows_by_name(points, x, layers), is_height_fixed=True)


def _rows_by_name(
    points: Sequence[Point], x: _Spec, layers: Sequence[_Spec], *, row_px: int = _ROW_PX
) -> _Spec:
    """Specification of a chart with a row for each name."""
    names = list(dict.fromkeys(point.name for point in points))
    width = min(_MAX_NAME_PX, _CHARACTER_PX * max(map(len, names)))
    return {
        "height": len(names) * row_px + _AROUND_PX,
        "data": {"values": _data(points)},
        "encoding": {"x": x, "y": name_axis(120, width)},
        "layer": layers,
    }


def _data(points: Sequence[Point]) -> list[_Spec]:
    return [asdict(point) for point in points]


def _labels(points: Sequence[_AccuracyPoint], y: _Spec) -> Iterator[_Spec]:
    """Labels on the side of a point that faces the middle, above and below the points in turn."""
    ordered = sorted(points, key=lambda point: point.ms)
    middle = (ordered[0].ms + ordered[-1].ms) / 2
    for index, point in enumerate(ordered):
        align, dx = ("left", 9) if point.ms <= middle else ("right", -9)
        text = {"y": y, "text": {"field": "label"}}
        for halo in (_HALO, {}):
            dy = -10 if index % 2 else 14
            yield layer("text", text, _data([point]), align=align, dx=dx, dy=dy, **halo)


def _point(row: Row, estimate: Estimate | None, factor: float = 1.0) -> Point | None:
    """An estimate times ``factor``, None if NaN; a bound that is no number becomes the value."""
    if estimate is None or (value := finite(factor * estimate.value)) is None:
        return None
    lower, upper = finite(factor * estimate.lower), finite(factor * estimate.upper)
    return Point(
        name=row.name,
        is_subject=row.is_subject,
        value=value,
        lower=value if lower is None else lower,
        upper=value if upper is None else upper,
        text=f"{value:.2f}",
    )


def _finite_sorted(samples: Sequence[float]) -> list[float]:
    return sorted(value for sample in samples if (value := finite(sample)) is not None)


def _thin_out(samples: Sequence[float]) -> list[float]:
    """The samples, or as many quantiles as an engine may have ticks."""
    if len(samples) <= _MAX_TICKS:
        return list(samples)
    quantiles: list[float] = np.quantile(samples, np.linspace(0, 1, _MAX_TICKS)).tolist()
    return quantiles


def _spread(values: Sequence[float], *, margin: float = 1.0) -> dict[str, Any]:
    """Scale and ticks for the values, as ``axis`` takes them; ``margin`` widens a log axis."""
    low, high = min(values), max(values)
    if low <= 0 or high < _MIN_LOG_RATIO * low:
        return {"scale": {"zero": False, "padding": 20}, "ticks": 5}
    scale = {"type": "log", "domain": [low / margin, high * margin], "nice": False}
    return {"scale": scale, "values": log_ticks(low, high), "format": "~r"}


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks from ``low`` to ``high`` at 1, 2 and 5 times powers of ten; fewer where over six."""
    highest = min(int(np.ceil(np.log10(high))), sys.float_info.max_10_exp)
    powers = range(int(np.floor(np.log10(low))), highest + 1)
    end = min(high * 1.3, sys.float_info.max)
    ticks: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low / 1.3 <= tick <= end]
        if len(ticks) <= _MAX_LOG_LABELS:
            break
    return ticks[:: -(-len(ticks) // _MAX_LOG_LABELS) or 1]


def _describe(points: Sequence[Point], unit: str, lead: str) -> str:
    return f"{lead}: " + "; ".join(f"{p.name} {p.text}{unit}" for p in points)
