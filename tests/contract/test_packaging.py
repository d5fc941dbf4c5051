"""A built wheel in an environment without torch or onnx: what a device gets."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BASE = ("numpy", "Pillow", "click", "msgspec", "rich")
LEFT_OF_GRAPH = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "safetensors")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _call(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _call(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder), cwd=ROOT
    )
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def edge_inception(wheel, tmp_path_factory) -> Run:
    """``edge_inception(arguments, cwd=...)`` in an environment of the base and OpenVINO only."""
    folder = tmp_path_factory.mktemp("bare")
    _call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    constraints = ROOT / ".ci" / "constraints.txt"
    _call(*pip, "--constraint", constraints, *BASE, "openvino", "tomli", cwd=folder)
    _call(*pip, "--no-deps", wheel, cwd=folder)
    absent = f"import importlib.util as u; print([m for m in {LEFT_OF_GRAPH} if u.find_spec(m)])"
    assert _call(python, "-c", absent, cwd=folder).strip() == "[]"

    def run(*arguments: object, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name("edge-inception")), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)

    return run


def test_wheel_holds_the_package_and_its_papers(wheel):
    """Every module, cited page and template, the type marker and the licence; no test, no image."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("*.py", "docs/*.md", "report/templates/*.html", "py.typed"):
        found = {
            path.relative_to(ROOT).as_posix() for path in (ROOT / "edge_inception").rglob(kind)
        }
        assert found, kind
        assert found <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert all(name.startswith(("edge_inception/", "edge_inception-")) for name in names)


@pytest.mark.parametrize("command", ["--help", "models", "engines", "targets", "doctor"])
def test_looking_around_needs_no_torch(edge_inception, command):
    """Commands that list things exit 0 and say something; doctor names the command to add torch."""
    done = edge_inception(command)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 2
    assert "Traceback" not in done.stderr
    if command == "doctor":
        assert "edge-inception[compile]" in done.stdout
        assert "torch" in done.stdout


def test_classify_runs_an_engine(edge_inception, tiny_typed, tmp_path):
    """An engine compiled elsewhere classifies an image, with the classes of its sidecar."""
    engine = tmp_path / "tiny.blob"
    backends.backend("openvino").compile(tiny_typed("strong"), CompileOptions(), engine)
    photo = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(photo)
    done = edge_inception("classify", "--engine", engine, photo, "--top", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = done.stdout.strip().rpartition(": ")[2].split(", ")
    assert len(scores) == 2
    assert all(re.fullmatch(r"class [0-4] \d+\.\d%", score) for score in scores)


def test_export_names_what_is_missing(edge_inception, tmp_path):
    """A stage left of the graph: exit 4, one line, the extra to install."""
    checkpoint = tmp_path / "x.safetensors"
    checkpoint.write_bytes(b"not looked at")
    flags = ("--model", "inception_v4", "--checkpoint", checkpoint, "--out", tmp_path / "m.onnx")
    done = edge_inception("export", *flags)
    assert done.returncode == 4
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "torch" in errors[0] or "onnx" in errors[0]
    assert "pip install 'edge-inception[compile]'" in done.stderr
    assert not (tmp_path / "m.onnx").exists()
