"""Build, bundle, and all that its program does in an environment that has nothing of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_inception import inference
from edge_inception.cli import main

ROOT = Path(__file__).parents[2]
ABSENT = ("torch", "onnx", "onnxruntime", "edge_inception", "click", "rich", "msgspec")


def bundled(built: Path, workshop, out: Path, *flags: str) -> int:
    command = ["bundle", "--from", str(built), "--recipe", str(workshop.recipe)]
    return main.run([*command, "--out", str(out), *flags])


@pytest.fixture(scope="module")
def bundle(built, workshop, tmp_path_factory, unpack) -> Path:
    """A bundle for the CPU, unpacked from its archive, in a folder with a space in its name."""
    out = tmp_path_factory.mktemp("bundles")
    assert bundled(built, workshop, out, "--target", "cpu", "--golden", "4") == 0
    device = tmp_path_factory.mktemp("a device")
    unpack(out / "inception_v4-cpu.tar.gz", device)
    return device / "inception_v4-cpu"


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The python of an environment with numpy, Pillow and openvino alone."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    constraints = ROOT / ".ci" / "constraints.txt"
    command = [*pip, "--constraint", constraints, "numpy", "Pillow", "openvino"]
    subprocess.run(command, check=True, capture_output=True)
    return python


def run(python: Path, bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as on a device: no PYTHONPATH, and started in another folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [str(python), "-W", "error", str(bundle / "device.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env=environment
    )


@pytest.mark.slow
def test_a_bare_environment_builds_and_proves_it(bundle, bare, built, workshop):
    """numpy, Pillow and openvino alone: check, build, verify, bench and classify exit 0."""
    absent = f"import importlib.util as u; print([m for m in {ABSENT} if u.find_spec(m)])"
    done = subprocess.run(
        [str(bare), "-c", absent], capture_output=True, text=True, check=True, cwd=bundle,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"

    def good(*arguments: str) -> str:
        done = run(bare, bundle, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert good("check").splitlines()[-1] == "PASSED: ready to build"
    assert good("build").startswith("built ")
    assert good("build").startswith("unchanged ")
    record = json.loads(good("verify", "--images", str(workshop.validation), "--json"))
    assert record["status"] == "PASSED"
    assert record["num_images"] == 40
    assert {check["status"] for check in record["checks"]} == {"PASSED"}
    timed = json.loads(good("bench", "--seconds", "0.5", "--warmup", "0.2", "--json"))
    assert timed["runs"][0]["n"] >= 300
    photo = min((workshop.validation / "dark").iterdir())
    (mine,) = [json.loads(line) for line in good("classify", str(photo), "--json").splitlines()]
    (theirs,) = inference.classify(built / "model.int8.cpu.blob", [photo])
    assert [entry["class"] for entry in mine["top"]] == [name for name, _ in theirs.top]
    np.testing.assert_allclose(
        [entry["score"] for entry in mine["top"]], [score for _, score in theirs.top], atol=1e-4
    )
    assert not list(bundle.rglob("__pycache__"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graphs/cpu.onnx", "_openvino.py", "golden.npz"])
def test_a_changed_bundle_is_refused_there(bundle, bare, tmp_path, name):
    """One byte more in a file: no command runs, and error and fix are a line each."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    with (copy / name).open("ab") as stream:
        stream.write(b"#")
    for command in ("check", "build", "verify", "bench"):
        done = run(bare, copy, command)
        assert done.returncode == 3
        error, fix = done.stderr.splitlines()
        assert name in error
        assert fix.startswith("fix: copy the bundle")


@pytest.mark.slow
def test_what_cannot_be_bundled(built, workshop, tmp_path, capsys):
    """No build, an unknown target, photos of another set: exit 3 and one line each."""
    assert bundled(tmp_path, workshop, tmp_path / "o", "--target", "cpu") == 3
    assert "report not found" in capsys.readouterr().err
    assert bundled(built, workshop, tmp_path / "o", "--target", "orin-nano-8") == 3
    assert "did you mean 'orin-nano-8gb'" in capsys.readouterr().err
    other = ("--target", "cpu", "--validation", str(workshop.calibration))
    assert bundled(built, workshop, tmp_path / "o", *other) == 3
    assert "is in the baseline" in capsys.readouterr().err
    assert bundled(built, workshop, tmp_path / "o", "--target", "cpu", "--golden", "0") == 3
    assert "--golden is 0" in capsys.readouterr().err
