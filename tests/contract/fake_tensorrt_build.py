"""How the fake TensorRT builds, as NVIDIA documents it and no further.

Failures are None, with the reason in the log alone; strong typing takes no precision flags; a
dynamic input needs a profile; a calibrator is asked for its cache before it is asked for images; a
monitor that answers False stops the build.

Sources, docs.nvidia.com/deeplearning/tensorrt: Python API reference (Builder, Dims, IBuilderConfig,
OnnxParser, Int8/Calibrator, ProgressMonitor, TimingCache), "Strongly Typed Networks", "Working with
DLA", "Working with Dynamic Shapes".
"""

from __future__ import annotations

import json
import operator
import re
from typing import Any

from fake_tensorrt import make

HEADER_BYTES = 28
_DETAILED = 2  # ProfilingVerbosity, the same number in every release


def say(self: Any, severity: str, text: str) -> None:
    """Through the logger of the builder or runtime, as an object made by one of them."""
    self._logger.log(self._trt.ILogger.Severity[severity], text)


def start(self: Any, logger: Any) -> None:
    """What pybind11 says where the library returns nothing, and the library in the log alone."""
    check_ready(logger, "ILogger")
    self._logger = logger
    if not self._world.starts:
        self._say("WARNING", "CUDA initialization failure with error: 35.")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def check_ready(thing: Any, kind: str) -> None:
    if not getattr(thing, "_is_ready", False):
        raise TypeError(f"{kind}.__init__() must be called when overriding __init__")


class Builder:
    _say = say
    __init__ = start

    def _read_num_DLA_cores(self) -> int:  # noqa: N802 -- the library's name
        return self._world.num_dla_cores

    def _read_platform_has_fast_fp16(self) -> bool:
        return self._world.has_fast

    _read_platform_has_fast_int8 = _read_platform_has_fast_fp16

    def create_network(self, flags: int = 0) -> Any:
        known = {1 << value for value in self._trt.NetworkDefinitionCreationFlag}
        asked = {1 << bit for bit in range(operator.index(flags).bit_length()) if flags >> bit & 1}
        if not asked <= known:
            self._say("ERROR", f"create_network: unknown flags {flags:b}")
            return None
        return make(self._trt, "INetworkDefinition", bits=flags, inputs=[])

    def create_builder_config(self) -> Any:
        return make(self._trt, "IBuilderConfig", bits=set(), profiles=[], logger=self._logger)

    def create_optimization_profile(self) -> Any:
        return make(self._trt, "IOptimizationProfile", shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        world = self._world
        reason = world.problem or _complaint(self._trt, network, config)
        calibrator = getattr(config, "_set_int8_calibrator", None)
        if not reason and calibrator is not None:
            reason = _calibrated(self._trt, calibrator)
        monitor = getattr(config, "_set_progress_monitor", None)
        if not reason and monitor is not None:
            reason = _watched(monitor)
        if reason:
            self._say("ERROR", reason)
            return None
        if world.warning:
            self._say("WARNING", world.warning)
        return make(self._trt, "IHostMemory", content=_plan(self._trt, network, config))


def _complaint(trt: Any, network: Any, config: Any) -> str:
    """Why a real builder would return None for this network and configuration; often empty."""
    flags = {name for name in config._bits if name in {"FP16", "INT8"}}
    dims = tuple(network._inputs[0].shape)
    if _has_bit(trt, network, "STRONGLY_TYPED") and flags:
        return f"strongly typed networks take no precision flags, got {sorted(flags)}"
    if -1 in dims and not config._profiles:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    if getattr(config, "_set_default_device_type", None) == trt.DeviceType.DLA:
        if hasattr(trt.BuilderFlag, "FP16") and not flags:
            return "DLA layers need FP16 or INT8 mode"
        if any(len(set(shapes)) > 1 for shapes in config._profiles):
            return "DLA takes no dynamic dimensions"
    return ""


def _has_bit(trt: Any, network: Any, name: str) -> bool:
    flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
    return flag is not None and bool(network._bits >> flag & 1)


# The first line of a cache that a release takes: NV_TENSORRT_VERSION of its NvInferVersion.h.
CACHE_HEADERS = {
    "8.2": "TRT-8201",
    "8.5": "TRT-8502",
    "8.6": "TRT-8601",
    "10.0": "TRT-100001",
    "10.3": "TRT-100300",
    "10.7": "TRT-100700",
    "10.13": "TRT-101303",
    "10.16": "TRT-101601",
}


def _calibrated(trt: Any, calibrator: Any) -> str:
    """Ask a calibrator as the builder does: its cache first, images where that is not its own."""
    check_ready(calibrator, "IInt8EntropyCalibrator2")
    operator.index(calibrator.get_batch_size())
    cache = calibrator.read_calibration_cache()
    if cache is not None:
        calibrator._world.calls.append(("the builder reads the cache", (bytes(cache),)))
        own = CACHE_HEADERS[".".join(trt.__version__.split(".")[:2])]
        if cache.startswith(f"{own}-EntropyCalibration2\n".encode()):
            return ""
    return "" if calibrator.get_batch(["input"]) else "Calibration failure: no images"


def _watched(monitor: Any) -> str:
    """Report two steps of one phase; an answer of False cancels the build."""
    check_ready(monitor, "IProgressMonitor")
    monitor.phase_start("Building Engine", None, 2)
    goes_on = all(monitor.step_complete("Building Engine", step) for step in range(2))
    monitor.phase_finish("Building Engine")
    return "" if goes_on else "the build was cancelled"


def _plan(trt: Any, network: Any, config: Any) -> bytes:
    """Header of the release (docs/tensorrt.md, "Plans"), and what the engine must know as JSON.

    Before 8.6 only the first four bytes are known, from the code of the 8.5.2 library.
    """
    parts = [int(part) for part in trt.__version__.split(".")] + [0]
    magic = b"vtrt" if "rtx" in trt.__name__ else b"ftrt"
    has_header = "rtx" in trt.__name__ or parts[:2] >= [8, 6]
    head = magic + bytes(20) + bytes(parts[:4]) if has_header else b"ptrt".ljust(HEADER_BYTES)
    profiles = config._profiles
    facts = {
        "version": trt.__version__,
        "shape": list(network._inputs[0].shape),
        "element": network._inputs[0].dtype.name,
        "kernel": config._world.kernel,
        "batches": [shape[0] for shape in profiles[0]] if profiles else None,
        "flags": sorted(config._bits),
        "is_detailed": getattr(config, "_set_profiling_verbosity", 0) == _DETAILED,
    }
    return head + json.dumps(facts).encode()


class INetworkDefinition:
    def _read_num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]


