"""What a foreign graph does not say and its user does: preprocessing and class names."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from edge_inception.cli import main

SIDE, SIZE = 8, (31, 23)
NAMES = ("pear", "apple", "fig", "plum", "cherry")  # not in the order of folders
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.4)
HOW = [
    *("--mean", "0.1,0.2,0.3", "--std", "0.5,0.25,0.4", "--channel-order", "BGR"),
    *("--crop", "before_resize", "--crop-fraction", "0.75", "--interpolation", "bicubic"),
]


def tensor(path: Path, *, order=(2, 1, 0), mean=MEAN, std=STD, share=0.75, how="BICUBIC"):
    """A photo as those options say, written again: crop, resize, channels, normalise."""
    image = Image.open(path)
    left, top = (int((side - side * share) / 2) for side in image.size)
    cropped = image.crop((left, top, image.width - left, image.height - top))
    values = np.asarray(cropped.resize((SIDE, SIDE), Image.Resampling[how]), np.float64) / 255
    normal = (values[..., list(order)] - mean) / np.array(std)
    return normal.transpose(2, 0, 1)[None].astype(np.float32)


OTHERS = {
    "--mean": {"mean": (0.5, 0.5, 0.5)},
    "--std": {"std": (0.5, 0.5, 0.5)},
    "--channel-order": {"order": (0, 1, 2)},
    "--crop": {"share": 1.0},
    "--interpolation": {"how": "BILINEAR"},
}


@dataclass(frozen=True, kw_only=True)
class Built:
    """A foreign graph in onnxruntime, its build and its photos in class folders."""

    session: onnxruntime.InferenceSession
    out: Path
    photos: tuple[Path, ...]

    def logits(self, **other) -> np.ndarray:
        """What onnxruntime answers to the file as it was given, in the order of ``photos``."""
        rows = [self.session.run(None, {"data_0": tensor(p, **other)})[0] for p in self.photos]
        return np.concatenate(rows)


def build(folder, precision, *more):
    words = {
        "--onnx": "m.onnx",
        "--labels": "names.txt",
        "--calibration": "calibration",
        "--validation": "labelled",
        "--out": "out",
    }
    places = [word for flag, name in words.items() for word in (flag, str(folder / name))]
    rest = ["--precision", precision, "--target", "cpu", "--threads", "1", "--min-agreement", "0"]
    rest += ["--min-speedup", "0"]  # in so small a network INT8 may well be slower
    assert main.run(["build", *places, *HOW, *rest, *more]) == 0


@pytest.fixture(scope="module")
def built(foreign_classifier, tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("foreign options")
    rng = np.random.default_rng(0)
    for name in (*sorted(NAMES), "calibration"):
        (folder / "labelled" / name).mkdir(parents=True)
        for i in range(3):
            colour = rng.uniform(0, 255, 3)
            noise = rng.normal(colour, 60, (*SIZE[::-1], 3)).clip(0, 255)
            path = folder / "labelled" / name / f"{i}.png"
            Image.fromarray(noise.astype(np.uint8)).save(path)
    (folder / "labelled" / "calibration").rename(folder / "calibration")
    onnx.save(foreign_classifier(13, ending="logits", are_weights_inputs=False), folder / "m.onnx")
    (folder / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    build(folder, "fp32")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return Built(
        session=onnxruntime.InferenceSession(
            str(folder / "m.onnx"), options, providers=["CPUExecutionProvider"]
        ),
        out=folder / "out",
        photos=tuple(sorted((folder / "labelled").glob("*/*.png"))),
    )


@pytest.mark.slow
def test_the_graph_sees_what_its_user_said(built):
    """The baseline is onnxruntime on photos that this file preprocesses; each option matters."""
    wanted = built.logits()
    with np.load(built.out / "baseline.npz") as baseline:
        logits, labels = baseline["logits"], baseline["labels"]
    # onnxruntime twice on float32 inputs that differ by their last bits; logits are near 1
    assert np.abs(logits - wanted).max() < 1e-5
    for flag, other in OTHERS.items():
        assert np.abs(built.logits(**other) - wanted).max() > 1e-3, flag
    assert labels.tolist() == [NAMES.index(path.parent.name) for path in built.photos]


@pytest.mark.slow
def test_the_engine_carries_preprocessing_and_names(built, capsys):
    """classify needs the engine and a photo: it ranks the names as the file's logits do."""
    engine = built.out / "model.fp32.cpu.blob"
    capsys.readouterr()
    words = ["classify", "--engine", str(engine), "--json", *map(str, built.photos)]
    assert main.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(built.photos)
    ranked = [[entry["class"] for entry in json.loads(line)["top"]] for line in lines]
    wanted = np.argsort(-built.logits(), axis=1)[:, : len(ranked[0])]
    assert ranked == [[NAMES[index] for index in row] for row in wanted]
    assert len({tuple(row) for row in ranked}) > 3


@pytest.mark.slow
def test_a_build_again_with_another_mean_and_other_names_is_another_build(built, tmp_path, capsys):
    """Neither stands in any graph: its bytes are the same, and every stage behind it runs again."""
    folder = tmp_path / "again"
    shutil.copytree(built.out.parent, folder)
    before = (folder / "out" / "model.simplified.onnx").read_bytes()
    (folder / "names.txt").write_text("\n".join(reversed(NAMES)), encoding="utf-8")
    other = {"mean": (0.6, 0.5, 0.4)}
    for precision in ("int8", "fp32"):
        build(folder, precision, "--mean", "0.6,0.5,0.4", "--min-sqnr", "0")
    assert (folder / "out" / "model.simplified.onnx").read_bytes() == before
    with np.load(folder / "out" / "baseline.npz") as baseline:
        assert np.abs(baseline["logits"] - built.logits(**other)).max() < 1e-5
    ranges = json.loads((folder / "out" / "model.ranges.json").read_text())
    assert ranges["preprocess"]["mean"] == [0.6, 0.5, 0.4]
    capsys.readouterr()
    wanted = np.argsort(-built.logits(**other), axis=1)[:, 0]
    engine = folder / "out" / "model.fp32.cpu.blob"
    assert main.run(["classify", "--engine", str(engine), "--json", *map(str, built.photos)]) == 0
    top = [json.loads(line)["top"][0] for line in capsys.readouterr().out.splitlines()]
    assert [one["class"] for one in top] == [NAMES[::-1][index] for index in wanted]
