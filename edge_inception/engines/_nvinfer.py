"""Build and run with NVIDIA's inference libraries: TensorRT 10 and 11, and TensorRT-RTX.

The vendor module is an argument (``trt``), so one implementation serves all of them. This very file
travels to devices: Python 3.6 syntax, standard library and numpy, pycuda only to run. What a
library can do is asked of the library (``hasattr``), never derived from its version number.

Running is written after NVIDIA's documented named-tensor API and is untested on hardware.
"""

import ctypes
import functools
import operator
import re
from collections import Counter
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

ELEMENT_BYTES = {
    "Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "FP8": 1,
    "Int32": 4, "Int64": 8,
}  # fmt: skip
_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
}  # where it is not the library's in lower case
_SYNCHRONISATION = ("signal", "wait")
_FAILURES = ("INTERNAL_ERROR", "ERROR")


class VendorError(Exception):
    """The library refused; the text is its own reason, with the node's name, on one line."""


class BuildSettings(NamedTuple):
    """What a build may choose; batch sizes count only where the graph's batch is dynamic."""

    min_batch: int
    opt_batch: int
    max_batch: int
    workspace_mib: Optional[int]
    compute_capabilities: Tuple[str, ...]


class Layer(NamedTuple):
    """One line of the library's layer dump; tensors are (name, dimensions, element type)."""

    kind: str
    inputs: List[Tuple[str, Tuple[int, ...], str]]
    constants: List[Tuple[str, Tuple[int, ...], str]]


class Built(NamedTuple):
    """A serialized engine and what the library said about it."""

    plan: bytes
    layers: List[Layer]
    weights_memory_bytes: Optional[int]
    warnings: List[str]


