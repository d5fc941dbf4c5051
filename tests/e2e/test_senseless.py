"""Builds that make no sense although an engine equals its baseline: they do not pass unseen."""

from __future__ import annotations

import json
import shutil

import pytest
from msgspec import structs

from edge_inception.cli import main
from edge_inception.latency import measure

pytestmark = [pytest.mark.slow]


def test_reversed_labels_and_five_calibration_photos_are_told(workshop, tmp_path, capsys):
    """All gates are met and the build passes, but its verdict says what is wrong with the inputs.

    One mean for all channels is what the recipe has by default, three.
    """
    labels, few, out = (tmp_path / name for name in ("labels.txt", "few", "out"))
    labels.write_text("dark\nbright\n", encoding="utf-8")
    few.mkdir()
    for photo in sorted(workshop.calibration.iterdir())[:5]:
        shutil.copy(photo, few)
    code = main.run(
        [
            *("build", "--recipe", str(workshop.recipe), "--out", str(out), "--effort", "quick"),
            *("--labels", str(labels), "--calibration", str(few), "--mean", "0.5", "--std", "0.5"),
        ]
    )
    printed = capsys.readouterr().out
    record = json.loads((out / "report.json").read_text(encoding="utf-8"))
    verdict, (baseline, *_) = record["verdict"], record["rows"]
    assert (code, verdict["status"]) == (0, "PASSED")
    right = round(40 * baseline["accuracy"]["labelled"]["engine"]["top1"]["value"])
    assert right <= 2  # of 40: the network is right on 38 or more by the labels as they were
    told = [
        f"the FP32 baseline is right on {right} of 40 images",
        "with the classes in another order FP32 top-1 would be",
        "INT8 is calibrated on 5 images, fewer than 64",
        "calibration images look unlike validation images",  # five bright ones, half are dark
    ]
    told = told[: len(verdict["warnings"])]
    assert len(told) >= 3
    for words, sentence in zip(told, verdict["warnings"], strict=True):
        assert sentence.startswith(words)
    assert printed.splitlines()[-1].endswith(f"({len(told)} warnings)")
    assert printed.count("WARNING ") == len(told)
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert markdown.count("- WARNING: ") == len(told)
    graph = json.loads((out / "model.onnx.json").read_text(encoding="utf-8"))
    assert graph["details"]["preprocess"]["mean"] == [0.5] * 3


@pytest.mark.parametrize(("flags", "code"), [((), 6), (("--min-speedup", "0"), 0)])
def test_int8_that_is_certainly_slower_does_not_ship(
    workshop, copied, monkeypatch, capsys, flags, code
):
    """The times of INT8 are those of f32 and half as much again; the remedy allows them."""
    recipe = workshop.folder / "unasked.toml"
    text = workshop.recipe.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith("min_speedup")]
    recipe.write_text("\n".join(kept), encoding="utf-8")
    timed = measure.measure

    def slower(*arguments, **named):
        found = timed(*arguments, **named)
        base = found["engine f32 (cpu)"]
        blocks = tuple(1.5 * block for block in base.block_medians_ms)
        slow = structs.replace(base, p50_ms=1.5 * base.p50_ms, block_medians_ms=blocks)
        return {**found, "INT8 (cpu)": slow}

    monkeypatch.setattr(measure, "measure", slower)
    assert main.run(["build", "--recipe", str(recipe), "--out", str(copied), *flags]) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert (copied / "model.int8.cpu.blob").exists() is (code == 0)
    if code:
        assert last.startswith(
            "FAILED: speed-up 0.67x (95 % interval 0.67 to 0.67), INT8 is slower"
        )
        assert "--precision best" in last
        assert "--min-speedup 0" in last
