"""The program under JetPack 4's Python: 3.6, numpy 1.19 and Pillow 8, where that is installed.

TensorRT's bindings are missing there, so trtexec, a shell script here, builds and benches.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge_inception.bundle import make

pytestmark = pytest.mark.slow

TRTEXEC = """#!/bin/sh
for word; do case $word in
  --saveEngine=*) echo plan > "${word#*=}" ;;
  --exportTimes=*) echo '[{"latencyMs": 2.5, "computeMs": 2.0}]' > "${word#*=}" ;;
esac; done
"""
# What ``device.py`` does, on a board that has TensorRT 8.5.2.
PROGRAM = """
import sys; sys.dont_write_bytecode = True
import device
from edge_inception.device import jetson_board
read = jetson_board.read_board
jetson_board.read_board = lambda folder: read(folder)._replace(tensorrt="8.5.2")
sys.exit(device.main(sys.argv[1:]))
"""
PIXELS = """
import sys; sys.dont_write_bytecode = True
import device, numpy, PIL
from edge_inception.data import pixels
from edge_inception.device import manifest
preprocess = manifest.open_bundle(".").record.preprocess
numpy.savez(sys.argv[1], *[pixels.load_image(path, preprocess) for path in sys.argv[2:]])
print(sys.version_info[:2], numpy.__version__, PIL.__version__)
"""


@pytest.fixture(scope="module")
def python36(tmp_path_factory) -> Path:
    """Python 3.6 with numpy and Pillow in an environment of its own."""
    # pyenv's own file first: its shim is on PATH and runs nothing unless that version is chosen
    found = [*Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6")]
    python = found[0] if found else shutil.which("python3.6")
    if python is None:
        pytest.skip("no Python 3.6 is installed; pyenv install 3.6.15 brings one")
    folder = tmp_path_factory.mktemp("python36")
    for command in (
        [python, "-m", "venv", folder],
        [folder / "bin/python", "-m", "pip", "--quiet", "install", "numpy", "Pillow"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return folder / "bin/python"


def run(python: Path, folder: Path, code: str, *arguments: object, **environment: str):
    command = [str(python), "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_file_is_imported(python36, jetson):
    """All that travels to a Jetson, without a warning."""
    files = (*make.DEVICE_FILES, *make.SHARED_FILES, *make.LIBRARY_FILES["tensorrt"])
    names = ",".join("edge_inception." + file[:-3].replace("/", ".") for file in files)
    done = run(python36, jetson, f"import device, {names}")
    assert done.returncode == 0, done.stderr


def test_pixels_are_those_of_the_host(python36, jetson, tmp_path):
    """Photos through Pillow 8 and numpy 1.19: the golden arrays, bit for bit."""
    with np.load(jetson / "golden.npz") as archive:
        names, wanted = [str(name) for name in archive["files"]], archive["images"]
    done = run(python36, jetson, PIXELS, tmp_path / "got.npz", *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(3, 6) 1.")
    with np.load(tmp_path / "got.npz") as got:
        np.testing.assert_array_equal(np.stack([got[name] for name in got.files]), wanted)


def test_trtexec_builds_and_benches(python36, jetson, tmp_path):
    """check, build and bench exit 0; verify says what it needs, with its exit code."""
    tool = tmp_path / "trtexec"
    tool.write_text(TRTEXEC, encoding="utf-8")
    tool.chmod(0o755)

    def device(*words: str):
        return run(python36, jetson, PROGRAM, *words, "--bundle", jetson, TRTEXEC=str(tool))

    for words in (("check",), ("build",), ("bench", "--json")):
        done = device(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["runs"][0]["median"] == 2.5
    done = device("verify")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "fix: sudo apt-get install python3-libnvinfer"


def test_a_cpu_bundle_names_the_python_it_needs(python36, copied):
    """OpenVINO has no release for Python 3.6: said in two lines, not as a syntax error."""
    done = run(python36, copied, PROGRAM, "build", "--bundle", copied)
    assert done.returncode == 4
    assert "OpenVINO needs Python 3.10 or later, this is 3.6" in done.stderr
