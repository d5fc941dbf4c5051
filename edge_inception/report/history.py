"""Latency or accuracy of one engine over many runs, and the runs at which it changed for good.

The method is binary segmentation (Scott and Knott 1974): a series is split at the point that
explains the largest share of its variance, if a permutation test finds a p-value of at most
``ALPHA``; each part is then split again. Outliers are clipped first, so that a single outlier hides
no change. The test needs about five runs on each side of a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inception.report.charts import quality
from edge_inception.report.sources import Source
from edge_inception.report.timings import Timing
from edge_inception.report.vega import NARROW, TEXT, Chart, draw, finite, layer

ALPHA = 0.005
_PERMUTATIONS = 1999
_FEWEST_ON_A_SIDE = 3
_FEWEST_RUNS = 3
_MOST_SIGMAS = 3.0
_SIGMA_OVER_MAD = 1.4826  # of a normal distribution
_Runs = list[tuple[str, float | None]]


def change_points(values: NDArray[np.float64]) -> list[int]:
    """Indices of the first value after each change, ascending; the random numbers are seeded."""
    if len(values) < 2 * _FEWEST_ON_A_SIDE:
        return []
    clipped = _without_outliers(values)
    split, size = _best_split(clipped[np.newaxis])
    random = np.random.default_rng(0)
    shuffled = random.permuted(np.tile(clipped, (_PERMUTATIONS, 1)), axis=1)
    rarer = int(np.sum(_best_split(shuffled)[1] >= size[0]))
    if (1 + rarer) / (1 + _PERMUTATIONS) > ALPHA:
        return []
    at = int(split[0])
    return [*change_points(values[:at]), at, *(at + one for one in change_points(values[at:]))]


def _without_outliers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values, clipped to ``_MOST_SIGMAS`` robust standard deviations around their median."""
    middle = np.median(values)
    reach = _MOST_SIGMAS * _SIGMA_OVER_MAD * np.median(np.abs(values - middle))
    if reach == 0.0:  # more than half of the values are equal
        return values
    clipped: NDArray[np.float64] = np.clip(values, middle - reach, middle + reach)
    return clipped


def _best_split(rows: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Index of the best split in each row of [R, N], and the share of variance that it explains."""
    count = rows.shape[1]
    centred = rows - rows.mean(axis=1, keepdims=True)
    before = np.cumsum(centred, axis=1)[:, :-1]
    sizes = np.arange(1, count)
    gain = before**2 * count / (sizes * (count - sizes))
    gain = gain[:, _FEWEST_ON_A_SIDE - 1 : count - _FEWEST_ON_A_SIDE]
    best = gain.argmax(axis=1)
    total = np.maximum((centred**2).sum(axis=1), np.finfo(np.float64).tiny)
    return best + _FEWEST_ON_A_SIDE, gain.max(axis=1) / total


def histories(sources: Sequence[Source]) -> list[Chart]:
    """Charts of median latency and accuracy for each engine that is in three reports or more.

    Rows belong to one engine where model, row name, images, CPU and figure are the same.
    """
    runs: dict[tuple[str, ...], tuple[_Runs, _Runs]] = {}
    for report in sorted((one.report for one in sources), key=lambda one: one.created_utc):
        estimate, word = quality(report.rows)
        cpu = report.machine.cpu if report.machine else ""
        for row in report.subjects:
            figure = estimate(row)
            latency = finite(row.latency.p50_ms) if row.latency else None
            accuracy = finite(figure.value) if figure else None
            share = None if accuracy is None else 100 * accuracy
            key = (report.model, row.name, report.data.name, cpu, word)
            times, shares = runs.setdefault(key, ([], []))
            times.append((report.created_utc, latency))
            shares.append((report.created_utc, share))
    charts = []
    for (model, name, _, _, word), (times, shares) in runs.items():
        title = f"{model}, {name}"
        charts.append(_series(times, title, "median, ms"))
        charts.append(_series(shares, title, f"{word}, %"))
    return [chart for chart in charts if chart is not None]


def histories_of_timings(timed: Sequence[Timing]) -> list[Chart]:
    """Charts of median latency for each engine that is in three records of ``bench`` or more.

    Records belong to one engine where model, precision, library, batch size, and the fingerprint
    of machine and protocol are the same.
    """
    runs: dict[tuple[str, ...], list[tuple[str, float | None]]] = {}
    singles = (record for one in timed for record in one.records if record.kind == "single")
    for record in sorted(singles, key=lambda one: one.created_utc):
        engine, batch = record.engine, record.protocol.batch
        key = (
            str(record.model.name),
            f"{engine.precision or ''} by {engine.backend}, batch {batch}".strip(),
            record.fingerprint,
        )
        median = finite(record.runs[0].median)
        runs.setdefault(key, []).append((record.created_utc, median))
    charts = [
        _series(points, f"{model}, {name}", "median, ms")
        for (model, name, _), points in runs.items()
    ]
    return [chart for chart in charts if chart is not None]


def _series(points: Sequence[tuple[str, float | None]], title: str, unit: str) -> Chart | None:
    measured = [(at, value) for at, value in points if value is not None]
    if len(measured) < _FEWEST_RUNS:
        return None
    values = np.array([value for _, value in measured])
    changes = change_points(values)
    dots = [{"run": i + 1, "value": value} for i, (_, value) in enumerate(measured)]
    marks = [{"run": at + 0.5, "text": measured[at][0][:10]} for at in changes]
    starts, ends = [0, *changes], [*changes, len(measured)]
    levels = [
        {"run": a + 0.7, "end": b + 0.3, "value": float(np.median(values[a:b]))}
        for a, b in zip(starts, ends, strict=True)
    ]

    def spec(width: int) -> Mapping[str, Any]:
        y = {
            "field": "value", "type": "quantitative", "title": unit,
            "scale": {"zero": False, "padding": 16}, "axis": {"tickCount": 5},
        }  # fmt: skip
        x = {
            "field": "run", "type": "quantitative", "title": "run, oldest first",
            "scale": {"domain": [0.5, len(measured) + 0.5], "nice": False},
            "axis": {"tickMinStep": 1, "grid": False, "tickCount": 6},
        }  # fmt: skip
        red = "var(--failed)"
        return {
            "height": 200 if width > NARROW else 180,
            "encoding": {"x": x},
            "layer": [
                layer("rule", {"y": y, "x2": {"field": "end"}}, levels, color="var(--quiet)"),
                layer("point", {"y": y}, dots, color="var(--accent)", size=40),
                layer("rule", None, marks, color=red),
                layer("text", TEXT, marks, align="left", dx=4, y=8, color=red),
            ],
        }

    runs = ", ".join(f"run {at + 1} of {measured[at][0]}" for at in changes)
    note = f"Changed with {runs}." if changes else "No change that stands out of the noise."
    lowest, highest = float(values.min()), float(values.max())
    says = f"{title}: {unit} of {len(measured)} runs, {lowest:.4g} to {highest:.4g}. {note}"
    return draw(f"{title}: {unit}", says, spec, note)