def capturing_logger(trt: Any) -> Any:
    """A logger of the library that keeps (severity name, text) in ``messages``."""

    class Capture(trt.ILogger):  # type: ignore[misc]  # the base is only known at run time
        """Keeps every message; the libraries explain a None result nowhere else."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages = []  # type: List[Tuple[str, str]]

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity.name, message))

    return Capture()


def failures(logger: Any) -> str:
    """The errors that a capturing logger holds, on one line, without repetition."""
    texts = [_one_line(text) for severity, text in logger.messages if severity in _FAILURES]
    return "; ".join(dict.fromkeys(texts)) or "the library gave no reason"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def build(trt: Any, onnx_path: str, settings: BuildSettings) -> Built:
    """Compile the typed ONNX graph at ``onnx_path``; precision comes from the graph alone.

    Raises:
        VendorError: The parser or the builder refused, or the library lacks what was asked for.
    """
    logger = capturing_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, logger, onnx_path)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _choose_compute_capabilities(trt, config, settings.compute_capabilities)
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    _add_profile(builder, network, config, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = failures(logger)
        if settings.compute_capabilities:
            _forget_failed_build(trt)
        raise VendorError(reason)
    return Built(
        plan=bytes(plan),
        layers=layer_dump(text for _, text in logger.messages),
        weights_memory_bytes=_weights_memory(text for _, text in logger.messages),
        warnings=list(
            dict.fromkeys(_one_line(text) for name, text in logger.messages if name == "WARNING")
        ),
    )


def _forget_failed_build(trt: Any) -> None:
    """Build one identity layer and drop it.

    After a failed build for Turing, TensorRT-RTX 1.7.1 compiles the next network of the process for
    Turing too, whatever that one asks for; the build after it is right again (measured).
    """
    builder = trt.Builder(capturing_logger(trt))
    network = builder.create_network(_network_flags(trt))
    tensor = network.add_input("input", trt.float32, (1,))
    network.mark_output(network.add_identity(tensor).get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if not hasattr(flags, "STRONGLY_TYPED"):
        raise VendorError(
            "{} {} cannot build a strongly typed network".format(trt.__name__, trt.__version__)
        )
    return int(1 << int(flags.STRONGLY_TYPED))


def _parse(trt: Any, network: Any, logger: Any, onnx_path: str) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(onnx_path):
        return
    # Errors belong to the parser: they are read here, since reading them later crashes the process.
    errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
    raise VendorError("; ".join(dict.fromkeys(errors)) or failures(logger))


def _describe(error: Any) -> str:
    """A parser error with the name and operator of its node, where the library knows them."""
    reason = _one_line(error.desc())
    if error.node() < 0:
        return reason
    name = error.node_name() if hasattr(error, "node_name") else ""
    kind = error.node_operator() if hasattr(error, "node_operator") else ""
    return "node {} '{}' ({}): {}".format(error.node(), name, kind or "unknown operator", reason)


def compute_capabilities(trt: Any) -> List[str]:
    """Those the library can compile for without a GPU, as NVIDIA writes them: ``["7.5", ...]``."""
    if not hasattr(trt, "ComputeCapability"):
        return []
    found = [re.match(r"SM(\d+)(\d)$", name) for name in trt.ComputeCapability.__members__]
    return ["{}.{}".format(match.group(1), match.group(2)) for match in found if match]


def _choose_compute_capabilities(trt: Any, config: Any, wanted: Tuple[str, ...]) -> None:
    if not wanted:
        return
    known = compute_capabilities(trt)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise VendorError(
            "no compute capability {}; known: {}".format(missing[0], ", ".join(known) or "none")
        )
    config.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        member = getattr(trt.ComputeCapability, "SM" + name.replace(".", ""))
        config.set_compute_capability(member, index)


def _add_profile(builder: Any, network: Any, config: Any, settings: BuildSettings) -> None:
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if shape[0] != -1:
        return
    batches = (settings.min_batch, settings.opt_batch, settings.max_batch)
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *[(batch, *shape[1:]) for batch in batches])
    config.add_optimization_profile(profile)


_TENSOR = re.compile(
    r"Name: (?P<name>.*?), Dimensions: \[(?P<dims>[\d,-]*)\].*?Datatype: (?P<type>\w+)"
)


def layer_dump(messages: Iterable[str]) -> List[Layer]:
    """Layers in the verbose log of a build with detailed profiling; empty when it holds no dump."""
    layers = []
    for text in messages:
        if text.startswith("Layers:"):
            layers += [_layer(line) for line in text.splitlines() if line.startswith("Name: ")]
    return layers


def _layer(line: str) -> Layer:
    kind = re.search(r", LayerType: ([^,]*),", line)
    return Layer(
        kind=kind.group(1) if kind else "unknown",
        inputs=_tensors(line, "Inputs", "Constants"),
        constants=_tensors(line, "Constants", "Outputs"),
    )


def _tensors(line: str, what: str, following: str) -> List[Tuple[str, Tuple[int, ...], str]]:
    part = re.search(r"{}: \[(.*?)\], {}: \[".format(what, following), line)
    return [
        (name, tuple(int(size) for size in dims.split(",") if size), kind)
        for name, dims, kind in _TENSOR.findall(part.group(1) if part else "")
    ]


def _weights_memory(messages: Iterable[str]) -> Optional[int]:
    """Bytes of weights that the library itself reports."""
    found = [re.match(r"Total Weights Memory: (\d+) bytes", text) for text in messages]
    return max((int(match.group(1)) for match in found if match), default=None)


def describe_layers(layers: Iterable[Layer]) -> Dict[str, Any]:
    """Counts of a layer dump: layers by kind and input type, and bytes of constants by type.

    A constant used by several layers counts once. Planes that only pad the input's channels, which
    the INT8 kernels of TensorRT-RTX need, are no weights and stand apart in ``padding_bytes``.
    """
    kinds = {}  # type: Dict[str, Counter[str]]
    weights = {}  # type: Dict[str, Tuple[str, int]]
    padding = {}  # type: Dict[str, int]
    int8_layers = 0
    for layer in layers:
        if layer.kind in _SYNCHRONISATION:
            continue
        first = layer.inputs[0][2] if layer.inputs else "none"
        kinds.setdefault(layer.kind, Counter())[first] += 1
        for name, dims, kind in layer.constants:
            if _is_padding(dims, layer.inputs):
                padding[name] = _volume(dims) * ELEMENT_BYTES[kind]
            else:
                weights[name] = (kind, _volume(dims) * ELEMENT_BYTES[kind])
        int8_layers += _multiplies_int8(layer)
    by_type = Counter()  # type: Counter[str]
    for kind, size in weights.values():
        by_type[kind] += size
    return {
        "layers": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
        "weight_bytes": dict(by_type),
        "total_weight_bytes": sum(by_type.values()),
        "padding_bytes": sum(padding.values()),
        "int8_layers": int8_layers,
    }


def _volume(dims: Tuple[int, ...]) -> int:
    return functools.reduce(operator.mul, dims, 1)


def _is_padding(dims: Tuple[int, ...], inputs: List[Tuple[str, Tuple[int, ...], str]]) -> bool:
    """One image plane, as large as the images that the layer reads, and no channel of its own."""
    return (
        len(dims) == 4  # noqa: PLR2004 -- NCHW
        and dims[:2] == (1, 1)
        and dims[2] * dims[3] > 1
        and any(shape[2:] == dims[2:] for _, shape, _ in inputs)
    )


def _multiplies_int8(layer: Layer) -> bool:
    """Whether int8 data meet an int8 kernel: a convolution or a matrix product in INT8.

    Generated code (kgen) moves and pads int8 data; it multiplies no matrices.
    """
    if layer.kind == "kgen":
        return False
    has_kernel = any(kind == "Int8" and len(dims) > 1 for _, dims, kind in layer.constants)
    return has_kernel and any(kind == "Int8" for _, _, kind in layer.inputs)


def plan_magic(plan: bytes) -> str:
    """``"vtrt"`` for a TensorRT-RTX plan, ``"ftrt"`` for a TensorRT plan since 8.6.

    Source: facts/jetson.md 2.4 (trtexec ``printPlanVersion``) and plans built here.
    """
    return plan[:4].decode("latin-1")


def _driver() -> Any:
    """The CUDA driver library, initialised; None where no driver answers."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if library.cuInit(0) == 0:
            return library
    return None


