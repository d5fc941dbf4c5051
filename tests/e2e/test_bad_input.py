"""What can go wrong at the command line: one error line, a hint, its exit code, nothing changed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_inception.cli import main

pytestmark = pytest.mark.slow
SIDE = 107


class _Code:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch '{self.path}'",))


def _state(workshop):
    from safetensors.torch import load_file

    return load_file(workshop.checkpoint)


def _save(state, path: Path) -> Path:
    from safetensors.torch import save_file

    save_file(state, path, metadata={"model": "inception_v4"})
    return path


def _pickle_with_code(_, path: Path) -> Path:
    path = path.with_suffix(".pt")
    path.write_bytes(pickle.dumps(_Code(path.with_suffix(".ran"))))
    return path


def _truncated(workshop, path: Path) -> Path:
    content = workshop.checkpoint.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _other_architecture(workshop, path: Path) -> Path:
    return _save({k.replace("features.0.", "stem."): v for k, v in _state(workshop).items()}, path)


def _seven_classes(workshop, path: Path) -> Path:
    state = _state(workshop)
    weight, bias = state["last_linear.weight"], state["last_linear.bias"]
    heads = {
        "last_linear.weight": weight[:1].repeat(7, 1),
        "last_linear.bias": bias[:1].repeat(7),
    }
    return _save({**state, **heads}, path)


def _nan_weight(workshop, path: Path) -> Path:
    state = _state(workshop)
    state["features.1.conv.weight"].view(-1)[0] = float("nan")
    return _save(state, path)


def _overflow(workshop, path: Path) -> Path:
    state = _state(workshop)
    return _save({**state, "features.0.bn.weight": state["features.0.bn.weight"] * 1e38}, path)


def _untouched(out: Path) -> dict[str, str]:
    """Name and modification time of everything but the lock."""
    return {p.name: str(p.stat().st_mtime_ns) for p in out.iterdir() if p.name != ".lock"}


def _refused(workshop, out: Path, flags: list[str], capsys, *, code: int = 3) -> str:
    """Run a build that must be refused; its error line and hint."""
    capsys.readouterr()
    before = _untouched(out)
    command = ["build", "--recipe", str(workshop.recipe), "--out", str(out), *flags]
    assert main.run(command) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    assert lines[-2].startswith("error: ")
    assert lines[-1].startswith("hint: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert _untouched(out) == before, "a refused build changed the folder"
    return "\n".join(lines[-2:])


CHECKPOINTS: dict[str, tuple[Callable[..., Path], str]] = {
    "pickle with code": (_pickle_with_code, "pickle with more than tensors"),
    "truncated": (_truncated, "truncated or damaged"),
    "other architecture": (_other_architecture, "features.0.conv.weight"),
    "other class count": (_seven_classes, "7 classes"),
    "nan weight": (_nan_weight, "features.1.conv.weight"),
    "overflowing activations": (_overflow, "NaN or infinite"),
    "missing": (lambda _, path: path, "No such file"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoint(built, workshop, tmp_path, capsys, case):
    """A checkpoint that cannot be trusted or does not fit is named with what is wrong."""
    write, words = CHECKPOINTS[case]
    path = write(workshop, tmp_path / "bad.safetensors")
    text = _refused(workshop, built, ["--checkpoint", str(path)], capsys)
    assert words in text
    assert not path.with_suffix(".ran").exists(), "code in the pickle ran"


FLAGS = [
    (["--model", "inception_v44"], "did you mean 'inception_v4'"),
    (["--target", "cpuu"], "did you mean 'cpu'"),
    (["--target", "nano"], "nano"),
    (["--target", "orin-nano-8gb", "--use-dla"], "it has no DLA"),
    (["--target", "orin-nano-8gb", "--jetpack", "4.6"], "JetPack 4.6 does not support it"),
    (["--jetpack", "6.2"], "compiles for itself"),
    (["--precision", "int9"], "did you mean 'int8'"),
    (["--option", "widht=0.03"], "did you mean 'width'"),
    (["--option", "width"], "KEY=VALUE"),
    (["--float-rest", "fp64"], "fp16"),
    (["--calibrator", "entropi"], "mse"),
    (["--calibrator", "percentile:200"], "percentage"),
    (["--threads", "-1"], "at least 0"),
    (["--threads", "9999"], "9999 threads"),
    (["--batch", "0"], "at least 1"),
    (["--dynamic-batch", "4:2:1"], "MIN:OPT:MAX"),
    (["--dynamic-batch", "1:2:4", "--batch", "2"], "both"),
    (["--input-size", "0"], "input_size"),
    (["--mean", "123.7,116.3,103.5"], "divide values for 0..255 by 255"),
    (["--std", "58.4"], "divide values for 0..255 by 255"),
    (["--input-size", "20"], "larger --input-size"),
    (["--max-images", "0"], "at least 1"),
    (["--num-classes", "5"], "head of 2 classes"),
    (["--min-agreement", "1.5"], "from 0 to 1"),
    (["--max-drop", "-3"], "from 0 to 100"),
    (["--min-speedup", "-1"], "at least 0"),
    (["--min-sqnr", "nan"], "finite"),
    (["--calibration", "absent"], "absent"),
    (["--calibration-split", "train"], "only set files have splits"),
    (["--labels", "absent.txt"], "absent.txt"),
    (["--log-file", "/absent/x.log"], "/absent/x.log"),
]


@pytest.mark.parametrize(("flags", "words"), FLAGS, ids=lambda v: " ".join(v) if v else "")
def test_bad_flag(built, workshop, capsys, flags, words):
    """A flag that means nothing is refused with what would."""
    assert words in _refused(workshop, built, flags, capsys)


def _photo(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3))
    return Image.fromarray(noise.astype(np.uint8))


def _odd_but_fine(folder: Path) -> int:
    """Images of every supported kind; their number."""
    turned = Image.Exif()
    turned[0x112] = 6
    _photo(1).convert("CMYK").save(folder / "cmyk.jpg")
    _photo(2).convert("P").save(folder / "palette.png")
    _photo(3).convert("RGBA").save(folder / "rgba.png")
    _photo(4).save(folder / "exif.jpg", exif=turned)
    grey = np.asarray(_photo(5).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "sixteen.png")
    return 5


def _write_text(path: Path) -> None:
    path.write_text("hello", encoding="utf-8")


BAD_IMAGES: dict[str, Callable[[Path], object]] = {
    "empty.png": lambda path: path.write_bytes(b""),
    "text.jpg": _write_text,
    "cut.png": lambda path: (_photo(6).save(path), path.write_bytes(path.read_bytes()[:5000])),
    "huge.png": lambda path: Image.new("1", (20_000, 20_000)).save(path),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_calibration_image_is_named(copied, workshop, tmp_path, capsys, name):
    """Without --skip-bad-images one unusable image stops the build, by its name."""
    folder = tmp_path / "photos"
    shutil.copytree(workshop.calibration, folder)
    BAD_IMAGES[name](folder / name)
    text = _refused(workshop, copied, ["--calibration", str(folder)], capsys)
    assert name in text
    assert "--skip-bad-images" in text


def test_skipped_images_are_counted(copied, workshop, tmp_path, capsys):
    """With --skip-bad-images the rest calibrates; terminal, table and report say how many went."""
    folder = tmp_path / "photos"
    shutil.copytree(workshop.calibration, folder)
    good = len(list(folder.iterdir())) + _odd_but_fine(folder)
    for name, write in BAD_IMAGES.items():
        write(folder / name)
    flags = ["--calibration", str(folder), "--skip-bad-images", "--verbose"]
    assert main.run(["build", "--recipe", str(workshop.recipe), "--out", str(copied), *flags]) == 0
    said = capsys.readouterr().err
    assert f"calibration: left out 4 unusable of {good + 4} images" in said
    assert all(name in said for name in BAD_IMAGES)
    counts = json.loads((copied / "model.ranges.json.json").read_text(encoding="utf-8"))["counts"]
    assert counts["num_images"] == good
    assert counts["num_left_out"] == 4
    report = json.loads((copied / "report.json").read_text(encoding="utf-8"))
    assert report["data"]["num_left_out"] == 0


def test_empty_folder(built, workshop, tmp_path, capsys):
    """No image in a folder is refused for both roles."""
    for role in ("calibration", "validation"):
        text = _refused(workshop, built, [f"--{role}", str(tmp_path)], capsys)
        assert f"no images in {tmp_path}" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.onnx", "is a graph, wanted a typed graph"),
        ("model.simplified.onnx", "is a simplified graph, wanted a typed graph"),
        ("stranger.onnx", "no sidecar"),
        ("changed.onnx", "changed.onnx"),
        ("absent.onnx", "absent.onnx"),
    ],
)
def test_compile_takes_typed_graphs_only(built, tmp_path, capsys, name, words):
    """Another stage's graph, a stranger's, or one that is not what its sidecar says: exit 3."""
    typed, graph = built / "model.int8.onnx", tmp_path / name
    if name.startswith("model"):
        graph = built / name
    elif name != "absent.onnx":
        shutil.copy(typed, graph)
    if name == "changed.onnx":
        shutil.copy(f"{typed}.json", f"{graph}.json")
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    out = tmp_path / "x.blob"
    assert main.run(["compile", str(graph), "--out", str(out)]) == 3
    error = capsys.readouterr().err
    assert words in error
    assert sum(line.startswith("error: ") for line in error.splitlines()) == 1
    assert "hint: " in error
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_disk_full(built, workshop, tmp_path, capsys):
    """A full disk: exit 3 with the file's name; what was there is whole, no half file is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        out = disk / "out"
        out.mkdir()
        for name in ("model.onnx", "model.simplified.onnx", "baseline.npz"):
            shutil.copy(built / name, out / name)
            shutil.copy(built / f"{name}.json", out / f"{name}.json")
        command = ["build", "--recipe", str(workshop.recipe), "--out", str(out)]
        assert main.run(command) == 3
        error = capsys.readouterr().err
        assert "disk full while writing" in error
        assert "hint: free space" in error
        assert not list(out.glob(".*.partial"))
        assert all(Path(f"{path}.json").exists() for path in out.glob("model*.onnx"))
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)
