"""Reports of several builds in one chart of accuracy over latency."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from edge_inception.report.pareto import fronts
from edge_inception.report.sources import Source
from edge_inception.validate import report_record


@pytest.fixture
def source(report):
    """(name, hash of the int8 engine, its ms) -> a report in a folder of that name."""

    def made(name, digest, ms, **changes):
        record = copy.deepcopy(report) | changes
        row = record["rows"][2]
        row["latency"]["p50_ms"] = ms
        record["context"]["engines"] = {row["name"]: {"file": "x.blob", "sha256": digest}}
        found = report_record.convert(record, where=name)
        return Source(path=Path(name, "report.json"), report=found)

    return made


def test_each_engine_stands_once(source):
    """Two placements are two points, the same engine timed again is one; baselines are one."""
    newest, again, other = source("c", "aa", 7.0), source("b", "aa", 8.0), source("a", "bb", 6.0)
    (found,) = fronts([newest, again, other])
    lines = [(one.number, one.name, one.report_path, one.ms) for one in found.rows]
    assert lines == [
        (1, "INT8 (cpu)", "a/report.json", "6.00"),
        (2, "INT8 (cpu)", "c/report.json", "7.00"),
        (3, "engine f32 (cpu)", "c/report.json", "20.0"),
        (4, "PyTorch FP32", "c/report.json", "60.0"),
    ]
    assert "not of one sitting" in found.chart.note


def test_other_conditions_are_another_chart(source, report):
    """Reports on other images, another machine or other threads are not compared."""
    first = source("a", "aa", 7.0)
    for changes in (
        {"data": {**report["data"], "sha256": "cd" * 32}},
        {"machine": {**report["machine"], "cpu": "Other CPU"}},
        {"latency_options": {**report["latency_options"], "threads": 1}},
    ):
        assert fronts([first, source("b", "bb", 8.0, **changes)]) == []


def test_models_are_told_apart(source):
    """Of two models the rows have the model's name."""
    (found,) = fronts([source("a", "aa", 7.0), source("b", "bb", 8.0, model="googlenet")])
    names = [one.name for one in found.rows]
    assert names[:2] == ["inception_v4 INT8 (cpu)", "googlenet INT8 (cpu)"]
