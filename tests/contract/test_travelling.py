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
OLD = sorted(
    {*make.DEVICE_FILES, *make.SHARED_FILES, "deploy/agent.py", *make.LIBRARY_FILES["tensorrt"]}
)
ALL = [*OLD, *make.LIBRARY_FILES["openvino"]]


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


def carried_with(name: str) -> set[str]:
    """Modules that are in every bundle with this file; the agent travels alone."""
    if name == "deploy/agent.py":
        return set()
    libraries = [files for files in make.LIBRARY_FILES.values() if name in files]
    files = {
        *make.DEVICE_FILES,
        *make.SHARED_FILES,
        *(file for files in libraries for file in files),
    }
    return {"edge_inception." + file[: -len(".py")].replace("/", ".") for file in files}


@pytest.mark.parametrize("name", ALL)
def test_they_import_only_what_travels_with_them(name):
    """What a device executes imports of edge_inception only files that are there."""
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    carried = carried_with(name)
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module not in carried:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        missing = {m for m in modules if m.startswith("edge_inception")} - carried
        assert not missing, ast.unparse(node)
