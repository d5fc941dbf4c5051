"""The engine libraries behind one interface: TensorRT, TensorRT-RTX, OpenVINO.

A runtime has these methods, and each raises ``Refusal`` where the library is missing, the bundle is
not for its version, or the library refuses what it is given:

- ``version()``, checked against the manifest;
- ``identity()``: the versions and hardware that an engine depends on;
- ``graph()``: the bundle's graph for this version;
- ``compile(path, graph)``: the engine of a typed graph, and the fields of ``EngineFacts`` that the
  library reports. An int8 graph whose engine computes nothing in int8 is refused too;
- ``load(content, facts)``: an open engine with ``run(images) -> dict of arrays`` and ``close()``.

The modules ``_nvinfer`` and ``_openvino`` call the libraries TensorRT and OpenVINO; the host uses
these modules too.
This file travels to devices: Python 3.6 syntax; a library is imported on first use.
"""

import importlib
import os
import platform
import re
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from edge_inception.device import errors, manifest, records
from edge_inception.device.errors import Refusal
from edge_inception.hardware import cores

_PYTHON_MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_BUILD_AGAIN = "build it again: python3 device.py build --force"
CALIBRATION_CACHE = "calibration.cache"
_MIN_OPENVINO_PYTHON = (3, 10)


class CpuIdentity(NamedTuple):
    """OpenVINO's version and the machine type, on which an engine of OpenVINO depends."""

    openvino: str
    machine: str


class GpuIdentity(NamedTuple):
    """The facts that a plan depends on; ``sm`` is the compute capability, None if unknown."""

    tensorrt: str
    sm: Optional[str]
    device: str


def _travelling_module(name: str) -> Any:
    """A module of ``engines`` that travels; only the bundles for its library carry it."""
    return importlib.import_module("edge_inception.engines." + name)


def open_runtime(bundle: Any, threads: int = 0, *, accepts_float: bool = False) -> Any:
    """The runtime of a bundle's target; ``threads`` 0 means all cores this process may use.

    With ``accepts_float`` an int8 graph's engine is kept even if no layer computes in int8.

    Raises:
        Refusal: The manifest names a library that this program does not know, or this process may
            not use so many threads.
    """
    backend = bundle.target.backend
    if backend == "openvino":
        return OpenVino(bundle, threads, accepts_float=accepts_float)
    if backend in _PYTHON_MODULES:
        return TensorRt(bundle, accepts_float=accepts_float)
    raise Refusal(
        "the manifest asks for engine library '{}'".format(ascii(backend)[1:-1]),
        "known: openvino, {}".format(", ".join(sorted(_PYTHON_MODULES))),
    )


class OpenVino:
    """OpenVINO on the CPU."""

    name = "openvino"
    suffix = ".blob"

    def __init__(self, bundle: Any, threads: int, *, accepts_float: bool = False) -> None:
        usable = cores.usable_threads()
        if not 0 <= threads <= usable:
            raise Refusal(
                "{} threads asked for, this process may use {}".format(threads, usable),
                "wanted 1 to {}, or 0 for all".format(usable),
            )
        self._threads, self._accepts_float = threads or usable, accepts_float
        self._precision = bundle.record.build.float_precision or "f32"
        self._bundle = bundle

    def _library(self) -> Any:
        # A Python before 3.10 cannot parse _openvino.py.
        if sys.version_info < _MIN_OPENVINO_PYTHON:
            raise Refusal(
                "OpenVINO needs Python 3.10 or later, this is {}".format(platform.python_version()),
                "run it with a newer one: python3.10 device.py",
                errors.LIBRARY_MISSING,
            )
        return _travelling_module("_openvino")

    def version(self) -> str:
        """Version of the library."""
        return self.identity().openvino

    def identity(self) -> CpuIdentity:
        """Version of the library and machine type, on which an engine depends."""
        library = self._library()
        try:
            return CpuIdentity(**library.tied_to())
        except library.LibraryMissing as error:
            raise Refusal(str(error), error.hint, errors.LIBRARY_MISSING) from error

    def graph(self) -> manifest.Graph:
        """The bundle's graph for this library."""
        return manifest.require_graph(self._bundle, None)

    def compile(self, path: str, graph: manifest.Graph) -> Tuple[bytes, Dict[str, Any]]:
        """The engine of a typed graph, and the library's counts as fields of ``EngineFacts``."""
        library = self._library()
        try:
            compiled = library.compile_graph(
                library.read_graph(path),
                name=path,
                precision=self._precision,
                threads=self._threads,
                batch=(graph.profile.min, graph.profile.max),
            )
        except library.Refusal as error:
            raise Refusal(str(error), error.hint, errors.BUILD_FAILED) from error
        num_int8, total = (compiled.layers[key] for key in ("int8_layers", "weighted_layers"))
        return compiled.blob, {
            "int8_layers": num_int8,
            "weighted_layers": total,
            "float_precision": self._precision,
            "warnings": self._float_warnings(num_int8, total) if graph.precision == "int8" else [],
        }

    def _float_warnings(self, num_int8: int, total: int) -> List[str]:
        """A warning where OpenVINO computes layers of an int8 graph in float, as on aarch64."""
        if not num_int8:
            reason = "OpenVINO computes none of {} layers in int8 on this CPU".format(total)
            return _accept_float(reason, is_accepted=self._accepts_float)
        if num_int8 == total:
            return []
        text = "OpenVINO computes {} of {} layers in int8 on this CPU ({}), the others in float"
        return [text.format(num_int8, total, platform.machine()) + ", which is slower"]

    def load(self, content: bytes, facts: Any) -> Any:
        """An open engine."""
        library = self._library()
        try:
            runner = library.BlobRunner(
                content,
                name=facts.file,
                precision=self._precision,
                threads=self._threads,
            )
            return _RefusingRunner(
                runner, (RuntimeError, TypeError, ValueError), "OpenVINO cannot run the engine"
            )
        except library.Refusal as error:
            raise Refusal(str(error), _BUILD_AGAIN) from error


