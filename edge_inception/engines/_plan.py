"""Plans (serialized engines): their header, a check that they fit this machine, and a runner.

The plan's header and its sidecar (the .json file beside it) are compared with this machine before
the library loads the plan: given a plan of another version or GPU, the library returns None and
writes the reason only to its log. This file travels to devices: Python 3.6 syntax, standard library
and numpy. The runner needs a GPU, and has not run on a GPU so far: tests run it on stand-ins that
have the recorded members of each TensorRT version.

Source: trtexec ``printPlanVersion`` (samples/common/sampleEngines.cpp), docs/tensorrt.md, "Plans".
"""

import hashlib
import struct
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

if TYPE_CHECKING:
    from edge_inception.engines._library import Context, Engine, Library, Runtime

from edge_inception.engines import _cuda, _inspection

VendorError = _inspection.VendorError

# First bytes of a plan -> backend. TensorRT up to 8.5 writes ptrt: the library of the 8.5.2.2 wheel
# compares a plan's first bytes with ptrt and lacks ftrt; the library of 8.6.0 writes ftrt first.
MAGIC = {"ftrt": "tensorrt", "ptrt": "tensorrt", "vtrt": "tensorrt_rtx"}
_VERSION_AT = 24  # offset in bytes of major, minor, patch and build, one byte each
_SAME_GPU = (("sm", "SM"), ("device", "device"))
# Hardware compatibility level -> facts of the building GPU that the executing GPU must share
_LEVEL_FACTS = {"ampere+": (), "sameComputeCapability": _SAME_GPU[:1]}
_AMPERE = (8, 0)
_RECOMPILE = "compile it again on this machine: edge-inception compile, or python3 device.py build"
# The library's element type -> numpy's, for those that differ in more than upper case
_NUMPY_NAMES = {"FLOAT": "float32", "HALF": "float16"}


class Header(NamedTuple):
    """A plan's backend (empty if unknown) and TensorRT version, from the plan's first bytes."""

    kind: str
    version: Optional[str]


def read_header(plan: bytes) -> Header:
    """The header of a plan; plans of TensorRT-RTX and of TensorRT before 8.6 hold no version."""
    start = plan[:4].decode("latin-1")
    kind = MAGIC.get(start, "")
    if start != "ftrt" or len(plan) < _VERSION_AT + 4 or struct.unpack("<I", plan[4:8])[0]:
        return Header(kind, None)
    return Header(kind, ".".join(str(part) for part in plan[_VERSION_AT : _VERSION_AT + 4]))


def refusal(plan: bytes, sidecar: Mapping[str, Any], here: Mapping[str, Any]) -> Tuple[str, str]:
    """Why ``plan`` must not be loaded here, and what to do; both texts are empty if it may be.

    Args:
        plan: The file's bytes.
        sidecar: Facts about the build: ``sha256``, ``tensorrt``, ``sm``, ``device``, ``precision``,
            ``dla_core``, ``version_compatible``, ``hardware_compatible``.
        here: Facts about this machine (``tensorrt``, ``sm``, ``device``, ``num_dla_cores``) and
            about the request (``precision``, ``dla_core``). A fact that is absent or None on
            either side is not compared.
    """
    reason = _sidecar_mismatch(plan, sidecar) or _machine_mismatch(plan, sidecar, here)
    return (reason, _RECOMPILE) if reason else ("", "")


def _sidecar_mismatch(plan: bytes, sidecar: Mapping[str, Any]) -> str:
    """A sentence on how the plan contradicts its own sidecar; empty if it does not."""
    recorded, sha256 = sidecar.get("sha256"), hashlib.sha256(plan).hexdigest()
    if recorded is not None and sha256 != recorded:
        return "the plan has sha256 {}, its sidecar says {}".format(sha256[:12], recorded[:12])
    if recorded is None and sidecar.get("version_compatible"):
        return (
            "a version-compatible plan executes code that it carries, and its sidecar has no "
            "sha256 that shows who built it"
        )
    built, version = read_header(plan).version, sidecar.get("tensorrt")
    if built and version and not _same_release(built, version):
        return "the plan was built by TensorRT {}, its sidecar says {}".format(built, version)
    return ""


