from __future__ import annotations

import dataclasses

import msgspec
import pytest
import sidecars

from edge_inception.latency.measure import Latency
from edge_inception.validate.choice import Candidate, choose
from edge_inception.validate.report_record import Role, Row, Status, Verdict

NOISE = (0.02, -0.01, 0.0, 0.015, -0.02, 0.01)
FP16_PLAN = sidecars.plan(
    num_kernels=178, activation_bytes=124_000_000, total_weight_bytes=85_000_000
)
INT8_PLAN = sidecars.plan(
    num_kernels=269, activation_bytes=182_000_000, total_weight_bytes=45_000_000
)


def _latency(middle):
    blocks = tuple(middle * (1 + error) for error in NOISE)
    return Latency(
        name="engine",
        num_calls=6,
        batch=1,
        threads=1,
        p50_ms=middle,
        p90_ms=middle,
        p99_ms=None,
        mean_ms=middle,
        variation=0.01,
        block_medians_ms=blocks,
        samples_ms=blocks,
        foreign_cores=None,
        info={},
    )


def _candidate(precision, middle=None, status=Status.PASSED, details=None):
    row = Row(
        name=f"{precision.upper()} (here)",
        role=Role.SUBJECT,
        backend="any",
        precision=precision,
        float_precision="f32",
        accuracy=None,
        latency=middle and _latency(middle),
        speedup=None,
        size_bytes=None,
        weight_bytes=None,
        executed_layers={},
        note="not scored in this test",
    )
    verdict = Verdict(status=status, checks=(), sentence="the drop is 3.00 pp")
    return Candidate(row=row, verdict=verdict, details=details or sidecars.engine())


def test_int8_that_is_faster_is_chosen():
    """Twice as fast in every block: the interval lies above 1, and the figure is told."""
    found = choose("here", [_candidate("fp16", 4.0), _candidate("int8", 2.0)])
    assert found.row == "INT8 (here)"
    assert "2.00x" in found.sentence


@pytest.mark.parametrize(("middle", "words"), [(4.0, "not seen to be faster"), (5.0, "slower")])
def test_int8_that_is_not_faster_is_said_so(middle, words):
    """As slow or slower than FP16: FP16 ships, and why is told."""
    found = choose("here", [_candidate("fp16", 4.0), _candidate("int8", middle)])
    assert found.row == "FP16 (here)"
    assert f"INT8 is {words}" in found.sentence


def test_gates_come_before_speed():
    """INT8 that misses a gate loses however fast, and the gate it missed is named."""
    fast = _candidate("int8", 1.0, Status.FAILED)
    found = choose("here", [_candidate("fp16", 4.0), fast])
    assert found.row == "FP16 (here)"
    assert "the drop is 3.00 pp" in found.sentence
    assert found.failed == ("INT8 (here)",)  # an engine that is not left behind
    swapped = choose("here", [_candidate("fp16", 4.0, Status.FAILED), _candidate("int8", 9.0)])
    assert swapped.row == "INT8 (here)"


def test_the_fastest_float_engine_is_the_one_to_beat():
    """INT8 faster than float32 but not than bfloat16 is not chosen."""
    half = _candidate("fp32", 2.0)
    half = dataclasses.replace(half, row=msgspec.structs.replace(half.row, float_precision="bf16"))
    found = choose("here", [half, _candidate("fp16", 4.0), _candidate("int8", 3.0)])
    assert found.sentence.startswith("FP32 at bf16: INT8 is slower")


def test_plans_are_compared_where_nothing_ran():
    """More kernels and more traffic: FP16, with the figures; fewer of both: INT8."""
    worse = [_candidate("fp16", details=FP16_PLAN), _candidate("int8", details=INT8_PLAN)]
    found = choose("rtx", worse)
    assert found.row == "FP16 (here)"
    assert "269 kernels that move 182 MB" in found.sentence
    assert "178 kernels that move 124 MB" in found.sentence
    better = [_candidate("fp16", details=INT8_PLAN), _candidate("int8", details=FP16_PLAN)]
    assert choose("rtx", better).row == "INT8 (here)"


@pytest.mark.parametrize("executed_on", ["", "cpu"])
@pytest.mark.parametrize("float_status", list(Status))
def test_the_better_plan_does_not_outweigh_a_failed_gate(executed_on, float_status):
    """INT8 of fewer kernels, which nothing judges later, loses to FP16, and the gate is named."""
    wanting = _candidate("int8", status=Status.FAILED, details=FP16_PLAN)
    wanting = dataclasses.replace(wanting, executed_on=executed_on)
    found = choose("rtx", [_candidate("fp16", status=float_status, details=INT8_PLAN), wanting])
    assert found.row == "FP16 (here)"
    assert found.sentence.startswith("FP16: INT8 is FAILED: the drop is 3.00 pp")
    assert ("executed on cpu" in found.sentence) == bool(executed_on)


def test_int8_that_is_not_shown_to_be_accurate_loses_to_a_float_that_is():
    """Undecided for INT8 and passed for FP16, as in a choice by latency; and the other way."""
    unsure = _candidate("int8", status=Status.INCONCLUSIVE, details=FP16_PLAN)
    assert choose("rtx", [_candidate("fp16", details=INT8_PLAN), unsure]).row == "FP16 (here)"
    failed = _candidate("fp16", status=Status.FAILED, details=FP16_PLAN)
    assert choose("rtx", [failed, _candidate("int8", details=INT8_PLAN)]).row == "INT8 (here)"


def test_plans_that_tell_nothing():
    """Without figures there is no evidence for INT8."""
    found = choose("rtx", [_candidate("fp16"), _candidate("int8")])
    assert found.row == "FP16 (here)"
    assert "tell nothing" in found.sentence


def test_a_single_engine_is_no_choice():
    """One kind alone is the caller's mistake."""
    with pytest.raises(ValueError, match="nothing to choose"):
        choose("here", [_candidate("fp16", 4.0)])
