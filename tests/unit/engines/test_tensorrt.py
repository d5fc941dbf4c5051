"""Promises of the TensorRT backend that hold without TensorRT and without a GPU."""

from __future__ import annotations

import sys
import types

import pytest

from edge_inception.engines import tensorrt as backend
from edge_inception.engines._backend import CompileOptions
from edge_inception.errors import BackendMissing

BACKEND = backend.BACKEND


def test_absent_library_names_jetpack_and_pip(tiny_typed, monkeypatch):
    """On a Jetson TensorRT comes with JetPack, elsewhere from pip: the hint says both."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    typed = tiny_typed()
    with pytest.raises(BackendMissing) as caught:
        BACKEND.compile(typed, CompileOptions(), typed.path.with_suffix(BACKEND.suffix))
    assert "JetPack" in caught.value.hint
    assert "edge-inception[tensorrt]" in caught.value.hint
    assert BACKEND.availability().remedy == caught.value.hint


def test_compile_needs_the_gpu(tiny_typed, monkeypatch):
    """TensorRT times kernels on the GPU it compiles for; without a driver it is not started."""
    library = types.ModuleType("tensorrt")
    library.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr("edge_inception.engines._cuda.driver_version", lambda: 0)
    typed = tiny_typed()
    with pytest.raises(BackendMissing, match="needs the GPU that will run the engine"):
        BACKEND.compile(typed, CompileOptions(), typed.path.with_suffix(BACKEND.suffix))
    found = BACKEND.availability()
    assert (found.can_compile, found.can_execute) == (False, False)
