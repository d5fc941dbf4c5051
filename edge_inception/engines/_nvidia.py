"""The compile of a typed graph to a plan, which the TensorRT and TensorRT-RTX backends share.

A plan is a serialized engine. ``_nvinfer``, ``_plan``, ``_inspection`` and ``_cuda`` call NVIDIA's
libraries and use no artifact classes, since they travel to devices without the rest of this
package. Compiling with TensorRT-RTX has run; compiling with TensorRT has not run on hardware.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_inception import artifact, stage
from edge_inception.artifact import CalibrationCache, EngineFile, TypedGraph
from edge_inception.engines import _backend, _cuda, _inspection, _nvinfer, _trtexec
from edge_inception.engines._backend import Availability, CompileOptions
from edge_inception.errors import BackendMissing, CompileFailed, InputError, unknown
from edge_inception.sidecar import PlanDetails
from edge_inception.spec import INPUT_NAME, Precision, Progress, no_progress

_RTX_TRTEXEC_VERSION = (10, 13)  # the tool tensorrt_rtx has the flags of trtexec 10.13


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySpec:
    """Facts about one of NVIDIA's libraries: TensorRT or TensorRT-RTX.

    Attributes:
        name: Name of the backend; ``_plan.read_header`` calls its plans by this name.
        title: The library's name in messages.
        modules: Import names, in the order in which they are tried.
        distributions: Python packages whose installed versions determine the plan.
        remedy: The command that installs the library.
        tool: NVIDIA's own command-line tool for the same build.
        needs_gpu_to_compile: Whether the compile times kernels on the GPU that will run the plan.
        supported_options: Fields of CompileOptions that the library supports.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    remedy: str
    tool: str
    needs_gpu_to_compile: bool
    supported_options: frozenset[str]


def import_library(spec: LibrarySpec) -> Any:
    """The library's Python module; BackendMissing where it cannot be imported."""
    reasons = []
    for name in spec.modules:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # noqa: PERF203 -- two names at most
            reasons.append(str(error).splitlines()[0])
    raise BackendMissing(f"{spec.title} cannot be imported: {'; '.join(reasons)}", hint=spec.remedy)


def availability(spec: LibrarySpec) -> Availability:
    """What the library can do on this machine; without a driver it can compile at most."""
    try:
        version = str(import_library(spec).__version__)
    except BackendMissing as error:
        return Availability(why_not=str(error), remedy=error.hint)
    has_driver = bool(_cuda.driver_version())
    has_cuda = _cuda.can_allocate()
    why_not, remedy = "", ""
    if not has_driver:
        why_not = "no NVIDIA driver answers on this machine"
        remedy = "run it on a machine with an NVIDIA GPU and its driver"
    elif not has_cuda:
        why_not = "running engines needs pycuda or CUDA's libcudart, and neither is installed"
        remedy = "pip install pycuda"
    return Availability(
        can_compile=has_driver or not spec.needs_gpu_to_compile,
        can_execute=has_driver and has_cuda,
        version=version,
        why_not=why_not,
        remedy=remedy,
    )


def tied_to(spec: LibrarySpec) -> Mapping[str, str]:
    """The library's version, and the GPU's name and compute capability if plans depend on them."""
    ties = {spec.name: str(import_library(spec).__version__)}
    if spec.needs_gpu_to_compile:
        ties |= {"gpu": _cuda.gpu_name() or "none", "sm": _cuda.compute_capability() or "none"}
    return ties


