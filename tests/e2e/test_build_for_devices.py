"""A build for hardware that compiles for itself: the graphs it needs, validated before it is met."""

from __future__ import annotations

import json

import pytest

from edge_inception import cli

pytestmark = pytest.mark.slow


def test_every_spelling_that_the_device_may_need_is_validated(workshop, tmp_path, capsys):
    """JetPack 5 to 7 need both spellings; each stands in the report and is judged by the gates."""
    out = tmp_path / "out"
    flags = ["--recipe", str(workshop.recipe), "--target", "orin-nano-8gb", "--out", str(out)]
    code = cli.run(["build", *flags, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (out / "model.int8.onnx").exists()
    assert (out / "model.int8.weak.onnx").exists()
    judged = {row["name"] for row in report["rows"] if row["role"] == "subject"}
    assert {"INT8 (cpu)", "INT8 (cpu, weak typing)"} <= judged
    named = " ".join(check["sentence"] for check in report["verdict"]["checks"])
    assert "INT8 (cpu, weak typing)" in named
