from __future__ import annotations

import json

import numpy as np
import pytest

from edge_inception.latency.machine import describe
from edge_inception.latency.measure import Latency, LatencyOptions
from edge_inception.spec import Gates
from edge_inception.validate.accuracy import compare
from edge_inception.validate.gate import judge
from edge_inception.validate.report_record import (
    Context,
    ReportRecord,
    Role,
    Row,
    ValidationSet,
    to_json,
)
from edge_inception.validate.run import with_speedups

_EYE = np.eye(2, dtype=np.float32)


def _latency(name, *medians):
    return Latency(
        name=name,
        num_calls=len(medians),
        batch=1,
        threads=1,
        p50_ms=2.0,
        p90_ms=2.5,
        p99_ms=None,
        mean_ms=2.1,
        variation=0.1,
        block_medians_ms=medians,
        samples_ms=tuple(median + 0.000_012_34 for median in medians),
        foreign_cores=None,
        info={"threads": 1},
    )


def _row(name, role, **facts):
    precise = {"backend": "openvino", "precision": "fp32", "float_precision": "f32"}
    return Row(name=name, role=role, **(precise | facts))


def _outcome(**changes):
    accuracy = compare(_EYE[[0, 1]], np.array([0, 1]), _EYE[[0, 1]])
    rows = (
        _row("f32", Role.REFERENCE, latency=_latency("f32", 4.0, 4.2), accuracy=accuracy),
        _row("int8", Role.SUBJECT, latency=_latency("int8", 2.0, 2.1), accuracy=accuracy),
        _row("rtx", Role.OTHER, size_bytes=7, note="compiled, not executed here"),
    )
    facts = {
        "model": "tiny",
        "created_utc": "2026-11-23T20:00:00+00:00",
        "data": ValidationSet(name="set", sha256="ab" * 32, num_images=2, classes=()),
        "rows": with_speedups(rows),
        "verdict": judge(Gates(min_sqnr_db=9), accuracy=accuracy, speedup=None),
        "machine": describe(),
        "latency_options": LatencyOptions(),
        "context": Context(engines={}, baseline_sha256="cd" * 32),
    }
    return ReportRecord(**(facts | changes))


def test_the_record_survives_strict_json():
    """What a strict JSON parser reads back is what was written: no NaN, no Infinity, no tuple."""
    record = to_json(_outcome())
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record
    assert (record["schema"], record["schema_version"]) == ("edge-inception/report", 1)


def test_infinite_sqnr_is_the_word_inf():
    """Identical logits give "inf", in the row and in the gate's check."""
    record = to_json(_outcome())
    assert record["rows"][1]["accuracy"]["sqnr_db"] == "inf"
    assert record["verdict"]["checks"][0]["got"] == "inf"
    assert float("inf") == float(record["verdict"]["checks"][0]["got"])


def test_what_was_not_measured_is_null():
    """A row that was only compiled has null, not zero, and its note."""
    row = to_json(_outcome())["rows"][2]
    assert row["accuracy"] is None
    assert row["latency"] is None
    assert row["speedup"] is None
    assert row["note"] == "compiled, not executed here"


def test_samples_can_be_left_out_and_are_rounded():
    """Single latencies are kept to 0.1 us, or dropped on request."""
    kept = to_json(_outcome())["rows"][0]["latency"]["samples_ms"]
    assert kept == [4.0, 4.2]
    assert "samples_ms" not in to_json(_outcome(), with_samples=False)["rows"][0]["latency"]


def test_speedups_are_over_the_reference():
    """Twice as fast in every round is 2x exactly; the reference itself is 1x."""
    rows = _outcome().rows
    assert rows[0].speedup is not None
    assert rows[0].speedup.value == pytest.approx(1)
    assert rows[1].speedup is not None
    assert rows[1].speedup.value == pytest.approx(2)


def test_without_a_reference_there_is_no_speedup():
    """No FP32 engine was timed, so no number is made up."""
    row = _row("int8", Role.SUBJECT, latency=_latency("int8", 2.0, 2.1), note="no accuracy")
    assert with_speedups((row,))[0].speedup is None


def test_a_row_without_measurement_must_say_why():
    """An empty cell needs a note."""
    with pytest.raises(ValueError, match="'rtx' lacks a measurement"):
        _row("rtx", Role.OTHER)


def test_a_report_judges_a_subject():
    """A report of no subject is a wrong call."""
    with pytest.raises(ValueError, match="judges a subject, got none"):
        _outcome(rows=())