def compile_graph(
    spec: LibrarySpec,
    typed: TypedGraph,
    options: CompileOptions,
    path: Path,
    *,
    progress: Progress = no_progress,
) -> EngineFile:
    """Compile a typed graph to a plan, and publish the plan with counts of layers by precision."""
    _backend.check_typed(typed)
    _backend.check_not_for_cpu(typed, library=spec.title)
    if not spec.needs_gpu_to_compile:
        _backend.check_explicit(typed, library=spec.title)
    trt = import_library(spec)
    _check_options(spec, trt, typed, options)
    if spec.needs_gpu_to_compile:
        require_driver(spec, "compiling needs the GPU that will run the engine")
    settings = build_settings(spec, typed, options, progress)
    built = _build(spec, trt, typed, settings)
    layers = _inspection.describe_layers(built.layers)
    _check_int8(spec, typed, options, layers)
    return artifact.publish(
        EngineFile,
        path,
        built.plan,
        provenance=stage.provenance(
            _backend.compile_stage(spec.name, spec.distributions),
            parents=_parents(typed, options),
            options=options,
        ),
        counts={"layers": sum(sum(n.values()) for n in layers["layers"].values())}
        | {key: layers[key] for key in ("int8_layers", "reformat_layers", "total_weight_bytes")},
        details=PlanDetails.of(
            typed.details,
            **{**layers, "float_kernels": len(layers["float_kernels"])},
            layers_from=built.source,
            weights_memory_bytes=built.weights_memory_bytes,
            backend=spec.name,
            tied_to=tied_to(spec),
            float_precision="f32",
            compute_capabilities=options.compute_capabilities or "library default",
            dla_core=options.dla_core,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatibility,
            strip_weights=options.strip_weights,
            graph=typed.path.name,
            batch=options.profile,
            equivalent_command=equivalent_command(spec, typed, settings, path),
            fallbacks=_fallbacks(typed, options, layers),
            warnings=built.warnings,
        ),
    )


def _build(
    spec: LibrarySpec, trt: Any, typed: TypedGraph, settings: _nvinfer.BuildSettings
) -> _nvinfer.BuildResult:
    try:
        return _nvinfer.build(trt, str(typed.path), settings)
    except _nvinfer.VendorError as error:
        raise CompileFailed(
            f"{spec.title} refused {typed.path}: {error}",
            hint="the message names the node; compile takes graphs written by quantize",
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot use {error.filename}: {error.strerror}", hint="check the cache files' paths"
        ) from error


def _fallbacks(typed: TypedGraph, options: CompileOptions, layers: dict[str, Any]) -> list[str]:
    """Messages about parts that do not run as asked for: in int8, or on a DLA core."""
    if options.dla_core is not None:
        return dla_fallbacks(layers)
    if typed.details.precision is not Precision.INT8:
        return []
    return _inspection.fallbacks(layers, typed.details.float_layers)


def dla_fallbacks(described: dict[str, Any]) -> list[str]:
    """Messages about a plan for a DLA core (deep learning accelerator) that runs partly elsewhere.

    ``described`` is the result of ``_inspection.describe_layers``.
    """
    islands = described["dla_islands"]
    outside = sum(sum(counts.values()) for counts in described["layers"].values()) - islands
    if not islands:
        return ["a DLA core was asked for, and no part of the engine is seen to run on one"]
    if outside:
        return [f"on the DLA core {islands}, on the GPU {outside} parts of the engine"]
    return []


def _parents(typed: TypedGraph, options: CompileOptions) -> dict[str, TypedGraph | str]:
    cache = options.calibration_cache
    scales = {} if cache is None else {"calibration cache": artifact.file_sha256(cache)}
    return {"typed graph": typed, **scales}


def build_settings(
    spec: LibrarySpec, typed: TypedGraph, options: CompileOptions, progress: Progress
) -> _nvinfer.BuildSettings:
    """The settings of a build from the graph's sidecar and the options."""
    profile, details = options.profile, typed.details
    return _nvinfer.BuildSettings(
        min_batch=profile.min,
        opt_batch=profile.opt,
        max_batch=profile.max,
        workspace_mib=options.workspace_mib,
        compute_capabilities=options.compute_capabilities,
        # TensorRT-RTX types every network strongly, and accepts graphs made for weak typing too.
        typing=details.typing if spec.needs_gpu_to_compile else "strong",
        precision=details.precision.value,
        float_rest=details.float_rest,
        calibration_cache=_path_text(options.calibration_cache),
        dla_core=options.dla_core,
        allow_gpu_fallback=options.allow_gpu_fallback,
        builder_optimization_level=options.builder_optimization_level,
        timing_cache=_path_text(options.timing_cache),
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatibility,
        strip_weights=options.strip_weights,
        refit=options.refit,
        sparsity=options.sparsity,
        memory_pools=tuple(options.memory_pools.items()),
        progress=progress,
    )


