"""Checkpoint to validated engine on a tiny network, as a user would do it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import edge_inception
from edge_inception import artifact, cli, images
from edge_inception.artifact import EngineFile, RangeTable, SimplifiedGraph, TypedGraph
from edge_inception.spec import Preprocess

pytestmark = pytest.mark.slow


def build(workshop, out: Path, *flags: str) -> int:
    return cli.run(["build", "--recipe", str(workshop.recipe), "--out", str(out), *flags])


@pytest.fixture(scope="module")
def built(workshop, tmp_path_factory):
    """The output folder of one undisturbed build."""
    out = tmp_path_factory.mktemp("out")
    assert build(workshop, out) == 0
    return out


def test_build_writes_the_documented_files(built):
    """Every artifact and its sidecar are where the README says."""
    names = {path.name for path in built.iterdir()}
    wanted = {
        "model.onnx",
        "model.simplified.onnx",
        "baseline.npz",
        "model.ranges.json",
        "model.fp32.onnx",
        "model.int8.onnx",
        "model.fp32.cpu.blob",
        "model.int8.cpu.blob",
        "report.json",
    }
    assert wanted | {f"{name}.json" for name in wanted} | {"report.md"} <= names
    assert not [name for name in names if name.endswith(".partial")]


def test_every_conv_is_quantized_and_counted(built):
    """The counts in the sidecar are those of the graph, read with onnx alone."""
    import onnx

    typed = artifact.load(TypedGraph, built / "model.int8.onnx")
    model = onnx.load(str(typed.path))
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    producers = {out: node.op_type for node in model.graph.node for out in node.output}
    quantized = [
        node for node in convs if all(producers[i] == "DequantizeLinear" for i in node.input[:2])
    ]
    assert len(quantized) == len(convs) == typed.counts["conv_quantized"]


def test_engine_runs_the_images_like_onnxruntime(built, workshop):
    """The shipped engine's logits are those of the typed graph in onnxruntime."""
    import onnxruntime

    how = Preprocess(input_size=(107, 107))
    photos = sorted(workshop.calibration.iterdir())[:4]
    pixels = np.stack([images.load_image(path, how) for path in photos])
    reference = onnxruntime.InferenceSession(str(built / "model.int8.onnx"))
    expected = np.concatenate(
        [reference.run(None, {"input": pixels[i : i + 1]})[0] for i in range(4)]
    )
    with edge_inception.open_engine(built / "model.int8.cpu.blob") as session:
        got = session.run(pixels)
    # OpenVINO keeps the float rest in float32, onnxruntime computes it in float16, and a value on
    # the edge of two int8 levels may fall to either side: 20 dB is one level in ten.
    error = np.square(got - expected).sum() / np.square(expected).sum()
    assert 10 * np.log10(1 / error) > 20


def test_report_agrees_with_its_own_verdict(built):
    """The judged engine is int8, was timed beside PyTorch, and met its gate."""
    report = json.loads((built / "report.json").read_text(encoding="utf-8"))
    subject = next(row for row in report["rows"] if row["role"] == "subject")
    assert subject["precision"] == "int8"
    assert report["verdict"]["status"] == "PASSED"
    assert subject["accuracy"]["sqnr_db"] >= 5.0
    assert subject["latency"]["p50_ms"] > 0
    assert report["rows"][0]["name"] == "PyTorch FP32"


def test_second_build_reuses_everything(built, workshop, capfd):
    """Nothing changed: every stage says so, no file is written, in under 3 s."""
    before = {path: path.stat().st_mtime_ns for path in built.glob("model*")}
    command = [sys.executable, "-m", "edge_inception", "build", "--recipe", str(workshop.recipe)]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "--out", str(built)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 10  # the figure is the benchmark's; this catches a rebuild
    stages = [line for line in done.stderr.splitlines() if line.endswith("reused")]
    assert len(stages) >= 9
    assert {path: path.stat().st_mtime_ns for path in built.glob("model*")} == before
    capfd.readouterr()


