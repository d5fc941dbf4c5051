"""pycuda.driver with host memory for a GPU, strict about time: work happens at synchronize."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import World

_STREAM, _FIRST_ADDRESS, _ALIGNMENT = 77, 4096, 256


class _Allocation:
    """Device memory; the number is its address, as pycuda's DeviceAllocation."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __int__(self) -> int:
        return self._address

    __index__ = __int__


class _Stream:
    handle = _STREAM

    def __init__(self, world: World) -> None:
        self._world = world
        world.streams[self.handle] = []

    def add(self, name: str, work: Any = None) -> None:
        self._world.calls.append((f"cuda.{name}", ()))
        if work is not None:
            self._world.streams[self.handle].append(work)

    def synchronize(self) -> None:
        self.add("synchronize")
        waiting = self._world.streams[self.handle]
        while waiting:
            waiting.pop(0)()


class _Event:
    def record(self, stream: _Stream) -> None:
        stream.add("event")

    def synchronize(self) -> None:
        pass

    def time_since(self, _other: _Event) -> float:
        return 1.5


class Gpu(types.ModuleType):
    """The functions of pycuda.driver; ``depth`` counts contexts that were not left."""

    Event = _Event
    Error = type("Error", (Exception,), {})

    def __init__(self, world: World) -> None:
        super().__init__("pycuda.driver")
        self._world, self.depth = world, 0

    def init(self) -> None:
        pass

    def Device(self, _index: int) -> Any:  # noqa: N802 -- pycuda's name
        return types.SimpleNamespace(retain_primary_context=lambda: self)

    def push(self) -> None:
        self.depth += 1

    def pop(self) -> None:
        self.depth -= 1

    def Stream(self) -> _Stream:  # noqa: N802 -- pycuda's name
        return _Stream(self._world)

    def mem_alloc(self, num_bytes: int) -> _Allocation:
        address = _FIRST_ADDRESS + _ALIGNMENT * len(self._world.memory)
        self._world.memory[address] = np.zeros(num_bytes, np.uint8)
        return _Allocation(address)

    def pagelocked_empty(self, shape: Any, dtype: Any) -> Any:
        return np.full(shape, 99, dtype)  # stale, so that a result that was not waited for shows

    def memcpy_htod_async(self, target: Any, array: Any, stream: _Stream) -> None:
        memory = self._world.memory[int(target)]
        stream.add("upload", lambda: np.copyto(memory, array.ravel().view(np.uint8)))

    def memcpy_dtoh_async(self, array: Any, source: Any, stream: _Stream) -> None:
        memory = self._world.memory[int(source)]
        read = lambda: memory.view(array.dtype).reshape(array.shape)  # noqa: E731
        stream.add("download", lambda: np.copyto(array, read()))


def install(monkeypatch: pytest.MonkeyPatch, world: World) -> Gpu:
    """Stand in for pycuda until the test is over."""
    gpu, package = Gpu(world), types.ModuleType("pycuda")
    package.driver, package.__spec__ = gpu, importlib.machinery.ModuleSpec("pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", gpu)
    return gpu
