from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_inception import artifact
from edge_inception.artifact import TypedGraph
from edge_inception.cli import main
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions
from edge_inception.latency.record import read_record, to_json

pytestmark = pytest.mark.slow
SHORT = ("--warm-up", "50", "--duration", "0.3", "--iterations", "16", "--threads", "1")
BENCH = ("bench", *SHORT, "--fixed")
FEW = ("--pairs", "3", "--most-pairs", "4")


@pytest.fixture(scope="module")
def numeric(built, tmp_path_factory):
    """The graphs of both precisions on onnxruntime."""
    folder, made = tmp_path_factory.mktemp("numeric"), []
    for precision in ("fp32", "int8"):
        typed = artifact.load(TypedGraph, built / f"model.{precision}.onnx")
        made.append(folder / f"model.{precision}.ort.onnx")
        backends.backend("onnxruntime").compile(typed, CompileOptions(), made[-1])
    return made


@pytest.fixture(scope="module")
def heavy(built, tmp_path_factory):
    """The fp32 graph with a billion multiply-adds beside it that change nothing: far slower."""
    folder = tmp_path_factory.mktemp("heavy")
    typed = artifact.load(TypedGraph, built / "model.fp32.onnx")
    model = onnx.load(str(typed.path))
    graph, channels, name = model.graph, 64, model.graph.input[0].name
    nodes = []
    for index in range(6):
        shape = (channels, 3 if index == 0 else channels, 3, 3)
        weight = numpy_helper.from_array(np.full(shape, 1e-3, np.float32), f"heavy.weight{index}")
        graph.initializer.append(weight)
        result = f"heavy.{index}"
        nodes.append(helper.make_node("Conv", [name, weight.name], [result], pads=[1, 1, 1, 1]))
        name = result
    graph.initializer.append(numpy_helper.from_array(np.float32(1e-30), "heavy.little"))
    last = graph.output[0].name
    for node in graph.node:
        node.output[:] = [f"{last}.light" if out == last else out for out in node.output]
    nodes.append(helper.make_node("ReduceMean", [name], ["heavy.mean"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["heavy.mean", "heavy.little"], ["heavy.added"]))
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("Add", [f"{last}.light", "heavy.added"], [last]))
    made = artifact.publish(
        TypedGraph,
        folder / "heavy.onnx",
        model.SerializeToString(),
        provenance=typed.provenance,
        details=typed.details,
    )
    path = folder / "heavy.cpu.blob"
    backends.backend("openvino").compile(made, CompileOptions(), path)
    return path


def test_bench_of_every_engine_that_runs_here(built, numeric, workshop, tmp_path, capsys):
    """Figures for people, and a record of schema 2 with every sample, fed with real photos."""
    for engine in (built / "model.int8.cpu.blob", built / "model.fp32.cpu.blob", *numeric):
        out = tmp_path / "bench.json"
        photos = ("--images", str(workshop.calibration))
        assert main.run([*BENCH, str(engine), *photos, "--out", str(out)]) == 0
        lines = capsys.readouterr().out
        assert "p50" in lines
        assert "images/s" in lines
        record = read_record(out)
        assert to_json(record) == out.read_bytes()  # of this version, and whole
        assert record.schema_version == 2
        run = record.runs[0]
        assert run.n == len(run.samples_ms) == sum(run.blocks)
        assert run.median <= run.p90 <= run.p95
        assert record.protocol.input == "16 images of photos"


def test_bench_of_each_layer(built, numeric, tmp_path, capsys):
    """The page draws the times on the blocks of the very engine; a library without is refused."""
    out, page = tmp_path / "bench.json", tmp_path / "page.html"
    assert (
        main.run([*BENCH, str(built / "model.int8.cpu.blob"), "--layers", "--out", str(out)]) == 0
    )
    names = {layer.name for layer in read_record(out).layers}
    graph = onnx.load(str(built / "model.simplified.onnx")).graph
    assert names > {node.name for node in graph.node if node.op_type == "Conv"}
    (gemm,) = (node for node in graph.node if node.op_type == "Gemm")
    assert names & {gemm.name, gemm.output[0]}  # OpenVINO names one in float after its output
    assert main.run(["report", str(built), str(out), "--html", str(page)]) == 0
    assert " us</text>" in page.read_text()
    assert main.run([*BENCH, str(numeric[0]), "--layers"]) == 3
    assert "onnxruntime, which does not time its layers" in capsys.readouterr().err


