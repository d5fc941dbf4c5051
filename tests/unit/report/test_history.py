"""Change points over many runs, on series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from edge_inception.report import history
from edge_inception.report.sources import Source
from edge_inception.report.timings import Timing
from edge_inception.validate import report_record


@pytest.mark.parametrize("at", [6, 12, 20])
def test_a_step_is_found_where_it_is(at):
    """A shift of four standard deviations in 26 runs is one change point, at most one run off."""
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=26)
        values[at:] += 4.0
        found = history.change_points(values)
        assert any(abs(one - at) <= 1 for one in found)
        assert len(found) <= 2  # the permutation test is wrong in 0.5 % of the parts


def test_one_wild_run_hides_no_change():
    """A step of 15 % stays visible beside a run that took three times as long."""
    random = np.random.default_rng(3)
    values = np.concatenate((random.normal(14, 0.3, 8), random.normal(16.1, 0.3, 7), [41.0]))
    assert history.change_points(values) == [8]


def test_noise_has_no_change():
    """Of 400 series without a change about one in 200 is called changed; 1.5 % leaves room."""
    random = np.random.default_rng(1)
    wrong = sum(bool(history.change_points(random.normal(size=15))) for _ in range(400))
    assert wrong <= 6


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 12])
def test_too_few_runs_and_equal_runs_have_none(values):
    """Nothing to compare is no change."""
    assert history.change_points(np.array(values)) == []


def test_runs_of_one_engine_are_one_line(report, tmp_path):
    """Reports of the same engine make a chart that tells the change, whatever their order."""
    sources = []
    for day in range(14):
        made = {**report, "created_utc": f"2026-11-{day + 1:02d}T00:00:00Z"}
        row = {**report["rows"][2]}
        ms = (8.0 if day < 7 else 9.0) + 0.02 * (day % 3)
        row["latency"] = {**row["latency"], "p50_ms": ms}
        made["rows"] = [*report["rows"][:2], row]
        found = report_record.convert(made, where="a report")
        sources.append(Source(path=tmp_path / f"{day}.json", report=found))
    latency, _ = history.draw_histories(sources[::-1])
    assert latency.note == "Changed with run 8 of 2026-11-08T00:00:00Z."
    assert "2026-11-08" in latency.wide


def test_records_of_bench_make_a_line_of_their_own(single, as_record, tmp_path):
    """One machine, protocol and engine: the change is told; another fingerprint is not mixed in."""
    timed = []
    for day in range(14):
        ms = (8.0 if day < 7 else 9.0) + 0.02 * (day % 3)
        run = {**single["runs"][0], "median": ms}
        made = {**single, "created_utc": f"2026-11-{day + 1:02d}T00:00:00Z", "runs": [run]}
        timed.append(Timing(path=tmp_path / f"{day}.json", records=(as_record(made),)))
    other = as_record({**single, "fingerprint": "another"})
    timed += [Timing(path=tmp_path / f"other{i}.json", records=(other,)) for i in range(2)]
    (found,) = history.draw_bench_histories(timed[::-1])
    assert found.title == "inception_v4, int8 by openvino, batch 1: median, ms"
    assert found.note == "Changed with run 8 of 2026-11-08T00:00:00Z."
