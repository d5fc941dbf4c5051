"""What a build says after a missed gate."""

from __future__ import annotations

import pytest
import reports

from edge_inception.pipeline import build
from edge_inception.recipe.reader import load_recipe
from edge_inception.validate.report_record import Role, Status

CALIBRATION = "--calibrator auto"
RANKED = "`edge-inception sensitivity out` ranks the groups for --keep-float"


def advice(missed, precision="int8", **overrides):
    """After a build that missed the gates named; every other gate passed."""
    named = ("max_drop_pp", "min_agreement", "min_sqnr_db", "min_speedup", "search")
    checks = (
        reports.check(name, Status.FAILED if name in missed else Status.PASSED) for name in named
    )
    report = reports.report(
        reports.row("fp32", precision="fp32", role=Role.BASELINE),
        reports.row("int8", role=Role.SUBJECT if precision == "int8" else Role.OTHER),
        reports.row("judged", precision=precision),
        checks=tuple(checks),
    )
    asked = {"model.name": "inception_v3", "model.checkpoint": "a", "build.out": "out"}
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return build._advice(load_recipe(None, {**asked, **named}), report)


@pytest.mark.parametrize("gate", ["max_drop_pp", "min_agreement", "min_sqnr_db"])
@pytest.mark.parametrize("calibrator", ["max", "mse"])
def test_a_missed_accuracy_gate_points_at_the_trial(gate, calibrator):
    """Any of the three, where a flag has replaced the trial, whatever else was missed."""
    for missed in ({gate}, {gate, "min_speedup", "search"}):
        assert CALIBRATION in advice(missed, calibrate__calibrator=calibrator)


def test_after_the_trial_groups_and_images_are_left():
    """It has tried the calibrators, and the budget of --max-drop has been used up."""
    for found in (advice({"min_sqnr_db"}), advice({"search"}, search__max_drop_pp=1.0)):
        assert found.startswith(RANKED)
        assert "more calibration images" in found


def test_nothing_is_advised_that_cannot_help():
    """A speed-up is no matter of scales, FP16 has none, and DLA leaves no group in float."""
    assert advice({"min_speedup"}) == ""
    assert advice({"max_drop_pp"}, precision="fp16") == ""
    assert advice({"min_sqnr_db"}, build__dla=True) == ""