def _path_text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def equivalent_command(
    spec: LibrarySpec, typed: TypedGraph, settings: _nvinfer.BuildSettings, path: Path
) -> str:
    """The same build as a command of NVIDIA's tool, in the version that is installed."""
    graph, plan, shape = str(typed.path), str(path), None
    if _static_batch(typed) is None:
        shape = (INPUT_NAME, typed.details.input_shape[1:])
    if spec.tool == "trtexec":
        version = tuple(int(part) for part in str(import_library(spec).__version__).split(".")[:3])
        return " ".join(_trtexec.command(version, settings, graph, plan, shape))
    # TensorRT-RTX: one set of flags so far, none for typing
    settings = settings._replace(typing="weak", precision="fp32")
    _, *words = _trtexec.command(_RTX_TRTEXEC_VERSION, settings, graph, plan, shape)
    generations = ",".join(name.replace(".", "") for name in settings.compute_capabilities)
    words += ["--computeCapabilities=" + generations] if generations else []
    return " ".join([spec.tool, *words])


def _static_batch(typed: TypedGraph) -> int | None:
    """The batch that the graph's sidecar (its .json file) states; None where it is dynamic."""
    batch = typed.details.input_shape[0]
    return batch if isinstance(batch, int) and batch > 0 else None


def _check_options(spec: LibrarySpec, trt: Any, typed: TypedGraph, options: CompileOptions) -> None:
    _backend.check_profile(typed, _static_batch(typed), options.profile)
    _backend.refuse_options(spec.name, options, spec.supported_options | {"float_precision"})
    _check_cache(typed, options)
    if options.allow_gpu_fallback and options.dla_core is None:
        raise InputError(
            "only a build for a DLA core may have GPU fallback, and none is asked for",
            hint="add --use-dla-core, or leave --allow-gpu-fallback out",
        )
    if options.float_precision != "f32":
        raise InputError(
            f"backend '{spec.name}' takes float precision from the graph, "
            f"got {options.float_precision}",
            hint="leave it out, and use --precision fp16 for float16",
        )
    _check_names(trt, options)


def _check_names(trt: Any, options: CompileOptions) -> None:
    """Refuse unknown memory pools, hardware levels and compute capabilities."""
    for pool in options.memory_pools:
        if pool not in _nvinfer.POOLS:
            raise unknown("memory pool", pool, _nvinfer.POOLS)
    level = options.hardware_compatibility
    if level and level not in _nvinfer.HARDWARE_LEVELS:
        raise unknown("hardware compatibility level", level, _nvinfer.HARDWARE_LEVELS)
    known = _nvinfer.compute_capabilities(trt)
    for name in options.compute_capabilities:
        if name not in known:
            raise unknown("compute capability", name, known)


def _check_cache(typed: TypedGraph, options: CompileOptions) -> None:
    """Refuse an int8 graph without its calibration cache, and a cache the graph does not use."""
    path = options.calibration_cache
    is_read = _backend.is_int8_by_cache(typed)
    if is_read and path is None:
        raise InputError(
            f"{typed.path} is int8 by its calibration cache, and none was given",
            hint="--calibration-cache: quantize wrote it beside the graph",
        )
    if path is not None and not is_read:
        raise InputError(
            f"{typed.path} does not read {path}: its scales are in the graph, or it is not int8",
            hint="leave --calibration-cache out, or quantize --typing implicit",
        )
    if path is None or not artifact.sidecar_path(path).exists():
        return  # missing, or written by another tool: the build reads it or fails with the reason
    graph = artifact.load(CalibrationCache, path).provenance.parents.get("typed graph")
    if graph != typed.sha256:
        raise InputError(
            f"{path} belongs to typed graph {str(graph)[:12]}, not to {typed.path} "
            f"({typed.sha256[:12]})",
            hint="give the cache that quantize wrote beside this graph",
        )


def _check_int8(
    spec: LibrarySpec, typed: TypedGraph, options: CompileOptions, layers: dict[str, Any]
) -> None:
    """Refuse a plan of an int8 graph without int8 convolutions, as TensorRT-RTX makes for Turing.

    Plans with parts on a DLA core are accepted, since the layers in those parts are not listed.
    """
    if not layers["convolutions"] or layers["dla_islands"]:
        return
    generations = ", ".join(options.compute_capabilities) or "the library's default"
    _backend.check_int8(
        typed,
        layers["convolutions"].get("Int8", 0),
        library=f"{spec.title} for compute capability {generations}",
        hint="ask for compute capability 8.0 or later, or use --precision fp16",
    )


def require_driver(spec: LibrarySpec, reason: str) -> None:
    """Refuse a machine without an NVIDIA driver, which is needed for ``reason``."""
    if not _cuda.driver_version():
        raise BackendMissing(
            f"no NVIDIA driver answers on this machine: {reason}",
            hint=f"use a machine with an NVIDIA GPU, its driver and {spec.title}",
        )
