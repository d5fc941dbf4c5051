"""Medians and ticks of the report."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from edge_inception.report import page, rooflines
from edge_inception.report.charts import log_ticks
from edge_inception.report.latency import median


def test_the_median_of_an_even_number_is_between_the_two_in_the_middle():
    """NaN and unknown figures are left out."""
    assert median([4.0, None, 1.0, math.nan, 2.0, 3.0]) == 2.5
    assert median([None, math.nan]) is None


@pytest.mark.parametrize("decades", range(1, 20))
def test_there_are_at_most_six_ticks(decades):
    """However many decades the axis spans."""
    assert 1 <= len(log_ticks(1.0, 10.0**decades)) <= 6


def test_a_renamed_engine_does_not_stop_the_page(monkeypatch):
    """An engine whose name has no target is passed over."""
    monkeypatch.setattr(rooflines, "draw_targets", lambda _: "all")
    monkeypatch.setattr(rooflines, "draw_roofline", lambda one: one.target)
    engine = SimpleNamespace(kind="engine", path=SimpleNamespace(name="mine.engine"))
    orin = SimpleNamespace(target="orin-nano-8gb")
    source = SimpleNamespace(artifacts=[engine], rooflines=[orin])
    assert page._draw_rooflines(source) == ["all", "orin-nano-8gb"]
