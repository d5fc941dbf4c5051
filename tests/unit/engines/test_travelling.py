"""Promises of the engine files that travel to devices: Python 3.6, alone in a folder."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_inception import engines

FOLDER = Path(engines.__file__).parent
FILES = ("_nvinfer.py", "_cuda.py", "_plan.py", "_inspection.py", "_trtexec.py")
STANDARD = {
    "collections",
    "contextlib",
    "ctypes",
    "fcntl",
    "functools",
    "hashlib",
    "importlib",
    "json",
    "operator",
    "os",
    "re",
    "struct",
    "typing",
}


def python36():
    """A Python 3.6 interpreter of this machine, if it has one."""
    installed = sorted(Path.home().glob(".pyenv/versions/3.6.*/bin/python"))
    return str(installed[-1]) if installed else shutil.which("python3.6")


@pytest.mark.parametrize("name", FILES)
def test_file_is_python_36(name):
    """The grammar of Python 3.6 accepts the file; it imports nothing that a JetPack 4 lacks."""
    tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {
        module.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module] if isinstance(node, ast.ImportFrom) else _names(node))
    }
    beside = {Path(file).stem for file in FILES}
    assert imported <= STANDARD | beside | {"numpy", "pycuda", "edge_inception"}
    annotations = [n for n in ast.walk(tree) if isinstance(n, ast.Subscript)]
    builtin = {"list", "dict", "tuple", "set", "type"}
    assert not [n for n in annotations if isinstance(n.value, ast.Name) and n.value.id in builtin]


def _names(node):
    return [alias.name for alias in node.names]


# What device.py does first: every package that the files import from is the folder itself.
PACKAGES = """
import sys, types
for suffix in ("", ".engines"):
    module = types.ModuleType("edge_inception" + suffix)
    module.__path__ = ["."]
    sys.modules[module.__name__] = module
"""


def imported_alone(interpreter, folder, program):
    """What ``program`` prints in ``folder``, where only the travelling files and numpy are."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [interpreter, "-c", PACKAGES + program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def bundle(tmp_path):
    for name in FILES:
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def test_files_import_each_other_alone(bundle):
    """In a bundle the files find each other, and import nothing else of edge_inception."""
    program = (
        "from edge_inception.engines import _nvinfer, _trtexec\n"
        "ours = [m for n, m in sys.modules.items() if n.startswith('edge_inception')]\n"
        "files = [m.__file__ for m in ours if getattr(m, '__file__', None)]\n"
        "print(*sorted(file.rpartition('/')[2] for file in files))"
    )
    assert imported_alone(sys.executable, bundle, program).split() == sorted(FILES)


@pytest.mark.skipif(python36() is None, reason="no Python 3.6 interpreter here")
def test_files_run_on_python_36(bundle):
    """Python 3.6 itself imports the files (numpy stands in as an empty module) and uses them."""
    (bundle / "numpy.py").touch()
    program = (
        "from edge_inception.engines import _nvinfer, _plan, _trtexec;"
        "settings = _nvinfer.BuildSettings(1, 1, 1, typing='weak', precision='int8');"
        "print(_trtexec.command((8, 2, 1), settings, 'm.onnx', 'm.engine')[3:]);"
        "print(_plan.read_header(b'vtrt').kind, _nvinfer._inspection.describe_layers([])['layers'])"
    )
    assert imported_alone(python36(), bundle, program).splitlines() == [
        "['--int8', '--buildOnly']",
        "tensorrt_rtx {}",
    ]
