from __future__ import annotations

import json

import pytest

from edge_inception.cli import main
from edge_inception.engines import _openvino

pytestmark = [pytest.mark.slow, pytest.mark.cpu_isa]


@pytest.fixture(params=[False, True], ids=["a CPU without bf16", "a CPU with bf16"])
def has_bf16(request, monkeypatch) -> bool:
    """Whether a build here makes an engine of bf16 arithmetic as well: on any CPU none, if told."""
    found = _openvino.capabilities()
    if request.param and "BF16" not in found:
        pytest.skip("this CPU has no bf16; validate/test_run.py has a build that was on one")
    kept = [one for one in found if one != "BF16" or request.param]
    monkeypatch.setattr(_openvino, "capabilities", lambda: kept)
    return request.param


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


def test_an_engine_that_misses_a_gate_is_withheld_where_the_other_ships(
    copied, workshop, has_bf16, capsys
):
    """INT8 and bf16 are under the SQNR that FP16 reaches: FP16 ships, no failed engine lies by."""
    arguments = ["--precision", "best", "--target", "cpu", "--min-sqnr", "45", "--json"]
    code = main.run(["build", "--recipe", str(workshop.recipe), "--out", str(copied), *arguments])
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert code == 0, captured.err
    (choice,) = report["choices"]
    assert choice["failed"] == ["engine bf16 (cpu)", "INT8 (cpu)"][not has_bf16 :]
    assert choice["row"] == "FP16 (cpu)"
    assert (copied / "model.fp16.cpu.blob").exists()
    for failed in ("fp32.cpu.bf16", "int8.cpu")[not has_bf16 :]:
        assert not (copied / f"model.{failed}.blob").exists()
        assert not (copied / f"model.{failed}.blob.json").exists()
    assert "gate failed" in captured.err


def test_best_is_refused_for_another_machine(workshop, tmp_path, capsys):
    """A Jetson's precision cannot be chosen by the speed of this machine: exit 3, and the way."""
    arguments = ["--precision", "best", "--target", "orin-nano-8gb", "--out", str(tmp_path / "out")]
    assert main.run(["build", "--recipe", str(workshop.recipe), *arguments]) == 3
    error = capsys.readouterr().err
    assert "--precision best measures on this machine" in error
    assert "device.py bench" in error
