"""What the TensorRT and the TensorRT-RTX backend share on the host: artifacts in and out.

``_nvinfer`` talks to the library and knows no artifacts, since it travels to devices alone.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edge_inception import artifact, stage
from edge_inception.artifact import EngineFile, TypedGraph
from edge_inception.engines import _backend, _nvinfer
from edge_inception.engines._backend import (
    Availability,
    CompileOptions,
    Session,
    SessionOptions,
    Takes,
)
from edge_inception.errors import BackendMissing, CompileFailed, InputError
from edge_inception.registry import unknown
from edge_inception.spec import INPUT_NAME, ShapeProfile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """One of NVIDIA's libraries: backend name, import names, first bytes of a plan, remedy.

    ``needs_gpu_to_compile`` where a plan is timed on the GPU it will run on; ``tool`` is NVIDIA's
    own command line for the same build.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    magic: str
    remedy: str
    tool: str
    needs_gpu_to_compile: bool


def library(vendor: Vendor) -> Any:
    """The vendor's module.

    Raises:
        BackendMissing: None of its names can be imported.
    """
    reasons = []
    for name in vendor.modules:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # noqa: PERF203 -- two names at most
            reasons.append(str(error).splitlines()[0])
    raise BackendMissing(
        f"{vendor.title} cannot be imported: {'; '.join(reasons)}", hint=vendor.remedy
    )


def availability(vendor: Vendor) -> Availability:
    """Never raises; without a driver an engine can at most be compiled."""
    try:
        version = str(library(vendor).__version__)
    except BackendMissing as error:
        return Availability(
            can_compile=False, can_execute=False, version="", why_not=str(error), remedy=error.hint
        )
    has_driver = bool(_nvinfer.driver_version())
    has_pycuda = importlib.util.find_spec("pycuda") is not None
    why_not, remedy = "", ""
    if not has_driver:
        why_not = "no NVIDIA driver answers on this machine"
        remedy = "run it on a machine with an NVIDIA GPU and its driver"
    elif not has_pycuda:
        why_not, remedy = "running engines needs pycuda, not installed", "pip install pycuda"
    return Availability(
        can_compile=has_driver or not vendor.needs_gpu_to_compile,
        can_execute=has_driver and has_pycuda,
        version=version,
        why_not=why_not,
        remedy=remedy,
    )


def tied_to(vendor: Vendor) -> Mapping[str, str]:
    """Version of the library, and the GPU's name where plans belong to one GPU.

    Raises:
        BackendMissing: The library is not installed.
    """
    ties = {vendor.name: str(library(vendor).__version__)}
    if vendor.needs_gpu_to_compile:
        ties["gpu"] = _nvinfer.gpu_name() or "none"
    return ties


def compile_graph(
    vendor: Vendor, typed: TypedGraph, options: CompileOptions, path: Path
) -> EngineFile:
    """Compile a typed graph to a plan and publish it with its layer dump.

    Raises:
        BackendMissing: The library, or a GPU it needs, is absent.
        CompileFailed: The parser or the builder refuses the graph; the node is named. Or the graph
            is int8 and not one layer of the plan multiplies in int8.
        InputError: Not a typed graph, or an option that cannot be honoured.
    """
    _backend.check_typed(typed)
    trt = library(vendor)
    _check_options(vendor, trt, typed, options)
    if vendor.needs_gpu_to_compile:
        _require_driver(vendor, "compiling needs the GPU that will run the engine")
    profile = options.profile
    settings = _nvinfer.BuildSettings(
        min_batch=profile.min,
        opt_batch=profile.opt,
        max_batch=profile.max,
        workspace_mib=options.workspace_mib,
        compute_capabilities=options.compute_capabilities,
    )
    try:
        built = _nvinfer.build(trt, str(typed.path), settings)
    except _nvinfer.VendorError as error:
        raise CompileFailed(
            f"{vendor.title} refused {typed.path}: {error}",
            hint="the message names the node; compile takes graphs written by quantize",
        ) from error
    layers = _nvinfer.describe_layers(built.layers)
    _check_int8(vendor, typed, options, layers["layers"])
    return artifact.publish(
        EngineFile,
        path,
        built.plan,
        provenance=stage.provenance(
            f"compile:{vendor.name}", parents={"typed graph": typed.sha256}, options=options
        ),
        counts={"layers": sum(sum(n.values()) for n in layers["layers"].values())}
        | {key: layers[key] for key in ("int8_layers", "total_weight_bytes")},
        details={
            **typed.details,
            **layers,
            "weights_memory_bytes": built.weights_memory_bytes,
            "backend": vendor.name,
            "tied_to": dict(tied_to(vendor)),
            "float_precision": "f32",
            "compute_capabilities": list(options.compute_capabilities) or "library default",
            "batch": {"min": profile.min, "opt": profile.opt, "max": profile.max},
            "equivalent_command": equivalent_command(vendor, typed, options, path),
            "warnings": built.warnings,
        },
    )


