"""The command ``calibrate``: shards, their merging, and what is refused before any work."""

from __future__ import annotations

import json
import struct

import pytest

from edge_inception.cli import main
from edge_inception.errors import InputError
from edge_inception.quant import ranges
from edge_inception.quant.import_cache import import_cache
from edge_inception.quant.options import CalibrateOptions, Effort
from edge_inception.spec import Preprocess

CACHE = "\n".join(
    ["TRT-8502-EntropyCalibration2"]
    + [f"{name}: 3c010a14" for name in ("input", "stem", "mean", "left", "right", "last")]
)


@pytest.fixture
def command(model, save, photos, tmp_path):
    """Run calibrate on the block and the eleven photos; the exit code."""
    graph = save(model, preprocess=Preprocess(input_size=(16, 16)))
    folder = str(photos.items[0].path.parent)

    def run(out, *flags):
        fixed = ["--calibration", folder, "--batch", "4", "--threads", "1"]
        arguments = ["calibrate", str(graph.path), *fixed, *flags, "--out", str(tmp_path / out)]
        return main.run(arguments)

    return run


@pytest.fixture
def quantized(model, save, tmp_path, monkeypatch):
    """Run quantize, in the folder of the table, on a graph that differs by its comment alone."""
    monkeypatch.chdir(tmp_path)

    def run(comment):
        model.doc_string = comment
        graph = save(model, preprocess=Preprocess(input_size=(16, 16)))
        fixed = ["--ranges", "r.json", "--precision", "int8", "--out", "q.onnx"]
        return main.run(["quantize", str(graph.path), *fixed])

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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--calibrator", "nonsense"), ("--calibrator with --import-cache", "leave it out")),
        (
            ("--calibrator", "auto", "--placement", "weighted-only"),
            ("--calibrator and --placement with --import-cache", "quantize takes a --placement"),
        ),
        (("--max-images", "0"), ("--max-images without images", "pass --calibration FOLDER")),
        (
            ("--calibration-split", "test", "--max-images", "3", "--skip-bad-images"),
            (
                "--calibration-split and --max-images and --skip-bad-images without images",
                "pass --calibration FOLDER",
            ),
        ),
    ],
)
def test_a_flag_that_an_import_would_not_look_at_is_refused(
    model, save, tmp_path, capsys, flags, words
):
    """A cache has its ranges; images are chosen where there are some. Nothing is written."""
    graph = save(model, preprocess=Preprocess(input_size=(16, 16)))
    cache = tmp_path / "trt.cache"
    cache.write_text(CACHE)
    bare = ["calibrate", str(graph.path), "--import-cache", str(cache)]
    assert main.run([*bare, *flags, "--out", str(tmp_path / "r.json")]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert [one for one in words if one not in told] == []
    assert not (tmp_path / "r.json").exists()
    assert main.run([*bare, "--out", str(tmp_path / "r.json")]) == 0


def test_an_import_chooses_among_its_images(command, tmp_path):
    """With images the flags that choose them count: three of the eleven photos are measured."""
    cache = tmp_path / "trt.cache"
    cache.write_text(CACHE)
    assert command("all.json", "--import-cache", str(cache)) == 0
    assert command("few.json", "--import-cache", str(cache), "--max-images", "3") == 0
    sets = [json.loads((tmp_path / n).read_text())["set_sha256"] for n in ("all.json", "few.json")]
    assert sets[0] != sets[1]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("--calibrator", "percentile:99"), ("--calibrator percentile:99", "")),
        (("--calibrator", "auto"), ("--calibrator auto", "")),
        (
            ("--calibrator", "auto", "--placement", "float-ends"),
            ("--calibrator auto", "--placement float-ends"),
        ),
        (("--import-cache", "trt.cache"), ("--import-cache trt.cache", "--calibration IMAGES")),
    ],
)
def test_the_hint_for_a_table_of_another_graph_is_a_command_that_runs(
    command, quantized, tmp_path, capsys, flags, wanted
):
    """As printed, but for the images: then quantize takes the table. The way asked for stays."""
    (tmp_path / "trt.cache").write_text(CACHE)
    assert command("r.json", *flags) == 0
    first = json.loads((tmp_path / "r.json.json").read_text())
    capsys.readouterr()
    assert quantized("another") == 3
    printed = capsys.readouterr().err.split("hint: ")[1].strip()
    assert [one for one in wanted if one not in printed] == []
    program, *words = printed.replace("IMAGES", str(tmp_path / "photos")).split()
    assert program == "edge-inception"
    assert main.run(words) == 0
    again = json.loads((tmp_path / "r.json.json").read_text())
    assert again["stage"] == first["stage"]
    for key in ("calibrator", "placement"):
        assert again["options"][key] == first["options"][key]
    assert quantized("another") == 0


def test_the_hint_for_a_cache_without_images_asks_for_none(model, save, tmp_path):
    """What was imported without images is imported without them again."""
    how = CalibrateOptions(
        preprocess=Preprocess(input_size=(16, 16)), calibrator="mse", effort=Effort.QUICK
    )
    (tmp_path / "trt.cache").write_text(CACHE)
    found = import_cache(save(model), tmp_path / "trt.cache", None, how, tmp_path / "r.json")
    model.doc_string = "another"
    graph = save(model)
    with pytest.raises(InputError, match="of another graph") as caught:
        ranges.table_for(graph, found)
    command = f"calibrate {graph.path} --import-cache trt.cache --out {found.path}"
    assert caught.value.hint == f"edge-inception {command}"


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
        (("--placement", "float-end"), "no placement named 'float-end'"),
        (("--effort", "most"), "no effort named 'most'"),
    ],
)
def test_unknown_choices_are_refused(command, capsys, flags, line):
    """Before any work."""
    assert command("r.json", *flags) == 3
    assert line in capsys.readouterr().err


def test_what_was_tried_is_told(command, tmp_path, capsys):
    """The calibrator of the table, and the figures that chose it."""
    assert command("r.json", "--calibrator", "auto") == 0
    told = " ".join(capsys.readouterr().err.split())
    record = json.loads((tmp_path / "r.json").read_text())
    chosen = json.loads((tmp_path / "r.json.json").read_text())["details"]["chosen"]
    assert chosen["calibrator"] == record["calibrator"]
    assert f"> {chosen['sqnr_db']:.1f} {chosen['median_sqnr_db']:.1f}" in told
    assert f"to repeat the choice: --calibrator {chosen['calibrator']}" in told
