"""The program of a bundle: check, build, verify, bench and classify on the device.

    python3 device.py check                  check that this is the target device, and is ready
    python3 device.py build                  compile the graph into an engine for this device
    python3 device.py verify [--images DIR]  compare the answers with the validated engine's
    python3 device.py bench                  measure the latency of the engine on this device
    python3 device.py classify IMAGE...      print the most probable classes of image files

Exit codes: 0 passed, 2 usage, 3 bad input or a changed file, 4 library missing, 5 build failed,
6 outputs differ, 130 interrupted. An error is one line, and its fix is another.

This file runs before anything was checked, so it trusts nothing that lies beside it. It takes the
bundle off Python's path, reads the manifest once, and runs the other files of the program only as
bytes that have the manifest's sha256; ``commands`` then checks the rest of the bundle. What may
lie in a bundle and what stays possible: docs/security.md, "What may lie in a bundle".
This file travels to devices: Python 3.6 syntax, standard library.
"""

import sys

_PATHS = sys.path[:]
if not __package__:
    del sys.path[:1]  # the bundle: a json.py there would run in place of Python's own

import hashlib
import importlib.abc
import importlib.util
import json
import os
import types
from typing import Any, List

_HERE = os.path.dirname(os.path.realpath(__file__))
_MANIFEST, _CHANGED = "manifest.json", 3
_program: Any = None  # imports the files beside this one, in a bundle


def main(arguments: List[str]) -> int:
    """Run one command and return its exit code."""
    from edge_inception.device import commands

    return commands.main(arguments, _HERE, _program.content if _program else None)


class _Program(importlib.abc.Loader):
    """Python's importer of the files beside this one, as the manifest in this folder lists them."""

    def __init__(self) -> None:
        self.content = _read(_MANIFEST)
        try:
            files = json.loads(self.content.decode("utf-8"))["files"]
            self._sha256 = {name: entry["sha256"] for name, entry in files.items()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            _refuse(_MANIFEST + " was changed: it is not the manifest of a bundle")

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        """The place of a module of this package, which no other importer may answer."""
        if name.partition(".")[0] != "edge_inception":
            return None
        file = name.rpartition(".")[2] + ".py"
        if file not in self._sha256:
            raise ImportError("the bundle has no " + file)
        return importlib.util.spec_from_loader(name, self, origin=file)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run a file, if its bytes have the sha256 that the manifest lists."""
        file = module.__name__.rpartition(".")[2] + ".py"
        source, path = _read(file), os.path.join(_HERE, file)
        if hashlib.sha256(source).hexdigest() != self._sha256[file]:
            _refuse(file + " was changed: its sha256 is not the manifest's")
        module.__file__ = path
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 -- bytes just checked


def _read(name: str) -> bytes:
    try:
        with open(os.path.join(_HERE, name), "rb") as stream:
            return stream.read()
    except OSError as error:
        _refuse("{} of the bundle cannot be read: {}".format(name, error.strerror))
        raise


def _refuse(message: str) -> None:
    fix = "copy the bundle to the device again, or make it again: edge-inception bundle"
    sys.stderr.write("error: {}\nfix: {}\n".format(message, fix))
    sys.exit(_CHANGED)


if not __package__:
    sys.path[:] = [path for path in _PATHS if os.path.realpath(path) != _HERE]
    _program = _Program()
    sys.meta_path.insert(0, _program)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would call home
    # All files lie side by side: every room that they import from is this folder.
    for _room in ("", ".data", ".device", ".engines", ".hardware"):
        _module = types.ModuleType("edge_inception" + _room)
        _module.__path__ = []
        sys.modules[_module.__name__] = _module

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
