"""Change of latency from A to B in each pair of a comparison, and its chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from edge_inception.latency.record import BASELINE, CANDIDATE, BenchRecord, ResultRecord, RunRecord
from edge_inception.latency.regression import log_ratio
from edge_inception.report.table import finite
from edge_inception.report.vega import HIGHLIGHT, RED, TEXT, Chart, axis, draw, layer


def pair_changes(record: BenchRecord) -> list[tuple[int, float]]:
    """Number of each pair, and the change of its latency from A to B in percent.

    The change compares blocks of calls. Pairs whose two runs have no equal number of blocks are
    left out. A record whose A was measured on another day has no pairs.
    """
    if record.against:
        return []
    blocks = {(run.pair, run.side): _block_medians(run) for run in record.runs}
    changes = []
    for number in sorted({run.pair for run in record.runs}):
        a, b = (blocks.get((number, side), []) for side in (BASELINE, CANDIDATE))
        if a and len(a) == len(b) and min(*a, *b) > 0:
            changes.append((number, 100 * math.expm1(log_ratio(a, b))))
    return [(number, change) for number, change in changes if math.isfinite(change)]


def _block_medians(run: RunRecord) -> list[float]:
    if sum(run.blocks) != len(run.samples_ms) or min(run.blocks, default=0) < 1:
        return []
    ends = [0, *np.cumsum(run.blocks).tolist()]
    return [float(np.median(run.samples_ms[a:b])) for a, b in pairwise(ends)]


def draw_pairs(record: BenchRecord, result: ResultRecord) -> Chart | None:
    """Chart of the change in each pair, with the interval over all pairs and the limit."""
    changes = pair_changes(record)
    if not changes:
        return None
    limit = 100 * (finite(result.delta) or 0.0)
    band = _interval_band(result)
    dots = [{"pair": number + 1, "change": change} for number, change in changes]
    last = max(number for number, _ in changes) + 1

    y = axis("B over A, %", scale={"zero": True, "padding": 16}, ticks=5, format="+~r")
    x = axis(
        "pair of fresh processes", "pair", scale={"domain": [0.5, last + 0.5], "nice": False},
        ticks=min(last, 10), tickMinStep=1, grid=False,
    )  # fmt: skip
    at_limit = [{"change": limit, "text": f"limit {limit:+g} %"}]
    change = {"y": {**y, "field": "change"}}
    interval = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    text = {**change, **TEXT, "x": {"value": 4}}
    spec = {
        "height": 220,
        "layer": [
            layer("rect", interval, band, color="var(--accent-wash)"),
            layer("rule", change, at_limit, color=RED, strokeDash=[4, 3]),
            layer("text", text, at_limit, align="left", dy=-8, color=RED),
            layer("point", {**change, "x": x}, dots, color=HIGHLIGHT),
        ],
    }
    values = [value for _, value in changes]
    description = (
        f"change from A to B in {len(changes)} pairs: {min(values):+.1f} % to {max(values):+.1f} %"
        f"; limit {limit:+g} %"
    )
    note = "Each dot is two processes that took turns."
    if band:
        note += " The band is the 95 % interval that the verdict rests on."
    return draw("Change from A to B by pair, %", description, spec, note)


def _interval_band(result: ResultRecord) -> list[Mapping[str, float]]:
    """The interval of the change over all pairs in percent; empty where a bound is no number."""
    low, high = (finite(bound) for bound in result.ci95 or (None, None))
    if low is None or high is None:
        return []
    return [{"low": 100 * (low - 1), "high": 100 * (high - 1)}]
