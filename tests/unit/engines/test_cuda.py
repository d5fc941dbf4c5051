"""Promises of the GPU without a framework, on a C library with CUDA's symbols."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

from edge_inception.engines import _cuda


def test_facts_of_the_device(stub):
    """Driver version, name and compute capability are what the driver library answers."""
    assert stub.cuInit(0) == 0
    assert _cuda.driver_version() == 12060
    assert (_cuda.gpu_name(), _cuda.compute_capability()) == ("Orin", "8.7")


def test_no_driver_is_no_device(monkeypatch):
    """Without a driver library every fact is empty, and nothing raises."""
    monkeypatch.setattr(_cuda, "_DRIVERS", ("libno-such-driver.so",))
    assert (_cuda.driver_version(), _cuda.gpu_name(), _cuda.compute_capability()) == (0, "", "")


def test_bytes_go_to_the_device_and_back(stub):
    """What is uploaded from pinned memory is what a download finds, and all of it is freed."""
    device = _cuda.open_device()
    assert device.name == "libcudart"
    host = device.allocate_pinned((2, 3), "float16")
    assert (host.shape, host.dtype) == ((2, 3), np.float16)
    host[...] = np.arange(6).reshape(2, 3)
    memory = device.allocate(host.nbytes)
    device.upload(memory, host)
    back = device.allocate_pinned((2, 3), "float16")
    start = device.record_event()
    device.download(back, memory)
    end = device.record_event()
    device.synchronize()
    np.testing.assert_array_equal(back, np.arange(6).reshape(2, 3))
    assert device.elapsed_ms(start, end) == 1.5
    device.close()
    del host, memory, back, start, end
    assert ctypes.c_int.in_dll(stub, "stub_alive").value == 0


def test_cuda_error_carries_its_reason(stub):
    """A failed call names itself, CUDA's text and the number."""
    device = _cuda.open_device()
    with pytest.raises(_cuda.CudaError, match=r"cudaMalloc: out of memory \(cudaError 2\)"):
        device.allocate(1 << 40)
    device.close()
    assert ctypes.c_int.in_dll(stub, "stub_alive").value == 0


def test_captured_work_is_launched_again(stub):
    """Work is recorded once under capture and launched as often as asked, by old drivers too."""
    device, capturing = _cuda.open_device(), ctypes.c_int.in_dll(stub, "stub_capturing")
    seen = []
    graph, why = _cuda.capture(device.stream, lambda: seen.append(capturing.value) or True)
    assert (seen, why) == ([1], "")
    graph.launch()
    graph.launch()
    assert ctypes.c_int.in_dll(stub, "stub_launches").value == 2
    graph.close()
    device.close()


def test_work_that_cannot_be_captured_says_so(stub):
    """Work that refuses to be enqueued leaves no graph and a reason, and capture is over."""
    device = _cuda.open_device()
    graph, why = _cuda.capture(device.stream, lambda: False)
    assert graph is None
    assert "cannot be captured" in why
    assert ctypes.c_int.in_dll(stub, "stub_capturing").value == 0
    device.close()
    assert ctypes.c_int.in_dll(stub, "stub_alive").value == 0


def test_graph_that_the_driver_refuses_is_freed(stub):
    """Captured work that cannot be instantiated says so and leaves nothing behind."""
    device = _cuda.open_device()
    ctypes.c_int.in_dll(stub, "stub_refusal").value = 801
    graph, why = _cuda.capture(device.stream, lambda: True)
    assert graph is None
    assert "cuGraphInstantiate" in why
    assert "CUresult 801" in why
    device.close()
    assert ctypes.c_int.in_dll(stub, "stub_alive").value == 0


def test_neither_pycuda_nor_libcudart_names_both(monkeypatch):
    """Where there is no way to the GPU the error names the two that would do."""
    monkeypatch.setattr(_cuda, "has_pycuda", lambda: False)
    monkeypatch.setattr(_cuda, "_runtime", lambda: None)
    assert not _cuda.can_allocate()
    with pytest.raises(_cuda.CudaError, match=r"pip install pycuda.*libcudart"):
        _cuda.open_device()


def test_pycuda_is_preferred(pycuda):
    """Where pycuda is installed it moves the bytes, and its context is left at the end."""
    device = _cuda.open_device()
    assert (device.name, device.stream, pycuda.depth) == ("pycuda", 7, 1)
    host = np.arange(4, dtype=np.uint8)
    memory = device.allocate(4)
    device.upload(memory, host)
    back = device.allocate_pinned((4,), "uint8")
    device.download(back, memory)
    assert back.tolist() == [0, 1, 2, 3]
    device.close()
    assert pycuda.depth == 0


PYCUDA_CALLS = {
    "init": lambda _: _cuda.open_device(),
    "Stream": lambda _: _cuda.open_device(),
    "mem_alloc": lambda device: device.allocate(4),
    "pagelocked_empty": lambda device: device.allocate_pinned((4,), "uint8"),
    "memcpy_htod_async": lambda device: device.upload(0, np.zeros(4, np.uint8)),
    "memcpy_dtoh_async": lambda device: device.download(np.zeros(4, np.uint8), 0),
    "Event": lambda device: device.record_event(),
}


@pytest.mark.parametrize("name", PYCUDA_CALLS)
def test_error_of_pycuda_is_a_cuda_error(pycuda, monkeypatch, name):
    """Whatever pycuda refuses is one line with its reason, and no context is left behind."""
    device = _cuda.open_device()

    def refuse(*_):
        raise pycuda.MemoryError(f"{name} failed:\n  out of memory")

    monkeypatch.setattr(pycuda, name, refuse)
    with pytest.raises(_cuda.CudaError, match=rf"^pycuda: {name} failed: out of memory$"):
        PYCUDA_CALLS[name](device)
    device.close()
    assert pycuda.depth == 0


def test_pycuda_that_cannot_be_imported(pycuda, monkeypatch):
    """A pycuda of another numpy or CUDA is an error that names it."""
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(_cuda.CudaError, match="pycuda cannot be imported"):
        _cuda.open_device()
    assert pycuda.depth == 0
