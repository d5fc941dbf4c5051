"""A whole build whose graph takes pixels and answers with a head."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import edge_inception
from edge_inception.cli import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "ends",
    [
        ("uint8", "softmax", "int8"),
        ("uint8-nhwc", "topk:1", "fp16"),
        ("uint8-nhwc", "topk:2", "int8"),
    ],
    ids=" ".join,
)
def test_build_feeds_what_the_graph_takes(workshop, copied, capsys, ends):
    """Every stage feeds pixels, PyTorch gets floats of them, and the answers are close.

    The baseline is that of the build without folding: floats of the same pixels are reused.
    """
    fold, head, precision = ends
    words = ["--fold-preprocessing", fold, "--head", head, "--precision", precision]
    code = main.run(["build", "--recipe", str(workshop.recipe), "--out", str(copied), *words])
    said = capsys.readouterr()
    assert code == 0, said
    assert "baseline                 reused" in said.err
    report = json.loads((copied / "report.json").read_text())
    subject = next(row for row in report["rows"] if row["role"] == "subject")
    assert subject["accuracy"]["sqnr_db"] > 12
    assert subject["accuracy"]["agreement"]["value"] == 1
    assert subject["accuracy"]["terms"].startswith("centred log-probabilities")

    (engine,) = copied.glob(f"model.{precision}.cpu.blob")
    shape = [1, 48, 48, 3] if fold == "uint8-nhwc" else [1, 3, 48, 48]
    side = (
        onnx.load(copied / f"model.{precision}.onnx").graph.input[0].type.tensor_type.shape.dim[2]
    )
    shape = [side.dim_value if size == 48 else size for size in shape]
    with edge_inception.open_engine(engine) as session:
        shares = session.run(np.zeros(shape, np.uint8))
    assert shares.shape == (1, 2)
    assert np.count_nonzero(shares) == (1 if head == "topk:1" else 2)

    photo = min(workshop.calibration.glob("dark*.png"))
    assert main.run(["classify", "--engine", str(engine), "--json", str(photo)]) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    assert top[0]["class"] == "dark"
    assert len(top) == (1 if head == "topk:1" else 2)


@pytest.mark.parametrize(
    ("words", "code", "first"),
    [
        (["--head", "topk:3"], 3, "error: head topk:3 asks for 3 classes, the model has 2"),
        (["--head", "softmaks"], 3, "error: no head named 'softmaks'"),
        (["--mean", "0.5,0.5"], 3, "error: {recipe}: preprocess.mean is [0.5, 0.5]"),
        (["--std", "a,b,c"], 3, "error: 'a,b,c' is not a list of numbers"),
        (["--crop", "before"], 3, "error: no crop named 'before'"),
        (
            ["--fold-preprocessing", "uint16"],
            3,
            "error: no folded preprocessing named 'uint16'",
        ),
    ],
)
def test_first_line_and_code(workshop, tmp_path, capsys, words, code, first):
    """Each mistake is named in one line, before anything is built."""
    out = tmp_path / "out"
    assert main.run(["build", "--recipe", str(workshop.recipe), "--out", str(out), *words]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert lines == [first.format(recipe=workshop.recipe)]
    assert not list(out.glob("*.onnx"))
