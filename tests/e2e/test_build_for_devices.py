"""Build for hardware that compiles for itself: its graphs are validated before it is met."""

from __future__ import annotations

import json

import onnx
import pytest

from edge_inception.cli import main

pytestmark = pytest.mark.slow


def test_every_spelling_that_the_device_may_need_is_validated(workshop, tmp_path, capsys):
    """JetPack 5 to 7 need both spellings; each stands in the report and is judged by the gates."""
    out = tmp_path / "out"
    flags = ["--recipe", str(workshop.recipe), "--target", "orin-nano-8gb", "--out", str(out)]
    code = main.run(["build", *flags, "--bundle", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (out / "model.int8.onnx").exists()
    assert (out / "model.int8.weak.onnx").exists()
    judged = {row["name"] for row in report["rows"] if row["role"] == "subject"}
    assert {"INT8 (cpu)", "INT8 (cpu, weak typing)"} <= judged
    named = " ".join(check["sentence"] for check in report["verdict"]["checks"])
    assert "INT8 (cpu, weak typing)" in named
    (folder,) = (path for path in (out / "bundles").iterdir() if path.is_dir())
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["target"]["tensorrt"] == ["8.5.2", "10.16.2"]
    for graph in manifest["graphs"]:
        name = "model.int8.onnx" if graph["typing"] == "strong" else "model.int8.weak.onnx"
        assert (folder / graph["file"]).read_bytes() == (out / name).read_bytes()


def test_a_bundle_ships_no_graph_that_was_not_validated(built, workshop, tmp_path, capsys):
    """A build for CPUs proved no graph for TensorRT; one of strong typing none for JetPack 5."""
    strong, out = tmp_path / "strong", tmp_path / "bundles"
    to = ["--recipe", str(workshop.recipe), "--out", str(out), "--target", "orin-nano-8gb"]
    assert main.run(["bundle", *to, "--from", str(built), "--jetpack", "6.2"]) == 3
    *_, error, hint = capsys.readouterr().err.splitlines()
    assert error.endswith("is for CPUs, and orin-nano-8gb takes no uint8 activations")
    assert "--typing strong" in hint
    words = ["build", "--recipe", str(workshop.recipe), "--out", str(strong), "--target", "cpu"]
    assert main.run([*words, "--typing", "strong", "--effort", "quick"]) == 0
    capsys.readouterr()
    assert main.run(["bundle", *to, "--from", str(strong)]) == 3
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"error: {strong} has no graph of weak typing, which orin-nano-8gb needs",
        "hint: edge-inception build --target orin-nano-8gb --bundle makes and judges it",
    ]
    assert not out.exists()
    assert main.run(["bundle", *to, "--from", str(strong), "--jetpack", "6.2"]) == 0


def test_dla_gets_a_graph_without_qdq_and_its_scales(workshop, tmp_path, capsys):
    """For JetPack 6.2 that is one TensorRT, so the cache carries its number in the header."""
    out = tmp_path / "out"
    flags = ["--recipe", str(workshop.recipe), "--target", "orin-nx-16gb", "--out", str(out)]
    assert main.run(["build", *flags, "--use-dla"]) == 3
    assert "--jetpack" in capsys.readouterr().err
    code = main.run(["build", *flags, "--use-dla", "--jetpack", "6.2", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert code == 0
    judged = {row["name"] for row in rows if row["role"] == "subject"}
    assert judged == {"INT8 (cpu)", "INT8 (cpu, scales of DLA)"}
    kinds = {node.op_type for node in onnx.load(out / "model.int8.implicit.onnx").graph.node}
    assert not kinds & {"QuantizeLinear", "DequantizeLinear"}
    lines = (out / "model.int8.implicit.cache").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "TRT-100300-EntropyCalibration2"
    assert len(lines) > 20
    assert not (out / "model.int8.weak.onnx").exists(), "TensorRT 10.3 takes the strong one"
    packed = ["--recipe", str(workshop.recipe), "--from", str(out), "--out", str(tmp_path / "b")]
    device = ["--target", "orin-nx-16gb", "--use-dla", "--jetpack", "6.2"]
    assert main.run(["bundle", *packed, *device]) == 0
    folder = tmp_path / "b" / "inception_v4-orin-nx-16gb"
    assert (folder / "graphs/implicit.onnx").exists()
    assert (folder / "calibration.cache").read_text(encoding="utf-8").splitlines() == lines
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["build"]["dla_core"] == 0
