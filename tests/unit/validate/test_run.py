"""What a validation hands to the workers that time its engines, and whom it lets compete."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import types

import numpy as np
import pytest
import sidecars
from msgspec import structs
from PIL import Image

from edge_inception import artifact
from edge_inception.artifact import Baseline, EngineFile, Provenance
from edge_inception.data import imageset
from edge_inception.errors import InputError
from edge_inception.latency.measure import Latency
from edge_inception.quant.search_record import ScoredSet, SearchOutcome
from edge_inception.spec import Gates, Preprocess
from edge_inception.validate import accuracy, run
from edge_inception.validate.options import EngineEntry, ValidateOptions, validate_provenance

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
FEW_KERNELS = {"num_kernels": 100, "activation_bytes": 10**6, "total_weight_bytes": 10**6}
MANY_KERNELS = {"num_kernels": 200, "activation_bytes": 2 * 10**6, "total_weight_bytes": 10**6}
LOGITS = np.tile(np.array([1.0, 0.0], np.float32), (1000, 1))


def entry(tmp_path, precision, target, **changes):
    """An engine whose plan tells fewer kernels for INT8, which so would win by its plan.

    Those for the CPU can be executed here.
    """
    entry = EngineEntry(
        engine=None,
        target=target,
        precision=precision,
        float_precision="f32",
        is_subject=True,
        is_searched=precision == "int8",
    )
    entry = dataclasses.replace(entry, **changes)
    path = tmp_path / run.name_of(entry)
    path.write_bytes(b"engine")
    details = FEW_KERNELS if precision == "int8" else MANY_KERNELS
    backend = "runs" if target.startswith("cpu") else "elsewhere"
    origin = Provenance(
        stage="compile", parents={"typed graph": precision}, options={}, tools={}, source=""
    )
    engine = EngineFile(
        path=path,
        sha256=path.name,
        provenance=origin,
        counts={},
        details=sidecars.plan(**details, backend=backend, preprocess=PICTURE),
    )
    return dataclasses.replace(entry, engine=engine)


def measured(agreeing):
    """Accuracy on 1000 images of which ``agreeing`` keep their first class."""
    after = LOGITS.copy()
    after[agreeing:] = after[agreeing:, ::-1]
    return accuracy.compare(LOGITS, np.zeros(1000, int), after)


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


@pytest.fixture
def baseline(tmp_path):
    path = tmp_path / "baseline.npz"
    np.savez(path, logits=LOGITS, labels=np.zeros(1000, int), sha256=np.array(["0"] * 1000))
    origin = Provenance(stage="baseline", parents={}, options={}, tools={}, source="")
    return artifact.publish(
        Baseline, path, path.read_bytes(), provenance=origin, details=sidecars.baseline()
    )


@pytest.fixture
def validated(tmp_path, monkeypatch, baseline):
    """``validated(figures, options)``: the report's record, and the contenders that were timed.

    ``figures``: entry -> its accuracy and its p50 in ms, which stand for what libraries would do.
    """
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photo.png")

    def validate(figures, options):
        found = {one.engine.path: accuracy for one, accuracy, _ in figures}
        speeds = {run.name_of(one): timed(ms) for one, _, ms in figures if ms}
        contenders = []

        def measure(all_, *_, **__):
            contenders.extend(all_)
            return {"PyTorch FP32": timed(9.0), **speeds}

        def availability(name):
            can = types.SimpleNamespace(can_execute=name.startswith("runs"))
            return types.SimpleNamespace(availability=lambda: can)

        monkeypatch.setattr(run.backends, "backend", availability)
        monkeypatch.setattr(
            run.inference, "open_engine", lambda path, **_: contextlib.nullcontext(path)
        )
        monkeypatch.setattr(run.accuracy, "score", lambda path, *_, **__: found[path])
        monkeypatch.setattr(run.measure, "measure", measure)
        entries = [one for one, *_ in figures]
        images = imageset.open_set(folder)
        report = run.validate(baseline, entries, images, options, tmp_path / "report.json")
        return json.loads(report.path.read_text(encoding="utf-8")), contenders

    return validate


def options_of(gates, **changes):
    return ValidateOptions(model="tiny", preprocess=PICTURE, gates=gates, **changes)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_cuda_graphs_are_timed_as_asked(tmp_path, validated, cuda_graph):
    """Both rows of a GPU, with and without a captured graph, can be had of one engine."""
    one = entry(tmp_path, "fp16", "cpu")
    options = options_of(Gates(), cuda_graph=cuda_graph)
    _, contenders = validated([(one, measured(1000), 1.0)], options)
    assert [each.arguments for each in contenders[1:]] == [
        {"path": str(one.engine.path), "cuda_graph": cuda_graph}
    ]


@pytest.mark.parametrize("entries", ["none", "none to judge"])
def test_a_validation_without_an_engine_to_judge_is_refused(tmp_path, validated, entries):
    """The message says what to do; nothing is timed."""
    shown = entry(tmp_path, "fp32", "cpu", is_subject=False)
    figures = [] if entries == "none" else [(shown, measured(1000), 1.0)]
    with pytest.raises(InputError, match="no engine to judge"):
        validated(figures, options_of(Gates()))


def test_each_competing_engine_is_judged_once(tmp_path, validated, monkeypatch):
    """The verdicts that choose an engine are those of the report."""
    calls = []
    judge = run.gate.judge
    monkeypatch.setattr(run.gate, "judge", lambda *a, **k: calls.append(k) or judge(*a, **k))
    figures = four(tmp_path, (measured(1000), 4.0), (measured(1000), 2.0))
    validated(figures, options_of(Gates(min_agreement=0.98), engines_compete=True))
    assert len(calls) == len(figures)


@pytest.fixture
def compete(validated):
    """``compete(figures, gates)``: the chosen rows, those that are judged, and the verdict."""

    def run_it(figures, gates, search=None):
        options = options_of(gates, engines_compete=True, search=search)
        report, _ = validated(figures, options)
        judged = [row["name"] for row in report["rows"] if row["role"] == "subject"]
        return [choice["row"] for choice in report["choices"]], judged, report["verdict"]

    return run_it


def test_int8_that_missed_its_budget_is_not_chosen_where_nothing_runs(tmp_path, compete):
    """With the RTX alone FP16 is chosen, and what is judged is FP16: not measured, not failed."""
    figures = [(entry(tmp_path, precision, "rtx"), None, None) for precision in ("fp16", "int8")]
    chosen, judged, verdict = compete(figures, Gates(max_drop_pp=1.0), MISSED)
    assert chosen == judged == ["FP16 (rtx)"]
    assert verdict["status"] == "INCONCLUSIVE"


def four(tmp_path, fp16, int8):
    """FP16 and INT8 on the CPU, which runs here, with their figures, and on the RTX without."""
    pairs = [(p, target) for target in ("cpu", "rtx") for p in ("fp16", "int8")]
    entries = [entry(tmp_path, precision, target) for precision, target in pairs]
    none = (None, None)
    return [(one, *figures) for one, figures in zip(entries, (fp16, int8, none, none), strict=True)]


@pytest.mark.parametrize("search", [MISSED, None])
def test_int8_that_failed_on_the_cpu_is_not_chosen_for_the_rtx(tmp_path, compete, search):
    """By a search or by its agreement; both targets ship FP16, which passed."""
    int8 = measured(1000 if search else 900)
    figures = four(tmp_path, (measured(1000), 4.0), (int8, 2.0))
    chosen, judged, verdict = compete(figures, Gates(min_agreement=0.98), search)
    assert chosen == ["FP16 (cpu)", "FP16 (rtx)"]
    assert judged == ["FP16 (cpu)"]
    assert verdict["status"] == "PASSED"


def test_speed_on_the_cpu_decides_nothing_for_the_rtx(tmp_path, compete):
    """INT8 that misses the speed-up on the CPU, accurate there, wins by its plan on the RTX."""
    slow = entry(tmp_path, "fp32", "cpu", is_subject=False)  # a speed-up is over this engine
    figures = four(tmp_path, (measured(1000), 1.0), (measured(1000), 4.0))
    figures = [(slow, measured(1000), 3.0), *figures]
    chosen, judged, verdict = compete(figures, Gates(min_agreement=0.98, min_speedup=1.5))
    assert chosen == ["FP16 (cpu)", "INT8 (rtx)"]
    assert judged == ["FP16 (cpu)"]
    assert verdict["status"] == "PASSED"


def test_a_target_on_which_all_fail_fails_the_build(tmp_path, compete):
    """BF16 saves the CPU, but the RTX has only FP16 and INT8, whose graphs failed on the CPU."""
    half = entry(tmp_path, "fp32", "cpu", float_precision="bf16")
    figures = four(tmp_path, (measured(900), 4.0), (measured(900), 2.0))
    figures = [*figures, (half, measured(1000), 3.0)]
    chosen, judged, verdict = compete(figures, Gates(min_agreement=0.98))
    assert chosen == ["engine bf16 (cpu)", "FP16 (rtx)"]
    assert judged == ["FP16 (rtx)", "engine bf16 (cpu)"]
    assert verdict["status"] == "FAILED"
    assert "FP16 (rtx): agreement 90.00 %" in verdict["sentence"]


@pytest.mark.parametrize("says", ["weak typing", "scales of DLA"])
def test_a_search_judges_only_the_graph_that_was_searched(tmp_path, validated, says):
    """The strong typing misses the budget; the other was never scored, and passes its gate."""
    strong = entry(tmp_path, "int8", "cpu")
    other = entry(tmp_path, "int8", f"cpu, {says}", is_searched=False)
    figures = [(one, measured(1000), 1.0) for one in (strong, other)]
    report, _ = validated(figures, options_of(Gates(min_agreement=0.98), search=MISSED))
    verdict = report["verdict"]
    checks = [
        (check["sentence"].partition(": ")[0], check["name"], check["status"])
        for check in verdict["checks"]
    ]
    assert checks == [
        ("INT8 (cpu)", "min_agreement", "PASSED"),
        ("INT8 (cpu)", "search", "FAILED"),
        (f"INT8 (cpu, {says})", "min_agreement", "PASSED"),
    ]
    assert verdict["status"] == "FAILED"


@pytest.mark.parametrize(
    ("precision", "is_stand_in", "status"),
    [("int8", False, "FAILED"), ("int8", True, "PASSED"), ("fp16", False, "PASSED")],
)
def test_int8_slower_than_float_fails_where_it_ships(
    tmp_path, validated, precision, is_stand_in, status
):
    """6 ms beside 3 ms of the library at f32; neither FP16 nor a stand-in is judged by speed."""
    floats = entry(tmp_path, "fp32", "cpu", is_subject=False)
    judged = entry(tmp_path, precision, "cpu", is_stand_in=is_stand_in)
    figures = [(floats, measured(1000), 3.0), (judged, measured(1000), 6.0)]
    report, _ = validated(figures, options_of(Gates(min_agreement=0.98)))
    assert report["verdict"]["status"] == status


def test_speed_is_judged_within_a_library(tmp_path, validated):
    """2 ms on the CPU, where f32 takes 3, are no fault beside a GPU that is judged first."""
    pairs = [("fp32", "gpu"), ("int8", "gpu"), ("fp32", "cpu"), ("int8", "cpu")]
    engines = [entry(tmp_path, p, target, is_subject=p == "int8") for p, target in pairs]
    for index in (0, 1):
        engine = engines[index].engine
        details = structs.replace(engine.details, backend="runs on gpu")
        engine = dataclasses.replace(engine, details=details)
        engines[index] = dataclasses.replace(engines[index], engine=engine)
    times = (0.5, 0.3, 3.0, 2.0)
    figures = [(one, measured(1000), ms) for one, ms in zip(engines, times, strict=True)]
    report, _ = validated(figures, options_of(Gates(min_agreement=0.98)))
    got = [check["got"] for check in report["verdict"]["checks"] if check["wanted"] == 1.0]
    assert got == pytest.approx([0.5 / 0.3, 3.0 / 2.0])
    assert report["verdict"]["status"] == "PASSED"


def test_best_ships_float_where_int8_is_slower(tmp_path, compete):
    """INT8 fails the gate of speed unasked, and FP16 passes and ships."""
    floats = entry(tmp_path, "fp32", "cpu", is_subject=False)
    both = [(entry(tmp_path, "fp16", "cpu"), measured(1000), 3.0)]
    both.append((entry(tmp_path, "int8", "cpu"), measured(1000), 6.0))
    figures = [(floats, measured(1000), 3.0), *both]
    chosen, _, verdict = compete(figures, Gates(min_agreement=0.98))
    assert (chosen, verdict["status"]) == (["FP16 (cpu)"], "PASSED")


def test_other_calibration_images_are_another_validation(baseline):
    """The report of a build is not reused, since its warnings may differ."""
    images = imageset.ImageSet(name="photos", items=())
    options = options_of(Gates(), calibration=images)
    fewer = dataclasses.replace(options, calibration=dataclasses.replace(images, num_left_out=1))
    origins = [validate_provenance(baseline, (), images, one) for one in (options, fewer)]
    assert origins[0].options["calibration"] != origins[1].options["calibration"]


def test_a_stand_in_is_another_validation_than_an_engine_that_ships(baseline, tmp_path):
    """``--target orin-nano-8gb`` first and ``--target cpu`` too later: other gates apply."""
    images = imageset.ImageSet(name="photos", items=())
    engines = [entry(tmp_path, "int8", "cpu", is_stand_in=stands) for stands in (True, False)]
    origins = [
        validate_provenance(baseline, (one,), images, options_of(Gates())) for one in engines
    ]
    assert origins[0].options != origins[1].options
