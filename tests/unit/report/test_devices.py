"""Records of a device on the host: what ``edge-inception report`` says of them."""

from __future__ import annotations

import json

import pytest

from edge_inception.cli import main
from edge_inception.device import jetson_board

BUNDLE = {"name": "inception_v4", "version": "0123456789ab"}
ENGINE = {"precision": "int8", "backend": "tensorrt", "tensorrt": "10.3.0"}
# fmt: off
CHECKS = [
    {"name": "files", "status": "PASSED", "got": 45, "wanted": 45,
     "sentence": "45 files are those of the manifest"},
    {"name": "classes", "status": "PASSED", "got": 100.0, "wanted": 100.0,
     "sentence": "100.0 % of golden images"},
]
# fmt: on
BUILT = {
    **ENGINE,
    "schema": "edge-inception/device-engine",
    "key": "k",
    "file": "model.engine",
    "bundle": "0123456789ab",
    "graph": "g",
    "graph_sha256": "cd",
    "typing": "strong",
    "dla_core": None,
    "sha256": "ab",
    "bytes": 1,
    "build_s": 1.5,
    "sm": "8.7",
    "device": "Orin",
    "created_utc": "2026-11-25T19:00:00Z",
    "warnings": [],
}  # fmt: skip
BOARD = {
    **dict.fromkeys(jetson_board.Board._fields),
    **dict.fromkeys(("machine", "system", "python", "container", "hostname_hash"), "x"),
    "model": "Orin Nano", "power_modes": {"0": "15W", "10": "MAXN"}, "temperatures_c": {"cpu": 41},
    "unread": [],
}  # fmt: skip
VERIFY = {
    "schema": "edge-inception/verify",
    "schema_version": 1,
    "status": "PASSED",
    "created_utc": "2026-11-25T19:00:00Z",
    "bundle": BUNDLE,
    "engine": BUILT,
    "board": BOARD,
    "checks": CHECKS,
    "num_images": 0,
}
RUN = {
    "arm": "A", "t0": "2026-11-25T19:00:00Z", "n": 300, "mean": 3.6, "median": 3.5, "p90": 3.75,
    "p99": 4.25, "cov": 0.02, "gpu_median": 3.0, "open_s": 0.5, "samples_ms": [3.5] * 300,
    "temp_c": {"start": {}, "end": {}}, "gpu_mhz_min": None,
    "warnings": ["clocks are not locked: sudo jetson_clocks"],
}  # fmt: skip
BENCH = {
    "schema": "edge-inception/bench",
    "schema_version": 1,
    "kind": "single",
    "created_utc": "2026-11-25T19:00:00Z",
    "tool": {},
    "model": {"name": "inception_v4", "input": [1, 3, 299, 299]},
    "bundle": BUNDLE,
    "engines": {
        "A": {"precision": "int8", "backend": "tensorrt", "plan_trt": "10.3.0", "batch": 1,
              "bytes": 1, "sha256": "ab", "typed": "strong", "graph_sha256": "cd", "dla_core": None}
    },
    "device": {"model": "Orin Nano", "power_mode": {"name": "25W"}, "clocks_locked": False},
    "protocol": {"batch": 1, "streams": 1, "runner": "python", "metric": "host_to_host_ms",
                 "input_sha256": "ef"},
    "runs": [RUN],
    "fingerprint": "0123456789ab",
}  # fmt: skip
HEAD = "inception_v4 0123456789ab on Orin Nano: int8 by tensorrt 10.3.0, 2026-11-25T19:00:00Z"


def report(record, folder, capsys):
    path = folder / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return main.run(["report", str(path)]), capsys.readouterr()


def test_a_verification_ends_with_its_verdict(tmp_path, capsys):
    """Passed is 0, failed is 6 with the check that failed; every check has its line."""
    code, said = report(VERIFY, tmp_path, capsys)
    assert code == 0
    lines = said.out.splitlines()
    assert lines[0] == HEAD
    assert len(lines) == 4
    assert lines[-1] == "PASSED: the device answers as it was validated"
    failed = {**CHECKS[1], "status": "FAILED", "sentence": "87.5 % of golden images"}
    broken = {**VERIFY, "status": "FAILED", "checks": [CHECKS[0], failed]}
    code, said = report(broken, tmp_path, capsys)
    assert code == 6
    assert said.out.splitlines()[-1] == "FAILED: 87.5 % of golden images"


def test_a_latency_says_how_it_was_measured(tmp_path, capsys):
    """Device, power mode, clocks, percentiles, the GPU's share, and what makes them doubtful."""
    code, said = report(BENCH, tmp_path, capsys)
    assert code == 0
    assert said.out.splitlines() == [
        HEAD,
        "power mode 25W, clocks not locked",
        "batch 1, 300 calls: p50 3.50 ms, p90 3.75 ms, p99 4.25 ms",
        "of that on the GPU, median: 3.00 ms",
        "warning: clocks are not locked: sudo jetson_clocks",
    ]


@pytest.mark.parametrize(
    ("record", "reads"), [(VERIFY, "reads 1"), (BENCH, "reads 1 to 2")], ids=["verify", "bench"]
)
def test_a_later_version_is_refused(record, reads, tmp_path, capsys):
    """A schema that this program does not read is an input error with both versions."""
    code, said = report({**record, "schema_version": 3}, tmp_path, capsys)
    assert code == 3
    assert "version 3" in said.err
    assert reads in said.err