def test_dry_run_says_what_and_why(built, workshop, capsys):
    """A changed calibrator is named as the reason; nothing is written."""
    before = sorted((path, path.stat().st_mtime_ns) for path in built.iterdir())
    assert build(workshop, built, "--dry-run", "--calibrator", "max") == 0
    text = capsys.readouterr().out
    assert "calibrate" in text
    assert "calibrator" in text
    assert sorted((path, path.stat().st_mtime_ns) for path in built.iterdir()) == before


def test_classify_with_the_shipped_engine(built, workshop, capsys):
    """A dark photo is called dark, from the command line and from Python."""
    photo = min((workshop.validation / "dark").iterdir())
    engine = built / "model.int8.cpu.blob"
    assert cli.run(["classify", "--engine", str(engine), str(photo)]) == 0
    assert "dark" in capsys.readouterr().out.rpartition(":")[2].split(",")[0]
    (prediction,) = edge_inception.classify(engine, [photo], top=1)
    assert prediction.top[0][0] == "dark"


def test_missed_gate_ships_no_engine(workshop, tmp_path, capsys):
    """An impossible SQNR gate: exit 6, FAILED last, and the int8 engine is gone."""
    out = tmp_path / "out"
    assert build(workshop, out, "--min-sqnr", "500") == 6
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("FAILED")
    assert not (out / "model.int8.cpu.blob").exists()
    assert (out / "model.int8.onnx").exists()
    assert build(workshop, out, "--min-sqnr", "500", "--keep-failed") == 6
    assert artifact.load(EngineFile, out / "model.int8.cpu.blob")
    capsys.readouterr()


def test_calibrating_on_validation_images_is_refused(workshop, tmp_path, capsys):
    """The same bytes in both roles: exit 3 and the number of them."""
    same = str(workshop.validation / "dark")
    assert build(workshop, tmp_path / "out", "--calibration", same) == 3
    assert "20 calibration images are also validation images" in capsys.readouterr().err


def test_class_folders_must_fit_the_head(workshop, tmp_path, capsys):
    """Three class folders for a head of two classes: exit 3 naming both counts."""
    folder = tmp_path / "three"
    source = min((workshop.validation / "dark").iterdir())
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").write_bytes(source.read_bytes())
    assert build(workshop, tmp_path / "out", "--validation", str(folder)) == 3
    error = capsys.readouterr().err
    assert "3 class" in error
    assert "2 classes" in error


def test_range_table_of_another_graph_is_refused(built, workshop, tmp_path, capsys):
    """quantize takes only the table of the very graph it is given."""
    graph = artifact.load(SimplifiedGraph, built / "model.simplified.onnx")
    ranges = artifact.load(RangeTable, built / "model.ranges.json")
    other = tmp_path / "out"
    assert build(workshop, other, "--option", "width=0.03", "--precision", "fp32") == 3
    capsys.readouterr()
    assert graph.sha256 in ranges.provenance.parents.values()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_precisions_reach_an_engine(workshop, tmp_path, precision, capsys):
    """fp32 and fp16 go through the same stages to PASSED."""
    assert build(workshop, tmp_path / "out", "--precision", precision) == 0
    assert (tmp_path / "out" / f"model.{precision}.cpu.blob").is_file()
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("PASSED")


def test_plain_validation_folder_rests_on_agreement(workshop, tmp_path, capsys):
    """Without labels: accuracy is not claimed, agreement and SQNR decide."""
    out = tmp_path / "out"
    flags = ("--validation", str(workshop.validation / "dark"), "--min-agreement", "0.8")
    code = build(workshop, out, *flags)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    subject = next(row for row in report["rows"] if row["role"] == "subject")
    assert subject["accuracy"]["labelled"] is None
    assert code in {0, 6, 8}
    assert {check["name"] for check in report["verdict"]["checks"]} == {
        "min_agreement",
        "min_sqnr_db",
    }
    capsys.readouterr()


def test_output_folder_in_use(workshop, tmp_path, capsys):
    """A second build into a folder that is being built: exit 3 with the process."""
    from edge_inception import stage

    with stage.lock(tmp_path / "out"):
        assert build(workshop, tmp_path / "out") == 3
    assert "in use by another build" in capsys.readouterr().err
