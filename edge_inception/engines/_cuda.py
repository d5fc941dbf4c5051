"""CUDA without a framework: memory, one stream, events, pinned buffers, a captured graph.

Calls go through pycuda where it is installed, otherwise through ctypes to CUDA's runtime library,
so that a JetPack without pycuda needs nothing more. In both cases ctypes calls the driver library
to query the GPU and to capture graphs: the driver accepts the streams of the runtime library.
This file travels to devices: Python 3.6 syntax, standard library and numpy.

The code follows NVIDIA's documented C interfaces and has not run on a GPU so far. The tests run
the ctypes part with a C library that has the same symbols and copies the bytes in host memory.

Source: CUDA Runtime API and CUDA Driver API reference, 10.2 to 13.0.
"""

import ctypes
import ctypes.util
import functools
import importlib.util
from typing import Any, Callable, Optional, Tuple, TypeVar, cast

import numpy as np

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_RUNTIMES = tuple("libcudart.so" + version for version in ("", ".13", ".12", ".11.0", ".10.2"))
_CUDA_HOME = "/usr/local/cuda/lib64/"  # JetPack's folder, tried in case ldconfig lacks it
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate in between


class CudaError(Exception):
    """CUDA refused a call or is not installed; the message names the call and CUDA's reason."""


def _load(names: Tuple[str, ...]) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:  # noqa: PERF203 -- a handful of names
            continue
    return None


def _driver() -> Any:
    """The initialised CUDA driver library; None where no driver answers."""
    library = _load(_DRIVERS)
    return library if library is not None and library.cuInit(0) == 0 else None


def _runtime() -> Any:
    """CUDA's runtime library; None where it is not installed."""
    name = ctypes.util.find_library("cudart")
    return _load((*_RUNTIMES, _CUDA_HOME + _RUNTIMES[0], *([name] if name else [])))


def driver_version() -> int:
    """The CUDA version of the NVIDIA driver, 12080 for 12.8; 0 where no driver answers."""
    library, version = _driver(), ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return 0
    return version.value


def gpu_name() -> str:
    """Name of the first GPU, such as ``"Orin"``; empty where no driver answers."""
    library, name, device = _driver(), ctypes.create_string_buffer(256), ctypes.c_int(0)
    if library is None or library.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return ""
    library.cuDeviceGetName(name, len(name), device)
    return name.value.decode()


def compute_capability() -> str:
    """Compute capability (SM) of the first GPU, such as ``"8.7"``; empty without a driver."""
    library, device, parts = _driver(), ctypes.c_int(0), []
    if library is None or library.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return ""
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int(0)
        if library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return ""
        parts.append(str(value.value))
    return ".".join(parts)


def has_pycuda() -> bool:
    """Whether pycuda is installed; it is not imported."""
    return importlib.util.find_spec("pycuda") is not None


def can_allocate() -> bool:
    """Whether pycuda or CUDA's runtime library is installed; running engines needs either."""
    return has_pycuda() or _runtime() is not None