class TensorRt:
    """TensorRT or TensorRT-RTX, in the version that is installed on this device."""

    suffix = ".engine"

    def __init__(self, bundle: Any, *, accepts_float: bool = False) -> None:
        self.name = bundle.target.backend
        self._bundle, self._accepts_float = bundle, accepts_float
        self._module: Any = None

    def library(self) -> Any:
        """The vendor's Python module, imported by the first of its names that works."""
        reasons: List[str] = []
        for name in () if self._module else _PYTHON_MODULES[self.name]:
            try:
                self._module = importlib.import_module(name)
                break
            except (ImportError, OSError) as error:
                reasons.append(str(error).splitlines()[0])
        if self._module is None:
            raise Refusal(
                "TensorRT's Python bindings cannot be imported: {}".format("; ".join(reasons)),
                "sudo apt-get install python3-libnvinfer; in a virtual environment: python3 -m "
                "venv --system-site-packages",
                errors.LIBRARY_MISSING,
            )
        return self._module

    def version(self) -> str:
        """Version of the library, checked against the manifest's range."""
        version = str(self.library().__version__)
        if self._bundle.target.tensorrt[0]:
            manifest.require_tensorrt(self._bundle, version)
        return version

    def identity(self) -> GpuIdentity:
        """The facts that a plan depends on: TensorRT's version, and the GPU."""
        cuda = _travelling_module("_cuda")
        version = self.version()
        if not cuda.driver_version():
            raise Refusal(
                "no NVIDIA driver answers on this machine",
                "run it on the device itself; in a container: docker run --runtime nvidia",
                errors.LIBRARY_MISSING,
            )
        return GpuIdentity(version, cuda.compute_capability(), cuda.gpu_name())

    def graph(self) -> manifest.Graph:
        """The graph for this version."""
        version = self.version() if self.name == "tensorrt" else None
        return manifest.require_graph(self._bundle, version)

    def compile(self, path: str, graph: manifest.Graph) -> Tuple[bytes, Dict[str, Any]]:
        """The plan of a typed graph, and the library's counts as fields of ``EngineFacts``."""
        nvinfer, inspection = _travelling_module("_nvinfer"), _travelling_module("_inspection")
        # The build replaces the cache's first line, which must name the installed version.
        cache = self._bundle.path(CALIBRATION_CACHE) if is_calibrated(graph) else None
        settings = build_settings(graph, self._bundle.record.build, cache)
        settings = settings._replace(timing_cache=self._timing_cache())
        try:
            built = nvinfer.build(self.library(), path, settings)
        except (nvinfer.VendorError, OSError) as error:
            raise Refusal(
                "TensorRT refused {}: {}".format(path, error),
                _build_advice(str(error)),
                errors.BUILD_FAILED,
            ) from error
        described = inspection.describe_layers(built.layers)
        counts = (described[key] for key in ("int8_layers", "dla_islands", "layers"))
        num_int8, num_islands, kinds = counts
        warnings = list(built.warnings)
        if graph.precision == "int8":
            fallbacks = inspection.fallbacks(described, graph.float_layers or ())
            # Engines without a list of layers by kind, and engines with parts on a DLA core (deep
            # learning accelerator), whose layers are not listed, are accepted.
            is_listed = set(kinds) - {"unknown"} and not num_islands
            if is_listed and not num_int8:
                reason = "none of the layers that TensorRT lists multiplies in int8"
                fallbacks = _accept_float(reason, is_accepted=self._accepts_float) + fallbacks
            warnings = fallbacks + warnings
        if self._bundle.record.build.dla_core is not None and not num_islands:
            warnings.insert(0, "a DLA core was asked for, and no part of the engine runs on one")
        return built.plan, dict(described, warnings=warnings)

    def _timing_cache(self) -> str:
        """Path of the timing cache, one for each TensorRT version and GPU."""
        folder = os.path.join(self._bundle.root, manifest.ENGINES)
        os.makedirs(folder, exist_ok=True)
        here = "-".join(str(value) for _, value in sorted(self.identity()._asdict().items()))
        name = "{}-{}".format(manifest.TIMING_CACHE, re.sub(r"[^\w.-]", "_", here))
        return os.path.join(folder, name)

    def load(self, content: bytes, facts: Any) -> Any:
        """An open plan, unless it was built for another version or GPU."""
        plan = _travelling_module("_plan")
        reason, _ = plan.refusal(content, records.plain(facts), self.identity()._asdict())
        if reason:
            raise Refusal(reason, _BUILD_AGAIN)
        nvinfer, cuda = _travelling_module("_nvinfer"), _travelling_module("_cuda")
        try:
            runner = nvinfer.PlanRunner(
                self.library(), content, dla_core=self._bundle.record.build.dla_core
            )
            return _RefusingPlanRunner(
                runner, (nvinfer.VendorError, cuda.CudaError), "TensorRT cannot run the plan"
            )
        except nvinfer.VendorError as error:
            raise Refusal(
                "TensorRT cannot load the plan: {}".format(error), _BUILD_AGAIN
            ) from error
        except cuda.CudaError as error:
            raise Refusal(
                str(error), "check the driver and the CUDA of the JetPack", errors.LIBRARY_MISSING
            ) from error


