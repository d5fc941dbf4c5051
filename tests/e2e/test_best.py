from __future__ import annotations

import json

import pytest

from edge_inception.cli import main

pytestmark = pytest.mark.slow


def test_best_builds_both_and_ships_one(copied, workshop, capsys):
    """FP16 and INT8 of both targets are built, one of each is chosen by its evidence."""
    arguments = ["--precision", "best", "--target", "cpu", "--target", "rtx", "--json"]
    code = main.run(["build", "--recipe", str(workshop.recipe), "--out", str(copied), *arguments])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    cpu, rtx = report["choices"]
    assert (cpu["target"], rtx["target"]) == ("cpu", "rtx")
    subjects = [row["name"] for row in report["rows"] if row["role"] == "subject"]
    assert subjects == [cpu["row"]]
    timed = {row["name"]: row["latency"] for row in report["rows"]}
    assert timed["INT8 (cpu)"]
    assert timed["FP16 (cpu)"]
    plans = {}
    for precision in ("fp16", "int8"):
        sidecar = copied / f"model.{precision}.rtx.engine.json"
        plans[precision] = json.loads(sidecar.read_text())["details"]["num_kernels"]
    assert f"{plans['int8']} kernels" in rtx["sentence"]
    assert f"{plans['fp16']} kernels" in rtx["sentence"]


def test_a_failed_gate_ships_neither(copied, workshop, capsys):
    """No engine that competed is left where even the better one misses a gate."""
    arguments = ["--precision", "best", "--target", "cpu", "--min-sqnr", "500"]
    code = main.run(["build", "--recipe", str(workshop.recipe), "--out", str(copied), *arguments])
    assert code == 6
    capsys.readouterr()
    for precision in ("fp16", "int8"):
        assert not (copied / f"model.{precision}.cpu.blob").exists()


def test_an_engine_that_misses_a_gate_is_withheld_where_the_other_ships(copied, workshop, capsys):
    """INT8 is far under the SQNR that FP16 reaches: FP16 ships, and no failed engine lies by it."""
    arguments = ["--precision", "best", "--target", "cpu", "--min-sqnr", "45", "--json"]
    code = main.run(["build", "--recipe", str(workshop.recipe), "--out", str(copied), *arguments])
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert code == 0, captured.err
    (choice,) = report["choices"]
    assert choice["failed"] == ["INT8 (cpu)"]
    assert choice["row"] != "INT8 (cpu)"
    assert (copied / "model.fp16.cpu.blob").exists()
    assert not (copied / "model.int8.cpu.blob").exists()
    assert not (copied / "model.int8.cpu.blob.json").exists()
    assert "gate failed" in captured.err


def test_best_is_refused_for_another_machine(workshop, tmp_path, capsys):
    """A Jetson's precision cannot be chosen by the speed of this machine: exit 3, and the way."""
    arguments = ["--precision", "best", "--target", "orin-nano-8gb", "--out", str(tmp_path / "out")]
    assert main.run(["build", "--recipe", str(workshop.recipe), *arguments]) == 3
    error = capsys.readouterr().err
    assert "--precision best measures on this machine" in error
    assert "device.py bench" in error