def driver_version() -> int:
    """Version of the NVIDIA driver's CUDA, such as 12080; 0 where no driver answers."""
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


class PlanRunner:
    """A deserialized plan; ``input_element`` is numpy's name of its input's type. Needs pycuda."""

    def __init__(self, trt: Any, plan: bytes) -> None:
        """Deserialize ``plan`` on the first GPU.

        Raises:
            VendorError: The library refuses the plan; its reason is the text.
            ImportError: pycuda is absent.
        """
        import pycuda.driver

        self._cuda = pycuda.driver
        self._cuda.init()
        self._gpu = self._cuda.Device(0).retain_primary_context()
        self._gpu.push()
        self._trt = trt
        self._logger = capturing_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            self._gpu.pop()
            raise VendorError(failures(self._logger))
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.Stream()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        *self._outputs, self._input = sorted(names, key=self._is_input)
        self.input_element = self._element(self._input)
        self._shape = ()  # type: Tuple[int, ...]
        self._buffers = ()  # type: Any

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _element(self, name: str) -> str:
        """Element type of a tensor as numpy names it."""
        kind = self._engine.get_tensor_dtype(name).name
        return str(_NUMPY_NAMES.get(kind, kind.lower()))

    def run(self, images: Any) -> Dict[str, Any]:
        """Outputs of one batch by name, in fresh arrays.

        Raises:
            VendorError: The library failed to execute.
        """
        if images.shape != self._shape:
            self._allocate(images)
        source, results = self._buffers
        self._cuda.memcpy_htod_async(source, images, self._stream)
        is_done = self._context.execute_async_v3(self._stream.handle)
        for host, sink in results.values():
            self._cuda.memcpy_dtoh_async(host, sink, self._stream)
        self._stream.synchronize()
        if not is_done:
            raise VendorError(failures(self._logger))
        return {name: host.copy() for name, (host, _) in results.items()}

    def _allocate(self, images: Any) -> None:
        """Buffers for one input shape; latency loops keep theirs from call to call."""
        self._context.set_input_shape(self._input, images.shape)
        source = self._cuda.mem_alloc(images.nbytes)
        self._context.set_tensor_address(self._input, int(source))
        results = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            host = self._cuda.pagelocked_empty(shape, self._element(name))
            sink = self._cuda.mem_alloc(host.nbytes)
            self._context.set_tensor_address(name, int(sink))
            results[name] = (host, sink)
        self._shape, self._buffers = images.shape, (source, results)

    def close(self) -> None:
        """Release the engine and leave the GPU's context."""
        del self._buffers, self._context, self._engine, self._runtime
        self._gpu.pop()
