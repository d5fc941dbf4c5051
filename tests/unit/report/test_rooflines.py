"""Estimates on the page: rooflines of targets, and placements that a search tried."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest

from edge_inception import records
from edge_inception.errors import InputError
from edge_inception.quant.search_record import ScoredSet, SearchOutcome, SearchRecord
from edge_inception.report import rooflines
from edge_inception.report.rooflines import LayerCost, Roofline

ROOFLINE = Roofline(
    target="orin",
    precision="int8",
    macs_per_s=1e12,
    bytes_per_s=1e10,
    bound=40.0,
    low=10.0,
    middle=20.0,
    high=30.0,
    compute_share=0.25,
    intensity=4.0,
    layers=(
        LayerCost(macs=1_000_000, num_bytes=100_000, share=0.7),
        LayerCost(macs=0, num_bytes=5_000, share=0.3),
    ),
)
GOOD = ScoredSet(
    keep=("a",),
    drop_pp=0.5,
    noise_to_signal=0.1,
    worst_tenth_noise_to_signal=0.2,
    float_share_of_macs=0.125,
)


@pytest.mark.parametrize(("intensity", "bound_by"), [(4.0, "memory"), (400.0, "compute")])
def test_a_network_is_bound_by_the_side_of_the_ridge_it_is_on(intensity, bound_by):
    """The ridge is peak over bandwidth, here 1e12 / 1e10 = 100 multiply-adds per byte."""
    chart = rooflines.draw_roofline(dataclasses.replace(ROOFLINE, intensity=intensity))
    assert f"bound by {bound_by}; the ridge is at 100" in chart.description
    assert "25%" in chart.note


def test_targets_are_told_with_their_range():
    """Each target has its range and bound; without any there is no chart."""
    one = dataclasses.replace(ROOFLINE, target="t4")
    assert "t4, int8 10 to 30, at most 40" in rooflines.draw_targets([one]).description
    assert rooflines.draw_targets([]) is None


def search(*points):
    """A record of a search that scored these sets and chose the good one."""
    outcome = SearchOutcome(
        metric="top-1 drop",
        num_images=64,
        fp32_top1=None,
        max_drop_pp=1.0,
        drop_type="absolute",
        allowed_pp=1.0,
        is_met=True,
        why="the fewest",
        chosen=GOOD,
        kept={"a": ("conv",)},
        front=points,
    )
    return SearchRecord(schema=1, outcome=outcome, points=points, ranking=())


def test_placements_that_do_not_fit_are_not_drawn():
    """Of a search's points those with numbers are; without any there is no chart."""
    nothing = msgspec.structs.replace(GOOD, float_share_of_macs=math.nan)
    chart = rooflines.draw_placements(search(GOOD, nothing))
    assert chart.description == "1 set of groups in float: 1 group, 12.5 % float, drop 0.50 pp"
    for record in (None, search(), search(nothing)):
        assert rooflines.draw_placements(record) is None


@pytest.mark.parametrize("change", [{"keep": 1}, {"drop_pp": "much"}, {"colour": 1}])
def test_a_damaged_search_is_refused(change):
    """The place of what does not fit is named."""
    value = records.plain(search(GOOD))
    value["points"] = [{**records.plain(GOOD), **change}]
    with pytest.raises(InputError, match=r"search\.json, at points\[0\]"):
        records.convert(SearchRecord, value, where="model.search.json", hint="")
