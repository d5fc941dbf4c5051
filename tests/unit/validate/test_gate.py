from __future__ import annotations

import math

import numpy as np
import pytest

from edge_inception.metrics.intervals import Estimate
from edge_inception.quant.search_record import ScoredSet, SearchOutcome
from edge_inception.spec import Gates
from edge_inception.validate.accuracy import compare
from edge_inception.validate.gate import joint, judge
from edge_inception.validate.report_record import Status, Verdict


def _accuracy(*, num=525, lost=0, gained=0, is_labelled=True):
    """Baseline right except on ``gained`` images; the engine flips ``lost`` and ``gained``."""
    labels = np.zeros(num, int)
    before, after = np.zeros(num, int), np.zeros(num, int)
    after[:lost] = 1
    before[lost : lost + gained] = 1
    eye = np.eye(2, dtype=np.float32)
    return compare(eye[before], labels if is_labelled else labels - 1, eye[after])


def _speedup(value, lower, upper):
    return Estimate(value=value, lower=lower, upper=upper, method="test")


@pytest.mark.parametrize(
    ("lost", "limit_pp", "status"),
    [
        (0, 0.57, Status.PASSED),  # the bound is 0.569
        (0, 0.56, Status.INCONCLUSIVE),
        (0, 2.0, Status.PASSED),
        (8, 2.0, Status.INCONCLUSIVE),  # 1.5 pp measured
        (12, 2.0, Status.INCONCLUSIVE),  # 2.3 pp measured
        (40, 2.0, Status.FAILED),  # 7.6 pp measured
    ],
)
def test_the_drop_gate_decides_by_the_bounds(lost, limit_pp, status):
    """Not the measured drop but its bounds decide, with the issue's 0.57 pp at no flip."""
    verdict = judge(Gates(max_drop_pp=limit_pp), accuracy=_accuracy(lost=lost), speedup=None)
    assert verdict.status is status
    assert verdict.line.startswith(f"{status.value}: top-1 drop")


def test_an_engine_that_is_better_passes():
    """Gained images make the drop negative, which is within any gate."""
    verdict = judge(Gates(max_drop_pp=0.1), accuracy=_accuracy(gained=20), speedup=None)
    assert verdict.status is Status.PASSED
    assert verdict.checks[0].got == pytest.approx(-100 * 20 / 525)


@pytest.mark.parametrize(
    ("lost", "status"),
    [
        (0, Status.PASSED),
        (9, Status.INCONCLUSIVE),
        (12, Status.INCONCLUSIVE),
        (40, Status.FAILED),
    ],
)
def test_the_agreement_gate_decides_by_the_bounds(lost, status):
    """98 % wanted: none, 1.7 %, 2.3 % and 7.6 % flipped of 525."""
    verdict = judge(Gates(min_agreement=0.98), accuracy=_accuracy(lost=lost), speedup=None)
    assert verdict.status is status


def test_unlabelled_images_rest_on_agreement_and_sqnr():
    """Without labels agreement and SQNR are judged and can pass."""
    gates = Gates(min_agreement=0.98, min_sqnr_db=20)
    verdict = judge(gates, accuracy=_accuracy(is_labelled=False), speedup=None)
    assert verdict.status is Status.PASSED
    assert [check.name for check in verdict.checks] == ["min_agreement", "min_sqnr_db"]


def test_a_drop_gate_without_labels_is_inconclusive_and_says_why():
    """A drop that was asked for and cannot be measured is not waved through."""
    gates = Gates(max_drop_pp=2, min_sqnr_db=20)
    verdict = judge(gates, accuracy=_accuracy(is_labelled=False), speedup=None)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.sentence == "top-1 drop not measured: the images have no labels"
    assert verdict.checks[0].got is None


