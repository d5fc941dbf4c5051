"""Files that travel to devices: Python 3.6 syntax, and nothing of this package imported there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edge_inception
from edge_inception.bundle import make

PACKAGE = Path(edge_inception.__file__).parent
OLD = sorted({*make.DEVICE_FILES, *make.SHARED, "deploy/agent.py", *make.TRAVELLING["tensorrt"]})
ALL = [*OLD, *make.TRAVELLING["openvino"]]


def test_the_list_is_what_travels():
    """The program, its nouns and the TensorRT files are on it."""
    assert {
        "device/device.py",
        "device/jetson_board.py",
        "data/pixels.py",
        "engines/_nvinfer.py",
    } <= set(OLD)


def vermin(*paths: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("vermin")
    command = [str(tool), "-t=3.6-", "--violations", "--no-tips", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_python_3_6_parses_and_runs_them():
    """vermin: no syntax and no standard library newer than 3.6, JetPack 4's Python."""
    done = vermin(*(PACKAGE / name for name in OLD))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Minimum required versions: 3.6" in done.stdout


def test_the_check_bites(tmp_path):
    """A walrus is found, so the test above can fail."""
    path = tmp_path / "new.py"
    path.write_text("if (x := 1):\n    print(x)\n", encoding="utf-8")
    done = vermin(path)
    assert done.returncode != 0
    assert "3.8" in done.stdout


@pytest.mark.parametrize("name", ALL)
def test_alone_they_import_nothing_of_ours(name):
    """Only what a device does not execute imports from edge_inception."""
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    guarded = [
        inner
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"__package__", "TYPE_CHECKING"}
        for inner in node.body
    ]
    allowed = {id(node) for outer in guarded for node in ast.walk(outer)}
    for node in ast.walk(tree):
        if id(node) in allowed:
            continue
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert not [n for n in names if n.startswith("edge_inception")], ast.unparse(node)
