"""inspect --dla: what would run on a Jetson's deep learning accelerator."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_inception.cli import main

BODY = """
    stem = Conv(image, kernel)
    mean = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(stem)
    side = Conv(mean, one)
    joined = Concat<axis=1>(stem, side)
    pooled = GlobalAveragePool(joined)
    flat = Flatten(pooled)
    logits = Gemm<transB=1>(flat, classes)
"""


@pytest.fixture
def graph(tmp_path):
    """A stem, a block with a border rule that DLA lacks, and a head that it lacks."""
    text = (
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] image) => (logits) {{{BODY}}}'
    )
    model = onnx.parser.parse_model(text)
    shapes = {"kernel": (4, 3, 3, 3), "one": (4, 4, 1, 1), "classes": (5, 8)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()
    )
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, str(tmp_path / "graph.onnx"))
    return tmp_path / "graph.onnx"


def printed(capsys, *words, code=0):
    capsys.readouterr()
    assert main.run(["inspect", *map(str, words)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_people_read_where_layers_run_and_why(graph, capsys):
    """Before the rewrites two cuts, after them one piece; every reason with layer and source."""
    flags = ("--target", "agx-orin-64gb", "--dla", "--batch", "2", "--no-layers")
    out = printed(capsys, graph, *flags)
    text = " ".join(out.split())
    assert "dla 2 cores of DLA 2.0 in agx-orin-64gb" in text
    assert "as it is 4 layers on DLA in 3 subgraphs of at most 16, 3 on the GPU" in text
    assert "1 AveragePool: it averages real pixels only" in text
    assert "(mean) [TensorRT docs" in text
    assert "for DLA 7 layers on DLA in 1 subgraph of at most 16, 1 on the GPU" in text
    assert "1 Flatten: a view of rank 2" in text
    assert "last word" in text
    assert max(len(line) for line in out.splitlines() if str(graph) not in line) <= 80


def test_programs_read_every_verdict(graph, capsys):
    """JSON holds each layer's verdict, source and subgraph, before and after."""
    flags = ("--target", "agx-xavier-32gb", "--dla", "--batch", "1", "--json")
    record = json.loads(printed(capsys, graph, *flags))["dla"]
    assert {name: len(plan["verdicts"]) for name, plan in record.items()} == {
        "as_it_is": 7,
        "rewritten": 8,
    }
    first = record["as_it_is"]
    assert first["generation"] == "NVDLA 1.0"
    assert [v["subgraph"] for v in first["verdicts"]] == [0, None, 1, 1, None, None, 2]
    assert all(v["source"] for v in first["verdicts"])
    assert [v["name"] for v in record["rewritten"]["verdicts"] if v["reason"]] == ["flat"]


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (("--dla",), "--dla without --target", "agx-orin-64gb"),
        (("--target", "agx-orin-64gb"), "--target without --dla", "give both"),
        (("--dla", "--target", "orin-nano-8gb"), "'orin-nano-8gb' has no DLA", "orin-nx-16gb"),
        (("--dla", "--target", "agx-orin-64gb"), "free sizes N", "--batch"),
        (("--dla", "--target", "agx-orin"), "no target named", "agx-orin-64gb"),
    ],
)
def test_what_cannot_be_answered(graph, capsys, flags, message, hint):
    """One line says what is wrong, the next what to type."""
    said = printed(capsys, graph, *flags, code=3)
    assert message in said.splitlines()[0]
    assert hint in said.splitlines()[1]
