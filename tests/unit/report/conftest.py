"""Reports as ``validate`` writes them, made by hand, to be bent by a test."""

from __future__ import annotations

import copy

import pytest

from edge_inception import records
from edge_inception.latency.record import BenchRecord
from edge_inception.validate import report_record


def estimate(value, lower, upper):
    return {"value": value, "lower": lower, "upper": upper, "method": "by hand"}


def scores(top1, recall):
    return {
        "top1": estimate(top1, top1 - 0.03, top1 + 0.03), "balanced_accuracy": 0.7,
        "recall": recall, "confusion": [[0, 0, 90], [1, 0, 10]], "auroc": None,
    }  # fmt: skip


def latency(median_ms):
    samples = [median_ms * (0.9 + 0.01 * i) for i in range(21)]
    return {
        "name": "engine", "variation": 0.06, "info": {},
        "p50_ms": median_ms, "p90_ms": 1.1 * median_ms, "p99_ms": None, "mean_ms": median_ms,
        "num_calls": 21, "batch": 1, "threads": 2, "foreign_cores": 0.0,
        "block_medians_ms": [median_ms, 1.01 * median_ms], "samples_ms": samples,
    }  # fmt: skip


def row(name, role, median_ms, *, precision="fp32", num_bytes=10 << 20):
    labelled = {
        "num_images": 100,
        "num_right_to_wrong": 1,
        "num_wrong_to_right": 0,
        "confusion_change": [],
        "baseline": scores(0.9, [0.95, 0.5]),
        "engine": scores(0.89, [0.94, 0.51]),
        "drop_pp": estimate(1.0, 0.2, 1.8),
    }
    return {
        "name": name, "role": role, "backend": "openvino", "precision": precision,
        "float_precision": "f32",
        "accuracy": {
            "num_images": 100, "num_classes": 2, "agreement": estimate(0.99, 0.98, 1.0),
            "sqnr_db": 30.5, "labelled": labelled,
        },
        "latency": latency(median_ms), "speedup": estimate(20 / median_ms, 1.0, 3.0),
        "size_bytes": num_bytes, "weight_bytes": None, "executed_layers": {}, "note": "",
    }  # fmt: skip


CHECK = {
    "name": "max_drop_pp", "wanted": 2.0, "got": 1.0, "lower": 0.2, "upper": 1.8,
    "status": "PASSED", "sentence": "top-1 drop 1.00 pp, within 2 pp",
}  # fmt: skip
MACHINE = {
    "cpu": "Test CPU", "architecture": "x86_64", "instruction_sets": ["avx2"], "num_cores": 2,
    "affinity": [0, 1], "load_average": 0.5, "governor": None, "system": "Linux",
    "python": "3.11.7",
}  # fmt: skip
PROTOCOL = {
    "threads": 2, "batch": 1, "rounds": 10, "calls_per_block": 20, "min_calls_per_block": 3,
    "block_s": 1.0, "discard_calls": 2, "warmup_calls": 5, "warmup_s": 1.0, "settle_s": 0.05,
    "timeout_s": 300.0,
}  # fmt: skip
REPORT = {
    "schema": "edge-inception/report",
    "schema_version": 1,
    "model": "inception_v4",
    "created_utc": "2026-11-25T20:00:00Z",
    "data": {"name": "cells", "sha256": "ab" * 32, "num_images": 100, "classes": ["good", "bad"]},
    "rows": [
        row("PyTorch FP32", "baseline", 60.0),
        row("engine f32 (cpu)", "reference", 20.0),
        row("INT8 (cpu)", "subject", 8.0, precision="int8", num_bytes=3 << 20),
    ],
    "verdict": {"status": "PASSED", "sentence": CHECK["sentence"], "checks": [CHECK]},
    "machine": MACHINE,
    "latency_options": PROTOCOL,
    "context": {"baseline_sha256": "cd" * 32, "engines": {}},
}


CHANGED = {
    "image": "/gone/cell.png", "sha256": "ef" * 32, "label": 0, "before": 0, "after": 1,
    "baseline_scores": [0.6, 0.4], "engine_scores": [0.45, 0.55],
}  # fmt: skip
REPORT["rows"][2]["accuracy"]["changed"] = [CHANGED]


