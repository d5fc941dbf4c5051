"""Estimates on the page: rooflines of targets, and placements that a search tried."""

from __future__ import annotations

import math

import pytest

from edge_inception.report import rooflines

LAYERS = [
    {"macs": 1_000_000, "num_bytes": 100_000, "share": 0.7},
    {"macs": 0, "num_bytes": 5_000, "share": 0.3},
]


@pytest.mark.parametrize(("intensity", "bound_by"), [(4.0, "memory"), (400.0, "compute")])
def test_a_network_is_bound_by_the_side_of_the_ridge_it_is_on(intensity, bound_by):
    """The ridge is peak over bandwidth, here 1e12 / 1e10 = 100 multiply-adds per byte."""
    one = {
        "target": "orin", "precision": "int8", "macs_per_s": 1e12, "bytes_per_s": 1e10,
        "intensity": intensity, "compute_share": 0.25, "layers": LAYERS,
    }  # fmt: skip
    chart = rooflines.roofline(one)
    assert f"bound by {bound_by}; the ridge is at 100" in chart.says
    assert "25%" in chart.note


def test_targets_are_told_with_their_range():
    """Each target has its range and bound; without any there is no chart."""
    one = {"target": "t4", "precision": "int8", "low": 10.0, "middle": 20.0, "high": 30.0,
           "bound": 40.0}  # fmt: skip
    assert "t4, int8 10 to 30, at most 40" in rooflines.targets([one]).says
    assert rooflines.targets([]) is None


def test_placements_that_do_not_fit_are_not_drawn():
    """Of a search's points those with numbers are; a damaged record makes no chart."""
    good = {"keep": ["a"], "float_share_of_macs": 0.125, "drop_pp": 0.5}
    nothing = {**good, "float_share_of_macs": math.nan}
    bad = [{}, "x", {"keep": 1}, nothing, {**good, "drop_pp": "much"}]
    outcome = {"chosen": good, "front": [good, *bad]}
    chart = rooflines.placements({"points": [good, *bad], "outcome": outcome})
    assert chart.says == "1 set of groups in float: 1 group, 12.5 % float, drop 0.50 pp"
    for record in (None, {}, {"points": bad}, {"points": "x"}, {"points": [], "chosen": 3}):
        assert rooflines.placements(record) is None
