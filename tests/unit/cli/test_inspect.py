"""inspect: what people and programs read, and what is said of files that are no graph."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_inception.cli import main

WIDTH = 80
IMAGE, LOGITS = "(float[N,3,8,8] image)", "(float[?,?] logits)"
BODY = """
    wide = Conv<pads=[1,1,1,1]>(image, kernel, bias)
    kept, mask = Dropout(wide)
    pooled = GlobalAveragePool(kept)
    flat = Flatten(pooled)
    logits = Gemm<transB=1>(flat, classes)
"""
PARAMETERS = 6 * 3 * 9 + 6 + 5 * 6
MACS = 6 * 27 * 64 + 5 * 6
BYTES = 4 * (3 * 64 + 6 * 64 + 6 * 64 + 6 + 6 + 5)
PEAK = 4 * (6 * 64 + 6 * 64)


def saved(path, body=BODY, image=IMAGE, logits=LOGITS, domains=""):
    """A classifier of 6 filters of 3 x 3 and 5 classes."""
    text = f'<ir_version: 8, opset_import: ["" : 18{domains}]> g {image} => {logits} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    shapes = {"kernel": (6, 3, 3, 3), "bias": (6,), "classes": (5, 6)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in shapes.items()
        if name in body
    )
    onnx.save(model, str(path))
    return path


def printed(capsys, *words):
    capsys.readouterr()
    assert main.run(["inspect", *map(str, words)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_json_has_every_field(tmp_path, capsys):
    """For programs: all names in full, all numbers in closed form."""
    path = saved(tmp_path / "m.onnx")
    record = json.loads(printed(capsys, path, "--json"))
    layers = record.pop("layers")
    assert record == {
        "graph": str(path),
        "opsets": {"ai.onnx": 18},
        "ir_version": 8,
        "producer": "",
        "inputs": [{"name": "image", "element": "float32", "sizes": [1, 3, 8, 8]}],
        "outputs": [{"name": "logits", "element": "float32", "sizes": [1, 5]}],
        "ops": {"Conv": 1, "Dropout": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1},
        "parameters": [{"element": "float32", "count": PARAMETERS, "num_bytes": 4 * PARAMETERS}],
        "macs": MACS,
        "activation_bytes": BYTES,
        "peak_bytes": PEAK,
        "peak_at": "-> kept, mask",
        "num_constant_nodes": 0,
        "unknown_shapes": [],
        "unknown_macs": {},
    }
    assert layers[0] == {
        "name": "-> wide",
        "op": "Conv",
        "sizes": [1, 6, 8, 8],
        "num_parameters": 168,
        "macs": 6 * 27 * 64,
        "num_read": 3 * 64,
        "num_written": 6 * 64,
    }
    assert [layer["op"] for layer in layers] == [
        "Conv", "Dropout", "GlobalAveragePool", "Flatten", "Gemm",
    ]  # fmt: skip
    assert sum(layer["num_parameters"] for layer in layers) == PARAMETERS
    assert sum(layer["macs"] for layer in layers) == MACS


def test_json_of_a_batch_without_layers(tmp_path, capsys):
    """Work and activations grow with the batch, parameters do not; --no-layers leaves them out."""
    path = saved(tmp_path / "m.onnx")
    record = json.loads(printed(capsys, path, "--json", "--no-layers", "--batch", "4"))
    assert "layers" not in record
    assert (record["macs"], record["activation_bytes"]) == (4 * MACS, 4 * BYTES)
    assert record["parameters"][0]["count"] == PARAMETERS
    assert record["inputs"][0]["sizes"] == [4, 3, 8, 8]


def test_the_table_is_of_one_width_and_ends_with_its_sums(tmp_path, capsys):
    """A row per layer in 80 columns, names shortened in the middle, and the totals beneath."""
    long = "/".join(f"block{i}" for i in range(30))
    model = onnx.load(saved(tmp_path / "m.onnx"))
    for node in model.graph.node:
        node.name = f"{long}/{node.op_type}"
    onnx.save(model, str(tmp_path / "long.onnx"))
    text = printed(capsys, tmp_path / "long.onnx", "--batch", "1000")
    table, _, summary = text.partition("\n\n")
    rows = table.splitlines()
    assert {len(row) for row in rows} == {WIDTH}
    assert rows[0].split() == ["layer", "op", "output", "params", "MMACs"]
    assert rows[1].startswith("block0/")
    assert rows[1].split()[0].endswith("/Conv")
    assert rows[1].split()[1:] == ["Conv", "1000x6x8x8", "168", "10.4"]
    assert rows[2].split()[1:] == ["Dropout", "1000x6x8x8"]
    assert rows[5].split()[1:] == ["Gemm", "1000x5", "30", "0.0"]
    assert rows[6].split() == ["total", f"{PARAMETERS}", f"{1000 * MACS / 1e6:,.1f}"]
    assert len(rows) == 7
    assert f"multiply-adds  {1000 * MACS:,}\n" in summary


def test_the_summary_says_everything_once(tmp_path, capsys):
    """Lead words on the left, numbers in closed form, no note where nothing is unknown."""
    path = saved(tmp_path / "m.onnx")
    assert printed(capsys, path, "--no-layers").splitlines() == [
        f"graph          {path}",
        "format         opset 18, IR version 8",
        "input          image float32 1x3x8x8",
        "output         logits float32 1x5",
        "nodes          5: 1 Conv, 1 Dropout, 1 Flatten, 1 Gemm, 1 GlobalAveragePool",
        "parameters     198 in 792 B: 198 float32",
        "multiply-adds  10,398",
        f"activations    {BYTES / 1024:.1f} KiB in all, peak 3.0 KiB at -> kept, mask",
    ]


def test_what_is_not_known_makes_sums_a_least(tmp_path, capsys):
    """A custom op costs an unknown number: "at least" stands before each sum it is missing in."""
    body = "odd = me.Odd(image) wide = Conv(image, kernel, bias) logits = me.Join(odd, wide)"
    path = saved(tmp_path / "m.onnx", body, domains=', "me" : 1')
    table, _, summary = printed(capsys, path).partition("\n\n")
    assert table.splitlines()[1].split()[2:] == ["me.Odd", "?", "?"]
    size = f"{4 * (3 * 64 + 6 * 36) / 1024:.1f} KiB"
    assert summary.splitlines()[-4:] == [
        f"multiply-adds  at least {6 * 27 * 36:,}",
        f"activations    at least {size} in all, peak at least {size} at -> wide",
        "note           2 nodes have unknown shape: -> odd, -> logits",
        "note           multiply-adds not known of 1 me.Join, 1 me.Odd",
    ]


def test_a_graph_of_constants_has_no_layers(tmp_path, capsys):
    """No parameters and no peak: nothing is listed after a colon that has nothing to list."""
    path = saved(tmp_path / "m.onnx", "y = Constant<value_float = 1.0>()", "(float x)", "(float y)")
    text = printed(capsys, path)
    assert "parameters     0\n" in text
    assert "activations    4 B in all\n" in text
    assert "note           1 nodes compute constants and are no layers" in text


def test_names_cannot_break_the_lines(tmp_path, capsys):
    """A name with a line break or a terminal's escape is written with escapes."""
    model = onnx.load(saved(tmp_path / "m.onnx"))
    model.graph.node[1].name = "two\nlines\x1b[31m"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    text = printed(capsys, tmp_path / "odd.onnx")
    assert "\x1b" not in text
    assert r"two\nlines\x1b[31m " in text
    assert text.endswith("peak 3.0 KiB at two\\nlines\\x1b[31m\n")