def _accept_float(reason: str, *, is_accepted: bool) -> List[str]:
    """A warning that the engine of an int8 graph computes nothing in int8, if ``is_accepted``.

    Raises:
        Refusal: ``is_accepted`` is False; such an engine is slower and larger than an int8 engine.
    """
    if is_accepted:
        return ["int8 was asked for: " + reason]
    raise Refusal(
        "int8 was asked for: " + reason,
        "make a bundle of --precision fp16 or fp32 for this device, or keep this engine: python3 "
        "device.py build --accept-float",
        errors.BUILD_FAILED,
    )


def is_calibrated(graph: manifest.Graph) -> bool:
    """Whether an int8 graph's scales are in the calibration cache, not in the graph's nodes."""
    return graph.typing == "implicit" and graph.precision == "int8"


def build_settings(
    graph: manifest.Graph, choices: manifest.BuildOptions, cache: Optional[str]
) -> Any:
    """``_nvinfer.BuildSettings`` for a graph and the choices under ``build`` in the manifest."""
    return _travelling_module("_nvinfer").BuildSettings(
        min_batch=graph.profile.min,
        opt_batch=graph.profile.opt,
        max_batch=graph.profile.max,
        workspace_mib=choices.workspace_mib,
        typing=graph.typing,
        precision=graph.precision,
        float_rest=graph.float_rest or "fp32",
        calibration_cache=cache,
        dla_core=choices.dla_core,
        # fallback has a meaning only for a DLA core
        allow_gpu_fallback=bool(choices.allow_gpu_fallback) and choices.dla_core is not None,
        builder_optimization_level=choices.builder_optimization_level,
    )


def _build_advice(reason: str) -> str:
    if "memory" in reason.lower():
        return "free memory: stop the desktop (sudo init 3), add swap, or lower --workspace"
    return "the message names the node; please report it with the TensorRT version"


class _RefusingRunner:
    """A runner whose failures, such as too little memory, become refusals.

    ``description`` starts the message; ``errors`` are the exceptions that become refusals.
    """

    def __init__(self, runner: Any, errors: Tuple[Any, ...], description: str) -> None:
        self._runner, self._errors, self._description = runner, errors, description

    def close(self) -> None:
        """Release the engine."""
        self._runner.close()

    def run(self, images: Any) -> Dict[str, Any]:
        """Outputs of one batch by name."""
        try:
            outputs: Dict[str, Any] = self._runner.run(images)
        except self._errors as error:
            raise Refusal(
                "{}: {}".format(self._description, error),
                "free memory: stop the desktop (sudo init 3), add swap, or use a smaller batch",
            ) from error
        return outputs


class _RefusingPlanRunner(_RefusingRunner):
    """A runner of a TensorRT plan, which also reports the GPU time."""

    @property
    def gpu_ms(self) -> float:
        """GPU time of the last batch in ms, without copies."""
        return float(self._runner.gpu_ms)

    @property
    def uses_graph(self) -> bool:
        """Whether batches run as one captured CUDA graph."""
        return bool(self._runner.uses_graph)