class Dims:
    """A shape: indices, slices and a length, from which Python iterates; no more than that."""

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __len__(self) -> int:
        return len(self._sizes)


class ITensor:
    def _read_name(self) -> str:
        return "input"

    def _read_shape(self) -> Any:
        return make(self._trt, "Dims", sizes=self._world.shape)

    def _read_dtype(self) -> Any:
        return self._trt.DataType[self._world.element]


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        check_ready(logger, "ILogger")
        self._network, self._errors = network, []

    def parse_from_file(self, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError("parse_from_file takes a str")
        # Up to 8.6, which still knew EXPLICIT_PRECISION, the batch is a dimension only if asked.
        is_old = hasattr(self._trt.NetworkDefinitionCreationFlag, "EXPLICIT_PRECISION")
        is_implicit = is_old and not _has_bit(self._trt, self._network, "EXPLICIT_BATCH")
        if is_implicit or not self._world.parses:
            self._errors = [make(self._trt, "ParserError")]
            return False
        self._network._inputs.append(make(self._trt, "ITensor"))
        return True

    def _read_num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


class ParserError:
    def desc(self) -> str:
        return "Assertion failed:\n  something"

    def node(self) -> int:
        return 3

    def node_name(self) -> str:
        return "/a/Conv"

    def node_operator(self) -> str:
        return "Conv"


class IOptimizationProfile:
    def set_shape(self, name: str, *shapes: Any) -> None:
        low, usual, high = (tuple(map(operator.index, shape)) for shape in shapes)
        if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
            raise RuntimeError("Shape provided is inconsistent with other shapes.")
        self._shapes[name] = (low, usual, high)


class IBuilderConfig:
    def set_flag(self, flag: Any) -> None:
        self._bits.add(self._trt.BuilderFlag(flag).name)

    def get_flag(self, flag: Any) -> bool:
        return self._trt.BuilderFlag(flag).name in self._bits

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._trt.MemoryPoolType(pool), operator.index(pool_size)

    def add_optimization_profile(self, profile: Any) -> int:
        if "input" not in profile._shapes:
            return -1
        self._profiles.append(profile._shapes["input"])
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized: Any) -> Any:
        content = bytes(memoryview(serialized))
        return None if b"damaged" in content else make(self._trt, "ITimingCache", content=content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:  # noqa: FBT001
        if _is_foreign(self._trt, cache) and not ignore_mismatch:
            return False
        object.__setattr__(self, "_cache", cache)
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


def _is_foreign(trt: Any, cache: Any) -> bool:
    """Timings of another GPU, or of another TensorRT: each serialized cache tells its own."""
    versions = set(re.findall(rb"\[([\d.]+)\]", cache._content))
    return b"foreign" in cache._content or not versions <= {trt.__version__.encode()}


class ITimingCache:
    def serialize(self) -> Any:
        tag = f"[{self._trt.__version__}]+timings".encode()
        return make(self._trt, "IHostMemory", content=self._content + tag)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:  # noqa: FBT001
        if _is_foreign(self._trt, input_cache) and not ignore_mismatch:
            return False
        self._content += input_cache._content
        return True


class IHostMemory:
    def __bytes__(self) -> bytes:
        return self._content

    def _read_nbytes(self) -> int:
        return len(self._content)


ACTS = {
    kind.__name__: kind
    for kind in (
        Builder, Dims, IBuilderConfig, IHostMemory, INetworkDefinition, IOptimizationProfile,
        ITensor, ITimingCache, OnnxParser, ParserError,
    )
}  # fmt: skip