def _machine_mismatch(plan: bytes, sidecar: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """A sentence on why a plan of that build cannot run on this machine; empty if it can."""
    built = sidecar.get("tensorrt") or read_header(plan).version
    library = here.get("tensorrt")
    is_portable = bool(sidecar.get("version_compatible"))
    if built and library and not _is_loadable(built, library, is_version_compatible=is_portable):
        return _describe_mismatch("TensorRT", built, library)
    level, sm = sidecar.get("hardware_compatible"), here.get("sm")
    if level == "ampere+" and sm and tuple(int(part) for part in sm.split(".")) < _AMPERE:
        return _describe_mismatch("SM", "8.0 or later", sm)
    hardware = _LEVEL_FACTS.get(level or "", _SAME_GPU)
    for key, title in (*hardware, ("precision", "precision"), ("dla_core", "DLA core")):
        built_for, wanted = sidecar.get(key), here.get(key)
        if built_for is not None and wanted is not None and built_for != wanted:
            return _describe_mismatch(title, built_for, wanted)
    core, cores = sidecar.get("dla_core"), here.get("num_dla_cores")
    if core is not None and cores is not None and core >= cores:
        return _describe_mismatch("DLA core", core, "{} DLA cores".format(cores))
    return ""


def _describe_mismatch(name: str, built_for: Any, here: Any) -> str:
    return "the plan was compiled for {} {}, here is {}".format(name, built_for, here)


def _same_release(one: str, other: str) -> bool:
    """Whether two versions name the same release, as 10.3.0 and 10.3.0.30 do."""
    return all(a == b for a, b in zip(one.split("."), other.split(".")))  # noqa: B905


def _is_loadable(built: str, here: str, *, is_version_compatible: bool) -> bool:
    """Whether a plan built by TensorRT version ``built`` loads in version ``here``.

    A version-compatible plan of major version 8 loads in 10, a plan of 10 loads in 11, and either
    loads in later releases of its own major version.

    Source: TensorRT support matrix 11.4.1, docs/tensorrt.md, "Plans".
    """
    if not is_version_compatible:
        return _same_release(built, here)
    old, new = ([int(part) for part in text.split(".")[:2]] for text in (built, here))
    return (old[0], new[0]) in ((8, 10), (10, 11)) or (old[0] == new[0] and old <= new)


class _NamedTensors:
    """An engine's inputs and outputs in TensorRT 8.5 and later, by name."""

    def __init__(self, trt: "Library", engine: "Engine", context: "Context") -> None:
        self._trt, self._engine, self._context = trt, engine, context
        self.names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]

    def is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def dtype(self, name: str) -> Any:
        return self._engine.get_tensor_dtype(name)

    def reshape(self, name: str, shape: Tuple[int, ...]) -> Any:
        return self._context.set_input_shape(name, shape)

    def shape(self, name: str) -> Tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))  # type: ignore[arg-type]  # by index

    def bind(self, name: str, address: int) -> None:
        self._context.set_tensor_address(name, address)

    def enqueue(self, stream: int) -> bool:
        return bool(self._context.execute_async_v3(stream))


class _BindingTensors:
    """An engine's inputs and outputs in TensorRT 8.4 and earlier: by index, addresses in a list."""

    # Any: the type stubs are those of TensorRT 10, which has no bindings.
    def __init__(self, _trt: "Library", engine: Any, context: Any) -> None:
        self._engine, self._context = engine, context
        self.names = [engine.get_binding_name(i) for i in range(engine.num_bindings)]
        self._addresses = [0] * engine.num_bindings

    def is_input(self, name: str) -> bool:
        return bool(self._engine.binding_is_input(self.names.index(name)))

    def dtype(self, name: str) -> Any:
        return self._engine.get_binding_dtype(self.names.index(name))

    def reshape(self, name: str, shape: Tuple[int, ...]) -> Any:
        return self._context.set_binding_shape(self.names.index(name), shape)

    def shape(self, name: str) -> Tuple[int, ...]:
        return tuple(self._context.get_binding_shape(self.names.index(name)))

    def bind(self, name: str, address: int) -> None:
        self._addresses[self.names.index(name)] = address

    def enqueue(self, stream: int) -> bool:
        return bool(self._context.execute_async_v2(self._addresses, stream))


def create_with_logger(cls: Any, logger: Any) -> Any:
    """An instance of the library's class ``cls``, Builder or Runtime, which logs to ``logger``.

    Raises:
        VendorError: The library cannot start, for example with a driver that is too old. Its log
            has the reason; its binding raises only a TypeError.
    """
    try:
        return cls(logger)
    except TypeError as error:
        reason = "; ".join(_inspection.logged_warnings(logger)) or _inspection.logged_errors(logger)
        raise VendorError("the library cannot start: " + reason) from error


def deserialize(
    trt: "Library", plan: bytes, *, dla_core: Optional[int], is_trusted: bool
) -> Tuple["Runtime", "Engine"]:
    """(runtime, engine) of a plan; ``dla_core`` is None for a plan that runs on the GPU alone.

    With ``is_trusted`` the plan may execute code that it carries, as version-compatible plans do.

    Raises:
        VendorError: The library refuses the plan; the message is the library's reason.
    """
    logger = _inspection.capturing_logger(trt)
    runtime = create_with_logger(trt.Runtime, logger)
    if dla_core is not None:
        runtime.DLA_core = dla_core
    if is_trusted:
        if not hasattr(runtime, "engine_host_code_allowed"):
            needed = "version-compatible plans need TensorRT 8.6 or later, here is {}"
            raise VendorError(needed.format(trt.__version__))
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise VendorError(_inspection.logged_errors(logger))
    return runtime, engine


