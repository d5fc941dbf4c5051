"""The command ``calibrate``: shards, their merging, and what is refused before any work."""

from __future__ import annotations

import json
import struct

import pytest

from edge_inception import cli, stage
from edge_inception.spec import Preprocess


@pytest.fixture
def command(model, save, photos, tmp_path):
    """Run calibrate on the block and the eleven photos; the exit code."""
    graph = save(model, preprocess=stage.plain(Preprocess(input_size=(16, 16))))
    folder = str(photos.items[0].path.parent)

    def run(out, *flags):
        fixed = ["--calibration", folder, "--batch", "4", "--threads", "1"]
        arguments = ["calibrate", str(graph.path), *fixed, *flags, "--out", str(tmp_path / out)]
        return cli.run(arguments)

    return run


def test_shards_merge_to_the_table_of_one_run(command, tmp_path, capsys):
    """Two runs and one that merges them write what one run over all images writes."""
    assert command("whole.json") == 0
    assert command("1.json", "--shard", "1/2") == 0
    assert command("2.json", "--shard", "2/2") == 0
    merged = [flag for i in (2, 1) for flag in ("--merge", str(tmp_path / f"{i}.json"))]
    assert command("merged.json", *merged) == 0
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "merged.json")
    for suffix in (".json", ".npz"):
        merged_file, whole = (tmp_path / f"{name}{suffix}" for name in ("merged", "whole"))
        assert merged_file.read_bytes() == whole.read_bytes()


def test_a_cache_is_imported(command, tmp_path, capsys):
    """With the images at hand its table also has the means for bias correction."""
    assert command("r.json") == 0
    record = json.loads((tmp_path / "r.json").read_text())["tensors"]
    bits = {n: struct.pack(">f", one["amax"] / 127).hex() for n, one in record.items()}
    lines = ["TRT-8502-EntropyCalibration2", *(f"{name}: {b}" for name, b in bits.items())]
    cache = tmp_path / "trt.cache"
    cache.write_text("\n".join(lines) + "\n")
    assert command("back.json", "--import-cache", str(cache)) == 0
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "back.json")
    found = json.loads((tmp_path / "back.json").read_text())
    assert found["calibrator"] == "EntropyCalibration2"
    for name, one in record.items():
        # 127 times the nearest float32 of a 127th
        assert found["tensors"][name]["amax"] == pytest.approx(one["amax"], rel=2.0**-23)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_shard_is_refused(command, tmp_path, capsys, shard):
    """Exit code 3 and the form that is wanted."""
    assert command("r.json", "--shard", shard) == 3
    assert "wanted I/N with I from 1 to N" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_shard_is_not_merged_at_once(command, capsys):
    """The two flags exclude each other."""
    assert command("r.json", "--shard", "1/2", "--merge", "other.json") == 3
    assert "--shard and --merge together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--placement", "float-ends"), "--placement is for --calibrator auto"),
        (("--calibrator", "auto", "--placement", "float-end"), "no placement named 'float-end'"),
    ],
)
def test_a_placement_is_that_of_a_trial(command, capsys, flags, line):
    """Refused where nothing is tried, or unknown; before any work."""
    assert command("r.json", *flags) == 3
    assert line in capsys.readouterr().err


def test_what_was_tried_is_told(command, tmp_path, capsys):
    """The calibrator of the table, and the figures that chose it."""
    assert command("r.json", "--calibrator", "auto") == 0
    told = " ".join(capsys.readouterr().err.split())
    record = json.loads((tmp_path / "r.json").read_text())
    details = json.loads((tmp_path / "r.json.json").read_text())["details"]
    best, *_ = sorted(details["tried_sqnr_db"].values(), reverse=True)
    assert f"calibrator {record['calibrator']}: logits SQNR {best:.1f} dB" in told
    assert "bias correction was not tried, 0 images" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--calibrator", "nonsense"], "--calibrator with --import-cache"),
        (["--placement", "sandwich"], "--placement with --import-cache"),
    ],
)
def test_an_import_leaves_no_flag_unread(command, tmp_path, capsys, flags, words):
    """What the cache has decided cannot be asked for, and nothing is written."""
    assert command("back.json", "--import-cache", "trt.cache", *flags) == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "back.json").exists()


def test_flags_about_images_need_images(model, save, tmp_path, capsys):
    """An import takes none, and says so instead of leaving the flag unread."""
    graph = save(model, preprocess=stage.plain(Preprocess(input_size=(16, 16))))
    given = ["--import-cache", "trt.cache", "--max-images", "3"]
    assert cli.run(["calibrate", str(graph.path), *given, "--out", str(tmp_path / "r.json")]) == 3
    assert "--max-images of no images" in capsys.readouterr().err


@pytest.mark.parametrize("calibrator", ["auto", "percentile:99"])
def test_a_foreign_table_is_refused_with_the_command_that_makes_it(
    command, model, save, tmp_path, capsys, calibrator
):
    """It names the calibrator that was asked for, not the one that auto took."""
    assert command("r.json", "--calibrator", calibrator) == 0
    model.graph.name = "another"
    other = save(model, preprocess=stage.plain(Preprocess(input_size=(16, 16))))
    capsys.readouterr()
    asked = ["--precision", "int8", "--ranges", str(tmp_path / "r.json")]
    assert cli.run(["quantize", str(other.path), *asked, "--out", str(tmp_path / "q.onnx")]) == 3
    assert f" --calibrator {calibrator} --out " in capsys.readouterr().err


def test_a_foreign_import_is_refused_with_the_command_that_imports(
    command, model, save, tmp_path, capsys
):
    """There is no calibrator of TensorRT's name here."""
    assert command("r.json") == 0
    record = json.loads((tmp_path / "r.json").read_text())["tensors"]
    bits = {n: struct.pack(">f", one["amax"] / 127).hex() for n, one in record.items()}
    lines = ["TRT-8502-EntropyCalibration2", *(f"{name}: {b}" for name, b in bits.items())]
    (tmp_path / "trt.cache").write_text("\n".join(lines) + "\n")
    assert command("back.json", "--import-cache", str(tmp_path / "trt.cache")) == 0
    model.graph.name = "another"
    other = save(model, preprocess=stage.plain(Preprocess(input_size=(16, 16))))
    capsys.readouterr()
    asked = ["--precision", "int8", "--ranges", str(tmp_path / "back.json")]
    assert cli.run(["quantize", str(other.path), *asked, "--out", str(tmp_path / "q.onnx")]) == 3
    assert " --import-cache CACHE --out " in capsys.readouterr().err
