"""What a build says after a missed gate."""

from __future__ import annotations

import pytest
import reports

from edge_inception.pipeline import build
from edge_inception.recipe.reader import load_recipe
from edge_inception.spec import Head
from edge_inception.validate.report_record import Role, Status

CALIBRATION = "more calibration images or --calibrator max may help"
RANKED = "`edge-inception sensitivity out` ranks the groups for --keep-float"
SEARCHED = f"{RANKED}; --max-drop searches those that have to stay float"


def advice(missed, precision="int8", answers="logits", **overrides):
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
    return build._advice(load_recipe(None, {**asked, **named}), Head(kind=answers), report)


@pytest.mark.parametrize("gate", ["max_drop_pp", "min_agreement", "min_sqnr_db"])
def test_a_missed_accuracy_gate_points_at_the_calibration(gate):
    """Any of the three, with a calibrator that clips, whatever else was missed."""
    assert advice({gate}) == CALIBRATION
    assert advice({gate, "min_speedup", "search"}) == CALIBRATION


@pytest.mark.parametrize("calibrator", ["max", "auto"])
def test_max_is_not_advised_where_it_was_tried(calibrator):
    """It was the calibrator, or one of those of the trial: the groups are what is left."""
    assert advice({"min_sqnr_db"}, calibrate__calibrator=calibrator) == SEARCHED


def test_a_missed_budget_points_at_the_groups():
    """--max-drop is what was missed, so it is not advised again; nor is it for embeddings."""
    budget = {"search__max_drop_pp": 1.0}
    assert advice({"search"}, **budget) == RANKED
    assert advice({"min_sqnr_db"}, calibrate__calibrator="max", **budget) == RANKED
    embeddings = {"answers": "embedding", "calibrate__calibrator": "max"}
    assert advice({"min_agreement"}, **embeddings) == RANKED


def test_nothing_is_advised_that_cannot_help():
    """A speed-up is no matter of scales, FP16 has none, and DLA leaves no group in float."""
    assert advice({"min_speedup"}) == ""
    assert advice({"max_drop_pp"}, precision="fp16") == ""
    assert advice({"min_sqnr_db"}, calibrate__calibrator="max", build__dla=True) == ""
