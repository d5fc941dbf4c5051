from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inception.errors import InputError
from edge_inception.latency.machine import Machine, describe
from edge_inception.latency.measure import Latency, LatencyOptions
from edge_inception.metrics.intervals import Estimate
from edge_inception.quant.search_record import ScoredSet, SearchOutcome
from edge_inception.spec import Gates
from edge_inception.validate import report_record
from edge_inception.validate.accuracy import compare
from edge_inception.validate.gate import judge
from edge_inception.validate.report_record import (
    Accuracy,
    ChangedImage,
    Check,
    Choice,
    EngineFileRef,
    LabelledAccuracy,
    LabelMetrics,
    ReportFiles,
    ReportRecord,
    Role,
    Row,
    Status,
    ValidationSet,
    Verdict,
    to_json,
)
from edge_inception.validate.run import with_speedups

SAMPLE = Path(__file__).parents[1] / "report" / "records" / "report-1.json"

_EYE = np.eye(2, dtype=np.float32)


UNMEASURED = {
    "accuracy": None, "latency": None, "speedup": None, "size_bytes": None, "weight_bytes": None,
    "executed_layers": {}, "note": "",
}  # fmt: skip


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
    return Row(name=name, role=role, **(precise | UNMEASURED | facts))


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
        "context": ReportFiles(engines={}, baseline_sha256="cd" * 32),
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


def test_samples_are_rounded():
    """Single latencies are kept to 0.1 us."""
    kept = to_json(_outcome())["rows"][0]["latency"]["samples_ms"]
    assert kept == [4.0, 4.2]


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
    with pytest.raises(ValueError, match="needs a row that is judged, got none"):
        _outcome(rows=())


