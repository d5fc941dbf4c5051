"""What a validation hands to the workers that time its engines, and whom it lets compete."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections import defaultdict

import msgspec
import numpy as np
import pytest

from edge_inception.artifact import EngineFile, Provenance
from edge_inception.latency.measure import Latency
from edge_inception.metrics.intervals import Estimate
from edge_inception.spec import Gates, Preprocess
from edge_inception.validate import accuracy, gate, run
from edge_inception.validate.options import EngineEntry, ValidateOptions
from edge_inception.validate.report_record import Role, Row, Status
from edge_inception.validate.search_record import ScoredSet, SearchOutcome

PICTURE = Preprocess(input_size=(8, 8))
PLAIN = ScoredSet(
    keep=(),
    drop_pp=9.0,
    noise_to_signal=0.1,
    worst_tenth_noise_to_signal=0.2,
    float_share_of_macs=0,
)
MISSED = SearchOutcome(
    metric="top-1 drop",
    num_images=100,
    fp32_top1=0.9,
    max_drop_pp=1.0,
    drop_type="absolute",
    allowed_pp=1.0,
    is_met=False,
    why="no set of groups meets the budget",
    chosen=PLAIN,
    kept={},
    front=(PLAIN,),
)
FEW_KERNELS = {"num_kernels": 100, "activation_bytes": 1e6, "total_weight_bytes": 1e6}
MANY_KERNELS = {"num_kernels": 200, "activation_bytes": 2e6, "total_weight_bytes": 1e6}


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_cuda_graphs_are_timed_as_asked(monkeypatch, tmp_path, cuda_graph):
    """Both rows of a GPU, with and without a captured graph, can be had of one engine."""
    timed = []
    monkeypatch.setattr(run.latency, "measure", lambda all_, *_, **__: timed.extend(all_) or {})
    monkeypatch.setattr(
        run, "_pixels", lambda *_: contextlib.nullcontext(defaultdict(lambda: tmp_path / "x.npy"))
    )
    details = {"preprocess": {"input_size": [8, 8]}}
    engine = types.SimpleNamespace(path=tmp_path / "a.engine", details=details)
    entry = EngineEntry(
        engine=engine, target="rtx", precision="fp16", float_precision="f32", is_subject=True
    )
    options = ValidateOptions(
        model="tiny", preprocess=PICTURE, gates=Gates(), cuda_graph=cuda_graph
    )
    run._times([entry], None, options, None)
    assert [one.arguments for one in timed[1:]] == [
        {"path": str(engine.path), "cuda_graph": cuda_graph}
    ]


def entry(tmp_path, precision, target):
    """An engine whose plan tells fewer kernels for INT8, which so would win by its plan."""
    origin = Provenance(
        stage="compile", parents={"typed graph": precision}, options={}, tools={}, source=""
    )
    details = FEW_KERNELS if precision == "int8" else MANY_KERNELS
    path = tmp_path / f"{precision}.{target}"
    return EngineEntry(
        engine=EngineFile(path=path, sha256=path.name, provenance=origin, details=details),
        target=target,
        precision=precision,
        float_precision="f32",
        is_subject=True,
        is_searched=precision == "int8",
    )


def measured(agreeing):
    """Accuracy on 1000 images of which ``agreeing`` keep their first class."""
    before = np.tile(np.array([1.0, 0.0], np.float32), (1000, 1))
    after = before.copy()
    after[agreeing:] = after[agreeing:, ::-1]
    return accuracy.compare(before, np.zeros(1000, int), after)


def timed(middle_ms):
    blocks = tuple(middle_ms * (1 + error) for error in (0.02, -0.01, 0.0, 0.015, -0.02, 0.01))
    return Latency(
        name="engine",
        num_calls=6,
        batch=1,
        threads=1,
        p50_ms=middle_ms,
        p90_ms=middle_ms,
        p99_ms=None,
        mean_ms=middle_ms,
        variation=0.01,
        block_medians_ms=blocks,
        samples_ms=blocks,
        foreign_cores=None,
        info={},
    )


def row(one, found=None, middle_ms=None):
    """A row of the report; without ``found`` one of an engine that was not executed."""
    return Row(
        name=run.name_of(one),
        role=Role.SUBJECT,
        backend="any",
        precision=one.precision,
        float_precision="f32",
        accuracy=found,
        latency=middle_ms and timed(middle_ms),
        speedup=None,
        size_bytes=None,
        weight_bytes=None,
        executed_layers={},
        note="not executed here",
    )


def compete(entries, rows, gates, search=None):
    """Rows, chosen rows and the verdict of a build whose precisions compete."""
    options = ValidateOptions(
        model="tiny", preprocess=PICTURE, gates=gates, is_best=True, search=search
    )
    rows, choices, verdicts = run._choose(tuple(rows), entries, options)
    assert [one.name for one in rows if one.role is Role.SUBJECT] == list(verdicts)
    return [choice.row for choice in choices], gate.joint(verdicts)


def test_int8_that_missed_its_budget_is_not_chosen_where_nothing_runs(tmp_path):
    """With the RTX alone FP16 is chosen, and what is judged is FP16: not measured, not failed."""
    entries = [entry(tmp_path, precision, "rtx") for precision in ("fp16", "int8")]
    rows = map(row, entries)
    chosen, verdict = compete(entries, rows, Gates(max_drop_pp=1.0), MISSED)
    assert chosen == ["FP16 (rtx)"]
    assert verdict.status is Status.INCONCLUSIVE


def four(tmp_path):
    """Entries of FP16 and INT8 on the CPU, which runs here, and on the RTX, which does not."""
    pairs = [(p, target) for target in ("cpu", "rtx") for p in ("fp16", "int8")]
    return [entry(tmp_path, precision, target) for precision, target in pairs]


@pytest.mark.parametrize("search", [MISSED, None])
def test_int8_that_failed_on_the_cpu_is_not_chosen_for_the_rtx(tmp_path, search):
    """By a search or by its agreement; both targets ship FP16, which passed."""
    entries = four(tmp_path)
    found = measured(1000 if search else 900)
    rows = [row(entries[0], measured(1000), 4.0), row(entries[1], found, 2.0)]
    rows += map(row, entries[2:])
    chosen, verdict = compete(entries, rows, Gates(min_agreement=0.98), search)
    assert chosen == ["FP16 (cpu)", "FP16 (rtx)"]
    assert verdict.status is Status.PASSED


def test_speed_on_the_cpu_decides_nothing_for_the_rtx(tmp_path):
    """INT8 that misses the speed-up on the CPU, accurate there, wins by its plan on the RTX."""
    entries = four(tmp_path)
    rows = [row(entries[0], measured(1000), 1.0), row(entries[1], measured(1000), 4.0)]
    for index, value in enumerate((3.0, 0.75)):
        speedup = Estimate(value=value, lower=value, upper=value, method="any")
        rows[index] = msgspec.structs.replace(rows[index], speedup=speedup)
    rows += map(row, entries[2:])
    chosen, verdict = compete(entries, rows, Gates(min_agreement=0.98, min_speedup=1.5))
    assert chosen == ["FP16 (cpu)", "INT8 (rtx)"]
    assert verdict.status is Status.PASSED


def test_a_target_on_which_all_fail_fails_the_build(tmp_path):
    """BF16 saves the CPU, but the RTX has only FP16 and INT8, whose graphs failed on the CPU."""
    entries = four(tmp_path)
    half = dataclasses.replace(entry(tmp_path, "fp32", "cpu"), float_precision="bf16")
    bad = measured(900)
    rows = [row(entries[0], bad, 4.0), row(entries[1], bad, 2.0), *map(row, entries[2:])]
    rows += [msgspec.structs.replace(row(half, measured(1000), 3.0), float_precision="bf16")]
    chosen, verdict = compete([*entries, half], rows, Gates(min_agreement=0.98))
    assert chosen == ["engine bf16 (cpu)", "FP16 (rtx)"]
    assert verdict.status is Status.FAILED
    assert "FP16 (rtx): agreement 90.00 %" in verdict.sentence


@pytest.mark.parametrize("says", ["weak typing", "scales of DLA"])
def test_a_search_judges_only_the_graph_that_was_searched(tmp_path, says):
    """The strong spelling misses the budget; the other was never scored, and passes its gate."""
    strong = entry(tmp_path, "int8", "cpu")
    other = dataclasses.replace(strong, target=f"cpu, {says}", is_searched=False)
    options = ValidateOptions(
        model="tiny", preprocess=PICTURE, gates=Gates(min_agreement=0.98), search=MISSED
    )
    rows = [row(one, measured(1000)) for one in (strong, other)]
    found = run._verdicts(rows, [strong, other], options)
    checks = {name: [check.name for check in verdict.checks] for name, verdict in found.items()}
    assert checks == {
        "INT8 (cpu)": ["min_agreement", "search"],
        f"INT8 (cpu, {says})": ["min_agreement"],
    }
    assert gate.joint(found).status is Status.FAILED
    assert found[f"INT8 (cpu, {says})"].status is Status.PASSED