def equivalent_command(
    vendor: Vendor, typed: TypedGraph, options: CompileOptions, path: Path
) -> str:
    """The same build by NVIDIA's own tool, for people who want to check ours."""
    words = [vendor.tool, f"--onnx={typed.path}", f"--saveEngine={path}"]
    if options.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if _static_batch(typed) is None:
        image = "x".join(str(size) for size in typed.details["input_shape"][1:])
        profile = options.profile
        for word, batch in (("min", profile.min), ("opt", profile.opt), ("max", profile.max)):
            words.append(f"--{word}Shapes={INPUT_NAME}:{batch}x{image}")
    return " ".join(words)


def _static_batch(typed: TypedGraph) -> int | None:
    """Batch of the graph as its sidecar tells it; None is dynamic."""
    batch = typed.details["input_shape"][0]
    return batch if isinstance(batch, int) and batch > 0 else None


def _check_options(vendor: Vendor, trt: Any, typed: TypedGraph, options: CompileOptions) -> None:
    if "input_shape" not in typed.details:
        raise InputError(
            f"the sidecar of {typed.path} records no input_shape", hint="run quantize again"
        )
    _backend.check_profile(typed, _static_batch(typed), options.profile)
    if options.float_precision != "f32":
        raise InputError(
            f"backend '{vendor.name}' takes float precision from the graph, "
            f"got {options.float_precision}",
            hint="leave it out, and use --precision fp16 for float16",
        )
    if options.extra:
        raise InputError(f"backend '{vendor.name}' has no option {min(options.extra)}")
    known = _nvinfer.compute_capabilities(trt)
    for name in options.compute_capabilities:
        if name not in known:
            raise unknown("compute capability", name, known)


def _check_int8(
    vendor: Vendor, typed: TypedGraph, options: CompileOptions, layers: Mapping[str, Any]
) -> None:
    """Refuse an int8 graph whose convolutions all became float, as they do for Turing on RTX."""
    convolutions = layers.get("correlation")
    if convolutions is None:  # no layer dump, or a library that names its layers otherwise
        return
    asked = ", ".join(options.compute_capabilities) or "the library's default"
    _backend.check_int8(
        typed,
        convolutions.get("Int8", 0),
        library=f"{vendor.title} for compute capability {asked}",
        hint="ask for compute capability 8.0 or later, or use --precision fp16",
    )


def _require_driver(vendor: Vendor, why: str) -> None:
    if not _nvinfer.driver_version():
        raise BackendMissing(
            f"no NVIDIA driver answers on this machine: {why}",
            hint=f"use a machine with an NVIDIA GPU, its driver and {vendor.title}",
        )


class _PlanSession:
    """A plan on the first GPU; untested on hardware."""

    def __init__(self, runner: Any, info: Mapping[str, Any], engine: EngineFile) -> None:
        self.info = info
        self._runner = runner
        self._num_classes = _backend.num_classes(engine)
        shape = tuple(engine.details["input_shape"][1:])
        self._takes = Takes(element=runner.input_element, shape=shape)

    def _infer(self, images: NDArray[Any]) -> NDArray[np.float32]:
        return _backend.dense(self._runner.run(images), self._num_classes)

    def run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return _backend.run_in_batches(
                self._infer,
                images,
                takes=self._takes,
                profile=ShapeProfile(**self.info["batch"]),
            )
        except _nvinfer.VendorError as error:
            raise InputError(f"the engine failed to run: {error}") from error

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.close()


def open_engine(vendor: Vendor, engine: EngineFile, options: SessionOptions) -> Session:
    """A session on the first GPU; ``options.threads`` does not concern a GPU.

    Raises:
        BackendMissing: The library, pycuda or an NVIDIA driver is absent.
        InputError: The engine is damaged, or belongs to another version or GPU.
    """
    del options
    trt = library(vendor)
    plan = engine.path.read_bytes()
    magic = _nvinfer.plan_magic(plan)
    if magic != vendor.magic:
        raise InputError(
            f"{engine.path} is no {vendor.title} plan: it starts with {magic!r}, "
            f"wanted {vendor.magic!r}",
            hint="compile it again: edge-inception compile, or build --force",
        )
    _require_driver(vendor, f"{engine.path} was compiled, and is not executed here")
    _backend.check_tied(engine, tied_to(vendor))
    try:
        runner = _nvinfer.PlanRunner(trt, plan)
    except ImportError as error:
        raise BackendMissing(
            f"running {vendor.title} engines needs pycuda: {error}", hint="pip install pycuda"
        ) from error
    except _nvinfer.VendorError as error:
        raise InputError(
            f"{vendor.title} cannot load {engine.path}: {error}",
            hint="compile it again on this machine: edge-inception compile, or build --force",
        ) from error
    keys = ("layers", "int8_layers", "float_precision", "batch")
    info = {
        "backend": vendor.name,
        "library": dict(tied_to(vendor)),
        "gpu": _nvinfer.gpu_name(),
        **{key: engine.details[key] for key in keys},
    }
    return _PlanSession(runner, info, engine)