def in_place(value, path, new):
    """A copy of a JSON value with another one at a path; without ``new`` the key is gone."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


POINT = {
    "keep": ["a"], "drop_pp": 0.4, "noise_to_signal": 0.1, "worst_tenth_noise_to_signal": 0.2,
    "float_share_of_macs": 0,
}  # fmt: skip
SEARCH = {
    "metric": "top-1 drop", "num_images": 64, "fp32_top1": None, "max_drop_pp": 0.5,
    "drop_type": "absolute", "allowed_pp": 0.5, "is_met": True, "why": "the fewest",
    "chosen": POINT, "kept": {"a": ["conv"]}, "front": [POINT],
}  # fmt: skip


@pytest.mark.parametrize("search", [{}, SEARCH])
def test_a_file_is_written_as_it_was_read(tmp_path, search):
    """The same bytes, of a report that validate wrote; a share of no layers stays 0, not 0.0."""
    text = json.dumps(json.loads(SAMPLE.read_text()) | {"search": search}, indent=1) + "\n"
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    assert json.dumps(to_json(report_record.read(path)), indent=1) + "\n" == text
    assert search or SAMPLE.read_text() == text


def test_an_older_report_is_read():
    """Before there were choices, searches, images that changed and terms: they are not known."""
    value = json.loads(SAMPLE.read_text())
    accuracy = ("rows", 1, "accuracy")
    for path in (
        ("choices",), ("search",), ("data", "num_left_out"), (*accuracy, "terms"),
        (*accuracy, "changed"),
    ):  # fmt: skip
        value = in_place(value, path, None)
    found = report_record.convert(value, where="report.json")
    assert (found.choices, found.search, found.data.num_left_out) == ((), None, 0)
    assert found.subjects[0].accuracy.changed is None


@pytest.mark.parametrize(
    ("path", "new", "says"),
    [
        (("schema",), "edge-inception/bench", "is not a report: schema 'edge-inception/bench'"),
        (("schema_version",), 2, "version 2, wanted 'edge-inception/report' version 1"),
        (("schema_version",), True, "at schema_version"),
        (("schema",), None, "is not a report: schema None"),
        (("model",), None, "missing required field 'model'"),
        (("model",), 3, "at model: got int, wanted str"),
        (("colour",), "red", "object contains unknown field 'colour'"),
        (("rows",), [], "a report needs a row that is judged, got none"),
        (("rows", 1, "note"), None, "at rows[1]: object missing required field 'note'"),
        (("machine",), None, "missing required field 'machine'"),
        (("rows", 2, "note"), "", "row 'engine f32 (rtx)' lacks a measurement"),
        (("rows", 1, "role"), "judge", "at rows[1].role: invalid enum value 'judge'"),
        (("rows", 1, "latency", "p50_ms"), "fast", "at rows[1].latency.p50_ms: got str, wanted"),
        (("rows", 1, "latency", "threads"), -1, "at rows[1].latency.threads: got -1"),
        (("rows", 1, "latency", "threads"), 10**300, "at rows[1].latency.threads"),
        (("rows", 1, "latency", "mean_ms"), 10**400, "report.json"),
        (("rows", 1, "accuracy", "sqnr_db"), "loud", "at rows[1].accuracy.sqnr_db"),
        (("rows", 1, "accuracy", "labelled", "engine", "top1", "x"), 1, "engine.top1: object"),
        (("rows", 1, "size_bytes"), 1.5, "at rows[1].size_bytes: got float"),
        (("verdict", "checks", 0, "status"), "MAYBE", "at verdict.checks[0].status"),
        (("verdict", "checks", 0, "wanted"), 10**300, "at verdict.checks[0].wanted"),
        (("data", "classes"), "ab", "at data.classes: got str, wanted array"),
        (("context", "engines"), [], "at context.engines: got array, wanted object"),
        (("search",), {"is_met": True}, "at search: object missing required field"),
        (("machine",), {}, "at machine: object missing required field"),
    ],
)
def test_what_is_no_report(path, new, says):
    """Each names the file, the place in it, what was got and what was wanted; exit code 3."""
    value = in_place(json.loads(SAMPLE.read_text()), path, new)
    with pytest.raises(InputError) as caught:
        report_record.convert(value, where="report.json")
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("report.json")
    assert says in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b"\xff", b'{"schema": 1, "schema": 1}', b"[" * 100_000, b"1" * 5000],
)
def test_what_is_no_json_object(tmp_path, text):
    """Empty, another type, no UTF-8, a key twice, nesting and digits without end: exit code 3."""
    path = tmp_path / "report.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"report\.json"):
        report_record.read(path)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
COUNT = st.integers(0, 2**53)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
DECIBELS = st.floats(allow_nan=False)
FLOATS = st.lists(FLOAT, max_size=3).map(tuple)
CELLS = st.lists(st.tuples(COUNT, COUNT, st.integers(-9, 9)), max_size=2).map(tuple)
PAIR = st.tuples(FLOAT, FLOAT)


def many(strategy):
    return st.lists(strategy, max_size=2).map(tuple)


ESTIMATE = st.builds(Estimate, value=FLOAT, lower=FLOAT, upper=FLOAT, method=TEXT)
SCORES = st.builds(
    LabelMetrics, top1=ESTIMATE, balanced_accuracy=FLOAT, recall=many(st.none() | FLOAT),
    confusion=CELLS, auroc=st.none() | FLOAT,
)  # fmt: skip
LABELLED = st.builds(
    LabelledAccuracy, num_images=COUNT, baseline=SCORES, engine=SCORES, num_right_to_wrong=COUNT,
    num_wrong_to_right=COUNT, drop_pp=ESTIMATE, confusion_change=CELLS,
)  # fmt: skip
CHANGED = st.builds(
    ChangedImage, image=TEXT, sha256=TEXT, label=st.none() | COUNT, before=COUNT, after=COUNT,
    baseline_scores=PAIR, engine_scores=PAIR,
)  # fmt: skip
ACCURACY = st.builds(
    Accuracy, num_images=COUNT, num_classes=COUNT, agreement=ESTIMATE, sqnr_db=DECIBELS,
    labelled=st.none() | LABELLED, sqnr_of=TEXT, changed=st.none() | many(CHANGED),
)  # fmt: skip
LATENCY = st.builds(
    Latency, name=TEXT, num_calls=COUNT, batch=COUNT, threads=COUNT, p50_ms=FLOAT, p90_ms=FLOAT,
    p99_ms=st.none() | FLOAT, mean_ms=FLOAT, variation=FLOAT, block_medians_ms=FLOATS,
    foreign_cores=st.none() | FLOAT, info=st.dictionaries(TEXT, TEXT | COUNT | st.none()),
    samples_ms=many(st.floats(0, 1e6).map(lambda ms: round(ms, 4))),
)  # fmt: skip
ROW = st.builds(
    Row, name=TEXT, role=st.sampled_from(Role), backend=TEXT, precision=TEXT, float_precision=TEXT,
    accuracy=st.none() | ACCURACY, latency=st.none() | LATENCY, speedup=st.none() | ESTIMATE,
    size_bytes=st.none() | COUNT, weight_bytes=st.none() | COUNT,
    executed_layers=st.dictionaries(TEXT, COUNT, max_size=2), note=TEXT.filter(bool),
)  # fmt: skip
SUBJECT = st.builds(
    Row, name=TEXT, role=st.just(Role.SUBJECT), backend=TEXT, precision=TEXT, float_precision=TEXT,
    **{key: st.just(value) for key, value in UNMEASURED.items()} | {"note": st.just("n")},
)  # fmt: skip
CHECK = st.builds(
    Check, name=TEXT, wanted=FLOAT, got=st.none() | DECIBELS, lower=st.none() | FLOAT,
    upper=st.none() | FLOAT, status=st.sampled_from(Status), sentence=TEXT,
)  # fmt: skip
SCORED = st.builds(
    ScoredSet, keep=many(TEXT), drop_pp=FLOAT, noise_to_signal=FLOAT,
    worst_tenth_noise_to_signal=FLOAT, float_share_of_macs=FLOAT | st.just(0),
)  # fmt: skip
OUTCOME = st.builds(
    SearchOutcome, metric=TEXT, num_images=COUNT, fp32_top1=st.none() | FLOAT, max_drop_pp=FLOAT,
    drop_type=TEXT, allowed_pp=FLOAT, is_met=st.booleans(), why=TEXT, chosen=SCORED,
    kept=st.dictionaries(TEXT, many(TEXT), max_size=2), front=many(SCORED),
)  # fmt: skip
MACHINE = st.builds(
    Machine, cpu=TEXT, architecture=TEXT, instruction_sets=many(TEXT), num_cores=COUNT,
    affinity=many(COUNT), load_average=FLOAT, governor=st.none() | TEXT, system=TEXT, python=TEXT,
)  # fmt: skip
OPTIONS = st.builds(LatencyOptions, threads=COUNT, batch=COUNT, block_s=FLOAT, timeout_s=FLOAT)
REPORT = st.builds(
    ReportRecord, model=TEXT, created_utc=TEXT,
    data=st.builds(
        ValidationSet, name=TEXT, sha256=TEXT, num_images=COUNT, num_left_out=COUNT,
        classes=many(TEXT),
    ),
    rows=st.tuples(SUBJECT, ROW),
    verdict=st.builds(Verdict, status=st.sampled_from(Status), checks=many(CHECK), sentence=TEXT),
    choices=many(st.builds(Choice, target=TEXT, row=TEXT, sentence=TEXT, failed=many(TEXT))),
    search=st.none() | OUTCOME, machine=st.none() | MACHINE, latency_options=st.none() | OPTIONS,
    context=st.builds(
        ReportFiles, baseline_sha256=TEXT,
        engines=st.dictionaries(TEXT, st.builds(EngineFileRef, file=TEXT, sha256=TEXT), max_size=2),
    ),
)  # fmt: skip


@given(REPORT)
def test_round_trip(report):
    """What is written as strict JSON is read back equal."""
    text = json.dumps(to_json(report), allow_nan=False)
    assert report_record.convert(json.loads(text), where="report.json") == report


def test_a_figure_may_be_nan(tmp_path):
    """A report from elsewhere may hold what no number is; it is read, and shown as such."""
    value = in_place(json.loads(SAMPLE.read_text()), ("rows", 1, "latency", "p50_ms"), math.nan)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert math.isnan(report_record.read(path).subjects[0].latency.p50_ms)
