"""The pairs of a comparison: how B changed against A in each, and the chart of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from edge_inception.latency.record import (
    BASELINE,
    CANDIDATE,
    BenchRecord,
    ResultRecord,
    RunRecord,
)
from edge_inception.latency.regression import log_ratio
from edge_inception.report.vega import NARROW, Chart, draw, finite


def pair_changes(record: BenchRecord) -> list[tuple[int, float]]:
    """Number of each pair and B over A in percent, from the blocks of its two runs.

    A pair whose runs have no blocks that take turns is left out, and so is a record of two days.
    """
    if record.against:
        return []
    blocks = {(run.pair, run.arm): _block_medians(run) for run in record.runs}
    found = []
    for number in sorted({run.pair for run in record.runs}):
        a, b = (blocks.get((number, arm), []) for arm in (BASELINE, CANDIDATE))
        if a and len(a) == len(b) and min(*a, *b) > 0:
            found.append((number, 100 * math.expm1(log_ratio(a, b))))
    return [(number, change) for number, change in found if math.isfinite(change)]


def _block_medians(run: RunRecord) -> list[float]:
    if sum(run.blocks) != len(run.samples_ms) or min(run.blocks, default=0) < 1:
        return []
    ends = [0, *np.cumsum(run.blocks).tolist()]
    return [float(np.median(run.samples_ms[a:b])) for a, b in pairwise(ends)]


def pairs_chart(record: BenchRecord, result: ResultRecord) -> Chart | None:
    """B over A in each pair, the interval of the whole and the limit."""
    changes = pair_changes(record)
    if not changes:
        return None
    limit = 100 * (finite(result.delta) or 0.0)
    band = _band(result)
    dots = [{"pair": number + 1, "change": change} for number, change in changes]
    last = max(number for number, _ in changes) + 1

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


def _band(result: ResultRecord) -> list[Mapping[str, float]]:
    """The interval of the whole in percent; none where a bound is no number."""
    low, high = (finite(bound) for bound in result.ci95 or (None, None))
    if low is None or high is None:
        return []
    return [{"low": 100 * (low - 1), "high": 100 * (high - 1)}]