@pytest.mark.parametrize(("limit_db", "status"), [(10.0, Status.PASSED), (25.0, Status.FAILED)])
def test_sqnr_is_judged_as_a_point(limit_db, status):
    """SQNR has no sampling error on exactly these images: met or not, never inconclusive."""
    before = np.full((4, 2), [2.0, -2.0], np.float32)
    found = compare(before, np.zeros(4, int), before * np.float32(1.1))
    verdict = judge(Gates(min_sqnr_db=limit_db), accuracy=found, speedup=None)
    assert verdict.status is status
    assert verdict.checks[0].lower is None


def test_identical_logits_meet_any_sqnr_gate():
    """Infinite SQNR passes."""
    verdict = judge(Gates(min_sqnr_db=200), accuracy=_accuracy(), speedup=None)
    assert verdict.status is Status.PASSED
    assert verdict.checks[0].got == math.inf


@pytest.mark.parametrize(
    ("speedup", "status"),
    [
        (_speedup(1.8, 1.6, 2.0), Status.PASSED),
        (_speedup(1.6, 1.4, 1.8), Status.INCONCLUSIVE),
        (_speedup(1.4, 1.2, 1.6), Status.INCONCLUSIVE),
        (_speedup(1.2, 1.1, 1.3), Status.FAILED),
        (None, Status.INCONCLUSIVE),
    ],
)
def test_the_speed_gate_decides_by_the_interval(speedup, status):
    """1.5x wanted: above, across, below, and not measured."""
    verdict = judge(Gates(min_speedup=1.5), accuracy=None, speedup=speedup)
    assert verdict.status is status


def test_one_failed_gate_outweighs_an_undecided_and_a_passed_one():
    """FAILED before INCONCLUSIVE before PASSED, and the reason names the gates that decided."""
    gates = Gates(max_drop_pp=2, min_sqnr_db=999, min_speedup=1.5)
    verdict = judge(gates, accuracy=_accuracy(lost=1), speedup=None)
    assert [check.status for check in verdict.checks] == [
        Status.PASSED,
        Status.FAILED,
        Status.INCONCLUSIVE,
    ]
    assert verdict.status is Status.FAILED
    assert verdict.sentence.startswith("SQNR")
    assert "drop" not in verdict.sentence


def test_all_met_names_every_gate():
    """PASSED says which gates were met."""
    verdict = judge(Gates(max_drop_pp=2, min_sqnr_db=20), accuracy=_accuracy(), speedup=None)
    assert verdict.line == "PASSED: all 2 gates met: max_drop_pp, min_sqnr_db"


def test_without_a_gate_nothing_is_passed():
    """No gate, no claim: INCONCLUSIVE, and the reason says so."""
    verdict = judge(Gates(), accuracy=_accuracy(), speedup=None)
    assert verdict.line == "INCONCLUSIVE: no gate set"


def test_an_engine_that_was_not_executed_cannot_pass():
    """Every gate on accuracy is undecided for an engine that was only compiled."""
    gates = Gates(max_drop_pp=2, min_agreement=0.9, min_sqnr_db=1)
    verdict = judge(gates, accuracy=None, speedup=None)
    assert {check.status for check in verdict.checks} == {Status.INCONCLUSIVE}
    assert verdict.sentence.count("not executed") == 3


def test_two_spellings_of_a_graph_must_both_hold():
    """One engine that misses its gate fails the build, and the sentence says which one."""
    gates = Gates(max_drop_pp=2.0)
    good = judge(gates, accuracy=_accuracy(), speedup=None)
    bad = judge(gates, accuracy=_accuracy(lost=40), speedup=None)
    assert joint({"INT8 (cpu)": good}) is good
    both = joint({"INT8 (cpu)": good, "INT8 (cpu, weak typing)": bad})
    assert both.status is Status.FAILED
    assert both.line.startswith("FAILED: INT8 (cpu, weak typing): top-1 drop")
    assert joint({"a": good, "b": good}).line == "PASSED: all 2 gates met: max_drop_pp"


