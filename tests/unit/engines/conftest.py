"""A GPU made of host memory: CUDA's symbols in C, pycuda's names in Python, and a plan on top."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from edge_inception.engines import _cuda

STUB = Path(__file__).with_name("cuda_stub.c")


def _compiled(folder, *flags):
    path = folder / f"libcuda-stub{''.join(flags)}.so"
    compiler = shutil.which("cc")
    subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", path, STUB], check=True)
    return str(path)


@pytest.fixture(params=["new", "old"])
def stub(request, tmp_path, monkeypatch):
    """``_cuda`` without pycuda, on the C library; ``old`` is a driver before CUDA 11.4."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    path = _compiled(tmp_path, *(["-DOLD_DRIVER"] if request.param == "old" else []))
    monkeypatch.setattr(_cuda, "_DRIVERS", (path,))
    monkeypatch.setattr(_cuda, "_RUNTIMES", (path,))
    monkeypatch.setattr(_cuda, "has_pycuda", lambda: False)
    return ctypes.CDLL(path)


class FakePycuda(types.ModuleType):
    """pycuda.driver on host arrays; an address is that of the array's bytes."""

    Error = type("Error", (Exception,), {})
    MemoryError = type("MemoryError", (Error,), {})

    def __init__(self):
        super().__init__("pycuda.driver")
        self.depth = 0

    def init(self):
        pass

    def Device(self, _index):  # noqa: N802 -- pycuda's name
        return types.SimpleNamespace(retain_primary_context=lambda: self)

    def push(self):
        self.depth += 1

    def pop(self):
        self.depth -= 1

    def Stream(self):  # noqa: N802 -- pycuda's name
        return types.SimpleNamespace(handle=7, synchronize=lambda: None)

    def Event(self):  # noqa: N802 -- pycuda's name
        return types.SimpleNamespace(record=lambda _: None, time_since=lambda _: 1.5)

    def mem_alloc(self, size):
        return _Memory(size)

    def pagelocked_empty(self, shape, dtype):
        return np.empty(shape, dtype)

    def memcpy_htod_async(self, memory, array, _stream):
        memory.content[:] = array.ravel().view(np.uint8)

    def memcpy_dtoh_async(self, array, memory, _stream):
        array[...] = memory.content.view(array.dtype).reshape(array.shape)


class _Memory:
    def __init__(self, size):
        self.content = np.zeros(size, np.uint8)

    def __int__(self):
        return int(self.content.ctypes.data)


@pytest.fixture
def pycuda(monkeypatch):
    """``_cuda`` with a pycuda, and no driver for graphs."""
    fake = FakePycuda()
    package = types.ModuleType("pycuda")
    package.driver = fake
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    monkeypatch.setattr(_cuda, "has_pycuda", lambda: True)
    monkeypatch.setattr(_cuda, "_DRIVERS", ())
    return fake
