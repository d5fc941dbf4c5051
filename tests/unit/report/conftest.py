"""Reports as ``validate`` writes them, made by hand, to be bent by a test."""

from __future__ import annotations

import copy

import pytest

from edge_inception import records
from edge_inception.latency.record import BenchRecord


def estimate(value, lower, upper):
    return {"value": value, "lower": lower, "upper": upper, "method": "by hand"}


def scores(top1, recall):
    return {"top1": estimate(top1, top1 - 0.03, top1 + 0.03), "recall": recall}


def latency(median_ms):
    samples = [median_ms * (0.9 + 0.01 * i) for i in range(21)]
    return {
        "p50_ms": median_ms, "p90_ms": 1.1 * median_ms, "p99_ms": None, "mean_ms": median_ms,
        "num_calls": 21, "batch": 1, "threads": 2, "foreign_cores": 0.0,
        "block_medians_ms": [median_ms, 1.01 * median_ms], "samples_ms": samples,
    }  # fmt: skip


def row(name, role, median_ms, *, precision="fp32", num_bytes=10 << 20):
    labelled = {
        "baseline": scores(0.9, [0.95, 0.5]),
        "engine": scores(0.89, [0.94, 0.51]),
        "drop_pp": estimate(1.0, 0.2, 1.8),
    }
    return {
        "name": name, "role": role, "backend": "openvino", "precision": precision,
        "float_precision": "f32",
        "accuracy": {
            "agreement": estimate(0.99, 0.98, 1.0), "sqnr_db": 30.5, "labelled": labelled,
        },
        "latency": latency(median_ms), "speedup": estimate(20 / median_ms, 1.0, 3.0),
        "size_bytes": num_bytes, "weight_bytes": None, "executed_layers": {}, "note": "",
    }  # fmt: skip


CHECK = {"name": "max_drop_pp", "status": "PASSED", "sentence": "top-1 drop 1.00 pp, within 2 pp"}
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
    "machine": {"cpu": "Test CPU", "instruction_sets": ["avx2"]},
    "latency_options": {"batch": 1, "threads": 2, "rounds": 10},
    "context": {"baseline_sha256": "cd" * 32, "engines": {}},
}


CHANGED = {
    "image": "/gone/cell.png", "sha256": "ef" * 32, "label": 0, "before": 0, "after": 1,
    "baseline_scores": [0.6, 0.4], "engine_scores": [0.45, 0.55],
}  # fmt: skip
REPORT["rows"][2]["accuracy"]["changed"] = [CHANGED]


@pytest.fixture
def report():
    """A whole report that passed; a copy for each test."""
    return copy.deepcopy(REPORT)


@pytest.fixture(scope="session")
def whole_report():
    """The same, not to be changed."""
    return REPORT


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