@pytest.mark.parametrize("is_met", [True, False])
def test_a_budget_of_the_search_is_a_gate(is_met):
    """What the search found on calibration images decides, whatever the other gates say."""
    chosen = ScoredSet(
        keep=("a", "b"),
        drop_pp=0.5 if is_met else 4.0,
        noise_to_signal=0.1,
        worst_tenth_noise_to_signal=0.2,
        float_share_of_macs=0.3,
    )
    search = SearchOutcome(
        metric="top-1 drop",
        num_images=200,
        fp32_top1=0.9,
        max_drop_pp=0.5,
        drop_type="absolute",
        allowed_pp=0.5,
        is_met=is_met,
        why="no set of up to 3 groups meets the budget",
        chosen=chosen,
        kept={"a": ("conv",), "b": ("gemm",)},
        front=(chosen,),
    )
    verdict = judge(Gates(), accuracy=None, speedup=None, search=search)
    assert verdict.status is (Status.PASSED if is_met else Status.FAILED)
    assert "2 groups in float (a, b)" in verdict.sentence
    assert ("no set of up to 3" in verdict.sentence) is not is_met
    assert (verdict.checks[0].wanted, verdict.checks[0].got) == (0.5, 0.5 if is_met else 4.0)


@pytest.mark.parametrize(
    ("speedup", "status"),
    [
        (_speedup(0.5, 0.4, 0.99), Status.FAILED),
        (_speedup(0.5, 0.4, 1.0), Status.PASSED),  # undecided: a busy machine fails no build
        (_speedup(0.9, 0.2, 4.0), Status.PASSED),
        (_speedup(1.8, 1.6, 2.0), Status.PASSED),
    ],
)
def test_int8_that_is_certainly_slower_fails_unasked(speedup, status):
    """The upper bound alone decides, and a failure names both ways out."""
    gates = Gates(min_sqnr_db=20)
    verdict = judge(gates, accuracy=_accuracy(), speedup=speedup, is_speed_judged=True)
    assert verdict.status is status
    check = verdict.checks[-1]
    assert (check.name, check.wanted, check.status) == ("min_speedup", 1.0, status)
    is_failed = status is Status.FAILED
    assert ("--precision best" in check.sentence) is is_failed
    assert ("--min-speedup 0" in check.sentence) is is_failed


@pytest.mark.parametrize(
    ("gates", "speedup", "is_speed_judged"),
    [
        (Gates(min_sqnr_db=20, min_speedup=0), _speedup(0.1, 0.1, 0.1), True),
        (Gates(min_sqnr_db=20), _speedup(0.1, 0.1, 0.1), False),
        (Gates(min_sqnr_db=20), None, True),  # not executed, or no float engine beside it
    ],
)
def test_the_unasked_gate_of_speed_is_for_executed_int8_and_can_be_switched_off(
    gates, speedup, is_speed_judged
):
    """The verdict rests on the other gate alone."""
    verdict = judge(gates, accuracy=_accuracy(), speedup=speedup, is_speed_judged=is_speed_judged)
    assert [check.name for check in verdict.checks] == ["min_sqnr_db"]
    assert verdict.status is Status.PASSED


def test_a_speed_that_is_asked_for_keeps_the_rule_of_its_lower_bound():
    """1.0x wanted and 0.9 to 1.2 measured is undecided, as it was; unasked it passes."""
    verdict = judge(
        Gates(min_speedup=1.0), accuracy=None, speedup=_speedup(1.0, 0.9, 1.2), is_speed_judged=True
    )
    assert [check.status for check in verdict.checks] == [Status.INCONCLUSIVE]


def test_the_unasked_gate_alone_is_no_claim():
    """Without another gate nothing is passed, also by a fast engine."""
    verdict = judge(Gates(), accuracy=None, speedup=_speedup(2.0, 1.9, 2.1), is_speed_judged=True)
    assert verdict.line == "INCONCLUSIVE: no gate set"


def test_the_line_counts_warnings():
    """The last line of a terminal tells that there are some."""
    verdict = Verdict(status=Status.PASSED, checks=(), sentence="well", warnings=("a",))
    assert verdict.line == "PASSED: well (1 warning)"