def test_bench_of_an_engine_that_cannot_run_here(copied, capsys):
    """A TensorRT-RTX engine without a GPU: exit 4, and no figure."""
    typed = artifact.load(TypedGraph, copied / "model.fp32.onnx")
    engine = copied / "model.fp32.rtx.engine"
    backends.backend("tensorrt_rtx").compile(typed, CompileOptions(), engine)
    assert main.run([*BENCH, str(engine)]) == 4
    assert "cannot run here" in capsys.readouterr().err


def test_several_batches_are_several_records(built, capsys):
    """A batch that the engine does not take is refused with those that it takes."""
    engine = str(built / "model.int8.cpu.blob")
    assert main.run([*BENCH, engine, "--batch", "1", "--batch", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main.run([*BENCH, engine, "--batch", "64"]) == 3
    assert "takes batches of 1 to" in capsys.readouterr().err


def test_a_slower_engine_fails_with_all_its_reports(built, heavy, workshop, tmp_path, capsys):
    """Exit 6; the last line, JUnit XML, Markdown and JSON say the same; accuracy is judged too."""
    engines = (str(built / "model.fp32.cpu.blob"), str(heavy))
    files = {name: tmp_path / name for name in ("junit", "markdown", "out")}
    flags = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    flags += ["--validation", str(workshop.validation), "--max-drop", "20"]
    assert main.run(["compare", *engines, *SHORT, *FEW, *flags]) == 6
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("FAILED: fail, B is ")
    assert files["markdown"].read_text().startswith("**FAILED")
    suite = ET.parse(files["junit"]).getroot().find("testsuite")  # noqa: S314 -- our own
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    record = json.loads(files["out"].read_text())
    assert record["result"]["verdict"] == "fail"
    assert record["result"]["ci95"][0] > 1.03
    assert record["accuracy"]["verdict"] == "pass"
    assert record["accuracy"]["drop_pp"]["value"] == 0


def test_the_faster_engine_is_an_improvement(built, heavy, capsys):
    """The same two the other way round: exit 0, and it is said."""
    engines = (str(heavy), str(built / "model.fp32.cpu.blob"))
    assert main.run(["compare", *engines, *SHORT, *FEW]) == 0
    assert "PASSED: improved" in capsys.readouterr().out


def test_noise_of_this_machine(built, capsys):
    """One engine against itself never fails, and the number of pairs to use is told."""
    engine = str(built / "model.int8.cpu.blob")
    code = main.run(["compare", "--self", engine, *SHORT, *FEW, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert code in {0, 8}
    assert record["kind"] == "aa"
    assert record["result"]["pairs_needed"] >= 3


def test_another_day_only_warns(built, heavy, tmp_path, capsys):
    """A stored record: a slow-down is inconclusive unless trusted, another protocol is invalid."""
    stored = tmp_path / "stored.json"
    fast = str(built / "model.fp32.cpu.blob")
    assert main.run(["compare", "--self", fast, *SHORT, *FEW, "--out", str(stored)]) in {0, 8}
    against = ("compare", str(heavy), *SHORT, *FEW, "--against", str(stored))
    assert main.run([*against]) == 8
    assert "only warns" in capsys.readouterr().out
    assert main.run([*against, "--trust-stored"]) == 6
    capsys.readouterr()
    record = json.loads(stored.read_text())
    record["protocol"]["batch"] = 4
    stored.write_text(json.dumps(record))
    assert main.run([*against]) == 8
    assert "not the same batch (4 then, 1 now)" in capsys.readouterr().out


def test_what_cannot_be_compared(built, tmp_path, capsys):
    """One engine, a limit that is none, a file that is no record: exit 3, one line each."""
    engine = str(built / "model.int8.cpu.blob")
    assert main.run(["compare", engine]) == 3
    assert main.run(["compare", engine, engine, "--max-regression", "0%"]) == 3
    assert main.run(["compare", engine, engine, "--pairs", "9", "--most-pairs", "4"]) == 3
    broken = tmp_path / "record.json"
    broken.write_text('{"schema": "something else"}')
    assert main.run(["compare", engine, "--against", str(broken), *SHORT]) == 3
    error = capsys.readouterr().err
    for words in ("compare takes A and B, got 1", "0%", "--most-pairs 4", "something else"):
        assert words in error
