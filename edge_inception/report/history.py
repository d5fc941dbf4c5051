"""Change points in the latency or accuracy of one engine over many runs, and their charts.

The method is binary segmentation (Scott and Knott 1974): a series is split at the point that
explains the largest share of its variance, if a permutation test finds a p-value of at most
``ALPHA``; each part is then split again. Outliers are clipped first, so that a single outlier hides
no change. The test needs about five runs on each side of a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge_inception.report.charts import accuracy_metric
from edge_inception.report.sources import Source
from edge_inception.report.table import finite
from edge_inception.report.timings import Timing
from edge_inception.report.vega import GREY, HIGHLIGHT, RED, TEXT, Chart, axis, draw, layer

ALPHA = 0.005
_PERMUTATIONS = 1999
_MIN_SEGMENT = 3  # values on each side of a change
_MIN_RUNS = 3
_MAX_SIGMAS = 3.0
_SIGMA_OVER_MAD = 1.4826  # of a normal distribution
_Runs = list[tuple[str, float | None]]  # date and value of each run


def change_points(values: NDArray[np.float64]) -> list[int]:
    """Indices of the first value after each change, ascending; the permutations have a fixed seed.

    Args:
        values: The series, float64 [N], without NaN.
    """
    if len(values) < 2 * _MIN_SEGMENT:
        return []
    clipped = _clip_outliers(values)
    split, explained = _best_split(clipped[np.newaxis])
    random = np.random.default_rng(0)
    permuted = random.permuted(np.tile(clipped, (_PERMUTATIONS, 1)), axis=1)
    num_extreme = int(np.sum(_best_split(permuted)[1] >= explained[0]))
    if (1 + num_extreme) / (1 + _PERMUTATIONS) > ALPHA:
        return []
    at = int(split[0])
    return [*change_points(values[:at]), at, *(at + i for i in change_points(values[at:]))]


def _clip_outliers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values, clipped to ``_MAX_SIGMAS`` robust standard deviations around their median."""
    median = np.median(values)
    reach = _MAX_SIGMAS * _SIGMA_OVER_MAD * np.median(np.abs(values - median))
    if reach == 0.0:  # half of the values or more are equal
        return values
    clipped: NDArray[np.float64] = np.clip(values, median - reach, median + reach)
    return clipped


def _best_split(rows: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Index of the best split in each row of [R, N], and the share of variance that it explains."""
    count = rows.shape[1]
    centred = rows - rows.mean(axis=1, keepdims=True)
    before = np.cumsum(centred, axis=1)[:, :-1]
    sizes = np.arange(1, count)
    gain = before**2 * count / (sizes * (count - sizes))
    gain = gain[:, _MIN_SEGMENT - 1 : count - _MIN_SEGMENT]
    best = gain.argmax(axis=1)
    total = np.maximum((centred**2).sum(axis=1), np.finfo(np.float64).tiny)
    return best + _MIN_SEGMENT, gain.max(axis=1) / total


def draw_histories(sources: Sequence[Source]) -> list[Chart]:
    """Charts of median latency and accuracy for each engine that is in three reports or more.

    Rows belong to one engine where model, row name, images, CPU and accuracy metric are the same.
    """
    runs: dict[tuple[str, ...], tuple[_Runs, _Runs]] = {}
    for report in sorted((one.report for one in sources), key=lambda one: one.created_utc):
        estimate, metric = accuracy_metric(report.rows)
        cpu = report.machine.cpu if report.machine else ""
        for row in report.subjects:
            figure = estimate(row)
            latency = finite(row.latency.p50_ms) if row.latency else None
            percent = finite(100 * figure.value) if figure else None
            key = (report.model, row.name, report.data.name, cpu, metric)
            latencies, accuracies = runs.setdefault(key, ([], []))
            latencies.append((report.created_utc, latency))
            accuracies.append((report.created_utc, percent))
    charts = []
    for (model, name, _, _, metric), (latencies, accuracies) in runs.items():
        charts.append(_draw_series(latencies, f"{model}, {name}", "median, ms"))
        charts.append(_draw_series(accuracies, f"{model}, {name}", f"{metric}, %"))
    return [chart for chart in charts if chart is not None]


def draw_bench_histories(timings: Sequence[Timing]) -> list[Chart]:
    """Charts of median latency for each engine that is in three records of ``bench`` or more.

    Records belong to one engine where model, precision, library, batch size, and the fingerprint
    of machine and protocol are the same.
    """
    runs: dict[tuple[str, ...], _Runs] = {}
    singles = (record for one in timings for record in one.records if record.kind == "single")
    for record in sorted(singles, key=lambda one: one.created_utc):
        engine, batch = record.engine, record.protocol.batch
        key = (
            str(record.model.name),
            f"{engine.precision or ''} by {engine.backend}, batch {batch}".strip(),
            record.fingerprint,
        )
        runs.setdefault(key, []).append((record.created_utc, finite(record.runs[0].median)))
    charts = (
        _draw_series(latencies, f"{model}, {name}", "median, ms")
        for (model, name, _), latencies in runs.items()
    )
    return [chart for chart in charts if chart is not None]


def _draw_series(runs: _Runs, title: str, unit: str) -> Chart | None:
    """Chart of the runs with a number, their median between changes; None for under three."""
    points = [(date, value) for date, value in runs if value is not None]
    if len(points) < _MIN_RUNS:
        return None
    values = np.array([value for _, value in points])
    changes = change_points(values)
    dots = [{"run": index, "value": value} for index, (_, value) in enumerate(points, 1)]
    marks = [{"run": index + 0.5, "text": points[index][0][:10]} for index in changes]
    levels = [
        {"run": a + 0.7, "end": b + 0.3, "value": float(np.median(values[a:b]))}
        for a, b in pairwise([0, *changes, len(points)])
    ]
    y = axis(unit, "value", scale={"zero": False, "padding": 16}, ticks=5)
    domain = [0.5, len(points) + 0.5]
    x = axis(
        "run, oldest first", "run", scale={"domain": domain, "nice": False}, ticks=6,
        tickMinStep=1, grid=False,
    )  # fmt: skip
    spec = {
        "height": 200,
        "encoding": {"x": x},
        "layer": [
            layer("rule", {"y": y, "x2": {"field": "end"}}, levels, color=GREY),
            layer("point", {"y": y}, dots, color=HIGHLIGHT, size=40),
            layer("rule", None, marks, color=RED),
            layer("text", TEXT, marks, align="left", dx=4, y=8, color=RED),
        ],
    }
    texts = ", ".join(f"run {index + 1} of {points[index][0]}" for index in changes)
    note = f"Changed with {texts}." if changes else "No change that stands out of the noise."
    lowest, highest = float(values.min()), float(values.max())
    description = f"{title}: {unit} of {len(points)} runs, {lowest:.4g} to {highest:.4g}. {note}"
    return draw(f"{title}: {unit}", description, spec, note)