def open_device() -> Any:
    """The first GPU through pycuda if it is installed, else through CUDA's runtime library.

    Raises:
        CudaError: Neither is installed, or CUDA refuses the GPU.
    """
    if has_pycuda():
        return PycudaDevice()
    library = _runtime()
    if library is None:
        raise CudaError(
            "running an engine needs pycuda (pip install pycuda) or CUDA's libcudart.so "
            "(on a Jetson: sudo apt install cuda-cudart-*)"
        )
    return RuntimeDevice(library)


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _pycuda_call(method: _Method) -> _Method:
    """``method``, whose pycuda errors are raised as CudaError.

    Calls are timed, and a decorator adds less time to a call than a context manager.
    """

    @functools.wraps(method)
    def call(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except self._cuda.Error as error:  # its text names the call and the reason
            raise CudaError("pycuda: " + " ".join(str(error).split())) from error

    return cast("_Method", call)


class PycudaDevice:
    """The first GPU's primary context, which TensorRT uses too, and a stream in that context.

    Every method may raise CudaError.
    """

    name = "pycuda"

    def __init__(self) -> None:
        try:
            import pycuda.driver
        except (ImportError, OSError) as error:  # built for another numpy, Python or CUDA
            raise CudaError("pycuda cannot be imported: {}".format(error)) from error
        self._cuda = pycuda.driver
        self._open()
        try:
            self._stream = self._new_stream()
        except CudaError:
            self._context.pop()
            raise
        self.stream = int(self._stream.handle)

    @_pycuda_call
    def _open(self) -> None:
        self._cuda.init()
        self._context = self._cuda.Device(0).retain_primary_context()
        self._context.push()

    @_pycuda_call
    def _new_stream(self) -> Any:
        return self._cuda.Stream()

    @_pycuda_call
    def allocate(self, num_bytes: int) -> Any:
        """Device memory; ``int()`` of it is the address."""
        return self._cuda.mem_alloc(num_bytes)

    @_pycuda_call
    def allocate_pinned(self, shape: Tuple[int, ...], element: str) -> Any:
        """A host array in page-locked memory, which is copied to and from the GPU faster."""
        return self._cuda.pagelocked_empty(shape, element)

    @_pycuda_call
    def upload(self, memory: Any, array: Any) -> None:
        """Copy a host array to the device, in the stream's order."""
        self._cuda.memcpy_htod_async(memory, array, self._stream)

    @_pycuda_call
    def download(self, array: Any, memory: Any) -> None:
        """Copy device memory to a host array, in the stream's order."""
        self._cuda.memcpy_dtoh_async(array, memory, self._stream)

    @_pycuda_call
    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    @_pycuda_call
    def record_event(self, event: Any = None) -> Any:
        """Record an event after all work on the stream so far; ``event``, if given, is reused."""
        event = self._cuda.Event() if event is None else event
        event.record(self._stream)
        return event

    @_pycuda_call
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """GPU time in ms between two events that have passed."""
        return float(end.time_since(start))

    def close(self) -> None:
        """Leave the context; an array or allocation frees its memory with its last reference."""
        self._context.pop()


class _Resource:
    """An object of the runtime library, which is freed with the last reference to it."""

    def __init__(self, library: Any, create: str, destroy: str, *sizes: Any) -> None:
        self._library, self._destroy = library, destroy
        self.handle = ctypes.c_void_p()
        _call_runtime(library, create, ctypes.byref(self.handle), *sizes)

    def __int__(self) -> int:
        return self.handle.value or 0

    def __del__(self) -> None:
        if self.handle.value:
            getattr(self._library, self._destroy)(self.handle)


class _PinnedMemory(_Resource):
    """Page-locked host memory that numpy wraps as an array; the array keeps the memory alive."""

    def __init__(self, library: Any, shape: Tuple[int, ...], element: str) -> None:
        kind = np.dtype(element)
        size = ctypes.c_size_t(int(np.prod(shape)) * kind.itemsize)
        _Resource.__init__(self, library, "cudaMallocHost", "cudaFreeHost", size)
        self.__array_interface__ = {
            "data": (int(self), False),
            "shape": tuple(shape),
            "typestr": kind.str,
            "version": 3,
        }


def _call_runtime(library: Any, name: str, *arguments: Any) -> None:
    code = getattr(library, name)(*arguments)
    if code != 0:
        library.cudaGetErrorString.restype = ctypes.c_char_p
        reason = library.cudaGetErrorString(ctypes.c_int(code)).decode("utf-8", "replace")
        raise CudaError("{}: {} (cudaError {})".format(name, reason, code))


class RuntimeDevice:
    """The first GPU through libcudart alone; its methods are those of ``PycudaDevice``."""

    name = "libcudart"

    def __init__(self, library: Any) -> None:
        self._library = library
        _call_runtime(library, "cudaSetDevice", ctypes.c_int(0))
        self._stream = self._create("cudaStreamCreate", "cudaStreamDestroy")
        self.stream = int(self._stream)

    def _create(self, create: str, destroy: str, *sizes: Any) -> _Resource:
        return _Resource(self._library, create, destroy, *sizes)

    def allocate(self, num_bytes: int) -> Any:
        return self._create("cudaMalloc", "cudaFree", ctypes.c_size_t(num_bytes))

    def allocate_pinned(self, shape: Tuple[int, ...], element: str) -> Any:
        return np.asarray(_PinnedMemory(self._library, shape, element))

    def _copy(self, target: int, source: int, num_bytes: int, direction: int) -> None:
        _call_runtime(
            self._library,
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(num_bytes),
            ctypes.c_int(direction),
            self._stream.handle,
        )

    def upload(self, memory: Any, array: Any) -> None:
        self._copy(int(memory), array.ctypes.data, array.nbytes, _HOST_TO_DEVICE)

    def download(self, array: Any, memory: Any) -> None:
        self._copy(array.ctypes.data, int(memory), array.nbytes, _DEVICE_TO_HOST)

    def synchronize(self) -> None:
        _call_runtime(self._library, "cudaStreamSynchronize", self._stream.handle)

    def record_event(self, event: Any = None) -> Any:
        event = self._create("cudaEventCreate", "cudaEventDestroy") if event is None else event
        _call_runtime(self._library, "cudaEventRecord", event.handle, self._stream.handle)
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        elapsed_ms, events = ctypes.c_float(0), (start.handle, end.handle)
        _call_runtime(self._library, "cudaEventElapsedTime", ctypes.byref(elapsed_ms), *events)
        return float(elapsed_ms.value)

    def close(self) -> None:
        """Free the stream; memory is freed with the last reference to it."""
        del self._stream


class CapturedGraph:
    """A CUDA graph: the work that ``enqueue`` puts on a stream, recorded for repeated launches."""

    def __init__(self, stream: int, enqueue: Callable[[], Any]) -> None:
        """Record the work of ``enqueue`` without executing it.

        Raises:
            CudaError: The driver is absent or too old, or the work cannot be captured.
        """
        self._library = _driver()
        if self._library is None or not hasattr(self._library, "cuStreamBeginCapture_v2"):
            raise CudaError("no CUDA driver of 10.1 or later answers: it has no stream capture")
        self._stream = ctypes.c_void_p(stream)
        self._graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            is_done = enqueue()
        finally:
            ended = self._library.cuStreamEndCapture(self._stream, ctypes.byref(self._graph))
        if not is_done or ended != 0:
            self.close()
            raise CudaError("the engine's work cannot be captured (CUresult {})".format(ended))
        try:
            self._instantiate()
        except CudaError:
            self.close()
            raise

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise CudaError("{} failed (CUresult {})".format(name, code))

    def _instantiate(self) -> None:
        target = ctypes.byref(self._executable)
        if hasattr(self._library, "cuGraphInstantiateWithFlags"):  # since CUDA 11.4
            flags = ctypes.c_ulonglong(0)
            self._call("cuGraphInstantiateWithFlags", target, self._graph, flags)
        else:
            null, size = ctypes.c_void_p(), ctypes.c_size_t(0)
            self._call("cuGraphInstantiate", target, self._graph, null, null, size)

    def launch(self) -> None:
        """Put the recorded work on the stream.

        Raises:
            CudaError: The driver refuses.
        """
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph, even one whose capture failed."""
        if self._executable.value:
            self._library.cuGraphExecDestroy(self._executable)
        if self._graph.value:
            self._library.cuGraphDestroy(self._graph)


def capture(stream: int, enqueue: Callable[[], Any]) -> Tuple[Optional[CapturedGraph], str]:
    """(captured graph, ""), or (None, reason) for work that cannot be captured, such as a DLA's."""
    try:
        return CapturedGraph(stream, enqueue), ""
    except CudaError as error:
        return None, str(error)