class PlanRunner:
    """A plan loaded on the first GPU; this class has not run on hardware so far.

    Attributes:
        input_element: numpy's name of the input's element type.
        uses_graph: Whether the current input shape runs as one captured CUDA graph.
        why_no_graph: Why it does not run as a graph; empty if it does or no batch has run.
    """

    def __init__(
        self,
        trt: "Library",
        plan: bytes,
        *,
        dla_core: Optional[int] = None,
        is_trusted: bool = False,
        wants_graph: bool = True,
        refit: Optional[Callable[[Any], None]] = None,
    ) -> None:
        """Deserialize ``plan``; the function ``deserialize`` explains its arguments.

        With ``wants_graph`` the work for each input shape is captured as a CUDA graph; work for a
        DLA core cannot be captured and is enqueued in each call. ``refit``, if given, sets the
        weights that the engine lacks.

        Raises:
            VendorError: The library refuses the plan; the message is its reason.
            CudaError: Neither pycuda nor libcudart is installed, or CUDA refuses the GPU.
        """
        self._device = _cuda.open_device()
        self._logger = _inspection.capturing_logger(trt)
        try:
            self._runtime, self._engine = deserialize(
                trt, plan, dla_core=dla_core, is_trusted=is_trusted
            )
            if refit is not None:
                refit(self._engine)
            self._create_context(trt)
        except BaseException:
            self._device.close()
            raise
        self._shape: Tuple[int, ...] = ()
        self._buffers: Dict[str, Tuple[Any, Any]] = {}
        self._events: List[Any] = []
        self._graph: Optional[_cuda.CapturedGraph] = None
        self._wants_graph = wants_graph and dla_core is None
        self.why_no_graph = "" if self._wants_graph else "not asked for, or work of a DLA core"

    def _create_context(self, trt: "Library") -> None:
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise VendorError(_inspection.logged_errors(self._logger))
        kind = _NamedTensors if hasattr(self._engine, "num_io_tensors") else _BindingTensors
        self._tensors: Any = kind(trt, self._engine, self._context)
        names = self._tensors.names
        (self._input,) = [name for name in names if self._tensors.is_input(name)]
        self._outputs = [name for name in names if name != self._input]
        self.input_element = self._dtype(self._input)

    def _dtype(self, name: str) -> str:
        """A tensor's element type, by numpy's name."""
        dtype = self._tensors.dtype(name).name
        return str(_NUMPY_NAMES.get(dtype, dtype.lower()))

    @property
    def uses_graph(self) -> bool:
        return self._graph is not None

    @property
    def gpu_ms(self) -> float:
        """GPU time of the last ``run`` in ms, without copies."""
        return float(self._device.elapsed_ms(*self._events))

    def run(self, images: Any) -> Dict[str, Any]:
        """The outputs for one batch by name, in fresh arrays.

        Args:
            images: Contiguous array of ``input_element`` in a shape that the plan's profile allows.

        Raises:
            VendorError: The input does not fit, or the library failed to execute.
        """
        if images.dtype.name != self.input_element:
            text = "the plan takes {}, got {}"
            raise VendorError(text.format(self.input_element, images.dtype.name))
        if tuple(images.shape) != self._shape:
            self._allocate(tuple(images.shape))
        device = self._device
        host, memory = self._buffers[self._input]
        np.copyto(host, images)
        device.upload(memory, host)
        start, end = self._events or (None, None)
        start = device.record_event(start)
        is_done = self._launch()
        self._events = [start, device.record_event(end)]
        for name in self._outputs:
            device.download(*self._buffers[name])
        device.synchronize()
        if not is_done:
            raise VendorError(_inspection.logged_errors(self._logger))
        return {name: self._buffers[name][0].copy() for name in self._outputs}

    def _launch(self) -> bool:
        if self._graph is None:
            return bool(self._tensors.enqueue(self._device.stream))
        self._graph.launch()
        return True

    def _allocate(self, shape: Tuple[int, ...]) -> None:
        """Allocate buffers and capture the CUDA graph for the input shapes of the next calls."""
        self._free_graph()
        self._shape = ()
        if self._tensors.reshape(self._input, shape) is False:
            reason = _inspection.logged_errors(self._logger)
            raise VendorError(
                "the plan does not take input shape {}: {}".format(list(shape), reason)
            )
        for name in self._tensors.names:
            size = shape if name == self._input else self._tensors.shape(name)
            host = self._device.allocate_pinned(size, self._dtype(name))
            memory = self._device.allocate(host.nbytes)
            self._tensors.bind(name, int(memory))
            self._buffers[name] = (host, memory)
        self._shape = shape
        if self._wants_graph:
            self._capture()

    def _capture(self) -> None:
        # In the first call after a change of shape TensorRT initialises itself, which cannot be
        # captured. So one call runs before the capture, on whatever values the buffers hold.
        stream = self._device.stream
        if not self._tensors.enqueue(stream):
            raise VendorError(_inspection.logged_errors(self._logger))
        self._device.synchronize()
        self._graph, self.why_no_graph = _cuda.capture(
            stream, lambda: self._tensors.enqueue(stream)
        )

    def _free_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def close(self) -> None:
        """Release the engine and the GPU's memory; the runner cannot be used afterwards."""
        self._free_graph()
        self._events, self._buffers = [], {}
        del self._tensors, self._context, self._engine, self._runtime
        self._device.close()