@pytest.fixture
def report():
    """The JSON of a whole report that passed; a copy for each test."""
    return copy.deepcopy(REPORT)


@pytest.fixture(scope="session")
def whole_report():
    """The same, as a record."""
    return report_record.convert(REPORT, where="a report")


def timed_engine(precision):
    return {
        "path": f"model.{precision}.blob", "sha256": "ab" * 32, "bytes": 10 << 20,
        "backend": "openvino", "precision": precision, "float_precision": "f32",
        "typed": "strong", "batch": {"min": 1, "opt": 1, "max": 8}, "dla_core": None,
        "tied_to": {"openvino": "2026.4.1"}, "graph_sha256": "cd" * 32,
    }  # fmt: skip


def timed_run(arm, pair, median_ms):
    samples = [median_ms * (0.9 + 0.01 * i) for i in range(21)]
    return {
        "arm": arm, "pair": pair, "t0": "2026-11-26T07:00:00+00:00", "n": 21,
        "median": median_ms, "mean": median_ms, "p90": 1.08 * median_ms, "p95": 1.09 * median_ms,
        "p99": None, "cov": 0.06, "throughput": 1000 / median_ms, "open_s": 0.5,
        "first_ms": 2 * median_ms, "peak_mib": 113.0, "compute_median": None,
        "temp_c": {"start": {}, "end": {}}, "cpu_mhz": {"start": None, "end": None},
        "gpu_mhz_min": None, "power_mw": None, "throttled": None,
        "unavailable": {"power_mw": "no INA3221 rails"}, "foreign_cores": 0.0,
        "warnings": ["calls vary by 6.1 %, over 2.5 %"], "blocks": [7, 7, 7],
        "samples_ms": samples,
    }  # fmt: skip


SINGLE = {
    "schema": "edge-inception/bench", "schema_version": 2, "kind": "single",
    "created_utc": "2026-11-26T07:00:00Z", "tool": {"version": "0.1.0"},
    "model": {"name": "inception_v4", "input": [1, 3, 299, 299]},
    "engines": {"A": timed_engine("int8")},
    "device": {"cpu": "Test CPU", "num_cores": 2, "libraries": {"openvino": "2026.4.1"}},
    "protocol": {
        "threads": 2, "batch": 1, "streams": 1, "runner": "python", "metric": "host_to_host_ms",
        "input": "noise, seed 0", "input_sha256": "ef" * 32,
    },
    "runs": [timed_run("A", 0, 8.0)], "fingerprint": "0123456789ab",
}  # fmt: skip
RESULT = {
    "ratio": 1.1, "ci95": [1.08, 1.12], "method": "student-t-log-95", "delta": 0.03, "k": 3,
    "verdict": "fail", "reasons": [], "sentence": "B is 10.0 % slower than A, limit +3 %",
}  # fmt: skip


@pytest.fixture
def single():
    """A record of ``bench``; a copy for each test."""
    return copy.deepcopy(SINGLE)


RUNS = [timed_run(arm, i, ms) for i in range(3) for arm, ms in (("A", 10.0), ("B", 11.0))]
COMPARED = {
    **SINGLE, "kind": "ab", "runs": RUNS, "result": RESULT,
    "engines": {"A": timed_engine("fp32"), "B": timed_engine("int8")},
}  # fmt: skip


@pytest.fixture
def compared():
    """A record of ``compare`` whose three pairs are 10 % apart."""
    return copy.deepcopy(COMPARED)


@pytest.fixture(scope="session")
def as_record():
    """JSON as a file holds it -> the record of bench or compare."""
    return lambda value: records.convert(BenchRecord, value, where="by hand", hint="")


@pytest.fixture(scope="session")
def whole_timings(as_record):
    """Records as files hold them: a comparison, two batches, layers; not to be changed."""
    four = {**SINGLE, "protocol": {**SINGLE["protocol"], "batch": 4}}
    layers = [{"name": "left", "kind": "Convolution", "kernel": "jit_I8", "ms": 0.05}]
    timed = (COMPARED,), (SINGLE, four), ({**SINGLE, "layers": layers},)
    return tuple(tuple(map(as_record, one)) for one in timed)