def _nothing(path):
    return path


def _words(path):
    path.write_text("hello", encoding="utf-8")
    return path


def _sidecar(path):
    path = path.with_name("m.onnx.json")
    path.write_text('{"stage": "export"}', encoding="utf-8")
    return path


def _empty(path):
    path.write_bytes(b"")
    return path


def _cut(path):
    content = saved(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _short_weight(path):
    model = onnx.load(saved(path))
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    path.write_bytes(model.SerializeToString())
    return path


def _without_data(path):
    model = onnx.load(saved(path))
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    path.with_name("w.bin").unlink()
    return path


def _with_short_data(path):
    model = onnx.load(saved(path))
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    path.with_name("w.bin").write_bytes(b"\0" * 8)
    return path


REFUSED = {
    "no such file": (_nothing, "cannot read graph {}: No such file or directory"),
    "a folder": (lambda path: path.parent, "cannot read graph {}: Is a directory"),
    "not ONNX": (_words, "{} is truncated or not an ONNX file"),
    "a sidecar": (_sidecar, "{} is truncated or not an ONNX file"),
    "empty": (_empty, "{} is not an ONNX graph: it has no nodes or no opset"),
    "truncated": (_cut, "{} is truncated or not an ONNX file"),
    "a short weight": (
        _short_weight,
        (
            "{}: weight 'kernel' is truncated or malformed: cannot reshape array of size 161 into "
            "shape (6,3,3,3)"
        ),
    ),
    "no external data": (_without_data, "{} keeps 3 weights in 'w.bin', which cannot be read"),
    "short external data": (
        _with_short_data,
        "{} keeps 3 weights in 'w.bin', which cannot be read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_graph(tmp_path, capsys, case):
    """One exact first line on stderr, a hint, nothing on stdout, exit code 3."""
    make, line = REFUSED[case]
    path = make(tmp_path / "m.onnx")
    capsys.readouterr()
    assert main.run(["inspect", str(path)]) == 3
    said = capsys.readouterr()
    first, second = said.err.splitlines()
    assert first == f"error: {line.format(path)}"
    assert second.startswith("hint: ")
    assert said.out == ""


def test_another_batch_than_the_graphs(tmp_path, capsys):
    """A fixed batch is not overruled in silence."""
    path = saved(tmp_path / "m.onnx", image="(float[2,3,8,8] image)")
    assert main.run(["inspect", str(path), "--batch", "3"]) == 3
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "error: the graph's batch is 2, wanted 3"
    assert main.run(["inspect", str(path), "--batch", "0"]) == 2
