"""Builds with NVIDIA's inference libraries: TensorRT 8.2 to 11 and TensorRT-RTX.

Functions take the library's module as the argument ``trt``, so one implementation serves all
versions. Members of the library are looked up (``hasattr``), never derived from its version number.
A build is either strongly typed, where the graph alone decides the precision, or weakly typed, for
TensorRT 8 to 10, where builder flags allow FP16 and INT8. A weakly typed INT8 build takes its
scales from Q/DQ nodes or, for a graph without Q/DQ nodes, from a calibration cache (``implicit``
typing, which a DLA core, a deep learning accelerator, needs in TensorRT 8 to 10.7).

This file travels to devices: Python 3.6 syntax, standard library and numpy. Strongly typed builds
have run with TensorRT-RTX, without a GPU. No build has run with TensorRT itself: tests run both
kinds of build on stand-ins that have only the recorded members of each version.
"""

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

if TYPE_CHECKING:
    from edge_inception.engines._library import Builder, CapturingLogger, Config, Library, Network

from edge_inception.engines import _inspection, _plan

Layer = _inspection.Layer
VendorError = _inspection.VendorError
PlanRunner = _plan.PlanRunner

# trtexec's names of memory pools -> the library's names
POOLS = {
    "workspace": "WORKSPACE",
    "dlaSRAM": "DLA_MANAGED_SRAM",
    "dlaLocalDRAM": "DLA_LOCAL_DRAM",
    "dlaGlobalDRAM": "DLA_GLOBAL_DRAM",
    "tacticSharedMem": "TACTIC_SHARED_MEMORY",
}
# trtexec's names of hardware compatibility levels -> the library's names
HARDWARE_LEVELS = {"ampere+": "AMPERE_PLUS", "sameComputeCapability": "SAME_COMPUTE_CAPABILITY"}
# Member of the library -> versions that have it. Source: docs/tensorrt.md, "Names"
_MEMBER_VERSIONS = {
    "STRONGLY_TYPED": "TensorRT 9.0 and later",
    "FP16": "TensorRT 8 to 10",
    "INT8": "TensorRT 8 to 10",
    "IInt8EntropyCalibrator2": "TensorRT 8 to 10",
    "MemoryPoolType": "TensorRT 8.4 and later",
    "TACTIC_SHARED_MEMORY": "TensorRT 10.0 and later",
    "builder_optimization_level": "TensorRT 8.6 and later",
    "hardware_compatibility_level": "TensorRT 8.6 and later",
    "SAME_COMPUTE_CAPABILITY": "TensorRT 10.9 and later",
    "VERSION_COMPATIBLE": "TensorRT 8.6 and later",
    "STRIP_PLAN": "TensorRT 10.0 and later",
}


class BuildSettings(NamedTuple):
    """Settings of a build; the batch sizes have an effect only if the graph's batch is dynamic.

    ``typing`` is ``strong``, ``weak`` or ``implicit``; ``precision`` and ``float_rest`` (the
    precision of an int8 graph's float layers) have an effect unless ``typing`` is ``strong``.
    ``memory_pools`` are (name in POOLS, MiB); ``workspace_mib`` is the size of the pool
    ``workspace`` unless ``memory_pools`` holds it. ``hardware_compatible`` is a name in
    HARDWARE_LEVELS or empty. ``progress`` is called with (steps done, steps in all) and may raise
    an exception to stop the build.
    """

    min_batch: int
    opt_batch: int
    max_batch: int
    workspace_mib: Optional[int] = None
    compute_capabilities: Tuple[str, ...] = ()
    typing: str = "strong"
    precision: str = "fp32"
    float_rest: str = "fp32"
    calibration_cache: Optional[str] = None
    dla_core: Optional[int] = None
    allow_gpu_fallback: bool = False
    builder_optimization_level: Optional[int] = None
    timing_cache: Optional[str] = None
    version_compatible: bool = False
    hardware_compatible: str = ""
    strip_weights: bool = False
    refit: bool = False
    sparsity: bool = False
    memory_pools: Tuple[Tuple[str, float], ...] = ()
    progress: Optional[Callable[[int, int], None]] = None


class BuildResult(NamedTuple):
    """A serialized engine (plan) and the library's facts about it.

    ``layers`` come from EngineInspector where the plan can be deserialized here, else from the log;
    ``source`` is ``inspector``, ``log`` or, where no layers are listed, empty.
    """

    plan: bytes
    layers: List[Layer]
    weights_memory_bytes: Optional[int]
    warnings: List[str]
    source: str = ""


def build(trt: "Library", onnx_path: str, settings: BuildSettings) -> BuildResult:
    """Compile the ONNX graph at ``onnx_path``.

    Raises:
        VendorError: The parser or the builder refuses the graph, or the library lacks a setting.
        OSError: The calibration cache or the timing cache cannot be read or written.
    """
    logger = _inspection.capturing_logger(trt)
    plan = _build_plan(trt, onnx_path, settings, logger)
    return _describe_plan(trt, plan, logger, settings)


def _build_plan(
    trt: "Library", onnx_path: str, settings: BuildSettings, logger: "CapturingLogger"
) -> bytes:
    """The plan; on return the builder and the network, which holds all weights, are freed."""
    builder = _plan.create_with_logger(trt.Builder, logger)
    network = builder.create_network(_network_flags(trt, settings))
    _parse(trt, network, logger, onnx_path)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    calibrator = _configure(trt, builder, config, settings)
    _add_profile(builder, network, config, settings)
    timings = _use_timing_cache(config, settings.timing_cache, logger)
    with timings, _report_progress(trt, config, settings.progress):
        plan = builder.build_serialized_network(network, config)
    del calibrator  # the build needed it until here
    if plan is None:
        error = VendorError(_inspection.logged_errors(logger))
        if settings.compute_capabilities:
            _reset_after_failed_build(trt)
        raise error
    return bytes(plan)


def _describe_plan(
    trt: "Library", plan: bytes, logger: "CapturingLogger", settings: BuildSettings
) -> BuildResult:
    texts, warnings = [text for _, text in logger.messages], _inspection.logged_warnings(logger)
    layers, source = _inspection.logged_layers(texts), "log"
    try:
        inspected = _inspect_plan(trt, plan, settings)
        layers, source = (inspected, "inspector") if inspected else (layers, source)
    except (VendorError, ValueError) as error:  # no GPU for TensorRT-RTX, or broken JSON
        if not layers:
            warnings.append("the plan's layers cannot be listed: {}".format(error))
    return BuildResult(
        plan=plan,
        layers=layers,
        weights_memory_bytes=_inspection.weights_memory(texts),
        warnings=warnings,
        source=source if layers else "",
    )


def _inspect_plan(trt: "Library", plan: bytes, settings: BuildSettings) -> List[Layer]:
    """Layers of a plan, listed by EngineInspector.

    Raises:
        VendorError: The plan cannot be deserialized here.
    """
    runtime, engine = _plan.deserialize(
        trt, plan, dla_core=settings.dla_core, is_trusted=settings.version_compatible
    )
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    del inspector, engine, runtime
    return _inspection.inspected_layers(text)


def _reset_after_failed_build(trt: "Library") -> None:
    """Build a network of one identity layer and drop it.

    After a failed build for Turing, TensorRT-RTX 1.7.1 compiles the next network in the process for
    Turing too, whatever its settings, and later networks correctly again (measured).
    """
    builder = trt.Builder(_inspection.capturing_logger(trt))
    network = builder.create_network(_network_flags(trt, BuildSettings(1, 1, 1)))
    tensor = network.add_input("input", trt.float32, (1,))  # type: ignore[arg-type]  # Dims
    network.mark_output(network.add_identity(tensor).get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _require_member(trt: "Library", owner: Any, name: str) -> Any:
    """The attribute ``name`` of ``owner``, or VendorError with the versions that have it."""
    if not hasattr(owner, name):
        versions = _MEMBER_VERSIONS.get(name, "another release")
        raise VendorError(
            "{} {} has no {}; {} has it".format(trt.__name__, trt.__version__, name, versions)
        )
    return getattr(owner, name)


def _network_flags(trt: "Library", settings: BuildSettings) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    # TensorRT 8 and 9 need this flag to treat the batch as an ordinary dimension; 10 ignores it.
    bits = 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0
    if settings.typing == "strong":
        bits |= 1 << int(_require_member(trt, flags, "STRONGLY_TYPED"))
    return bits


def _parse(trt: "Library", network: "Network", logger: "CapturingLogger", onnx_path: str) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(onnx_path):
        raise VendorError(_inspection.parser_errors(parser, logger))


def _configure(
    trt: "Library", builder: "Builder", config: "Config", settings: BuildSettings
) -> Any:
    """Apply the settings, and return the calibrator, which must live until the build ends."""
    calibrator = None
    if settings.typing != "strong":
        calibrator = _set_precision_flags(trt, builder, config, settings)
    _set_compute_capabilities(trt, config, settings.compute_capabilities)
    _set_memory_limits(trt, config, settings)
    if settings.dla_core is not None:
        _use_dla(trt, builder, config, settings)
    flags = (
        ("VERSION_COMPATIBLE", settings.version_compatible),
        ("STRIP_PLAN", settings.strip_weights),
        ("REFIT", settings.refit),
        ("SPARSE_WEIGHTS", settings.sparsity),
    )
    for name, is_asked in flags:
        if is_asked:
            config.set_flag(_require_member(trt, trt.BuilderFlag, name))
    if settings.builder_optimization_level is not None:
        _require_member(trt, config, "builder_optimization_level")
        config.builder_optimization_level = settings.builder_optimization_level
    if settings.hardware_compatible:
        _require_member(trt, config, "hardware_compatibility_level")
        levels, name = trt.HardwareCompatibilityLevel, HARDWARE_LEVELS[settings.hardware_compatible]
        config.hardware_compatibility_level = _require_member(trt, levels, name)
    return calibrator


def _set_precision_flags(
    trt: "Library", builder: "Builder", config: "Config", settings: BuildSettings
) -> Any:
    """Set a weakly typed build's flags; return a calibrator if scales come from a cache."""
    flags = {"fp16": ["FP16"], "int8": ["INT8"]}.get(settings.precision, [])
    if settings.precision == "int8" and settings.float_rest == "fp16":
        flags = ["INT8", "FP16"]
    for name in flags:
        if not getattr(builder, "platform_has_fast_" + name.lower(), True):
            raise VendorError(
                "this GPU has no fast {}, so the library would compute in float32; "
                "choose another --precision or --float-rest".format(name)
            )
        config.set_flag(_require_member(trt, trt.BuilderFlag, name))
    if settings.typing != "implicit" or settings.precision != "int8":
        return None
    _require_member(trt, trt, "IInt8EntropyCalibrator2")
    if settings.calibration_cache is None:
        raise VendorError("implicit INT8 needs a calibration cache, and none was given")
    with open(settings.calibration_cache, "rb") as stream:
        calibrator = _inspection.cached_calibrator(trt, stream.read())
    config.int8_calibrator = calibrator
    return calibrator


def _set_memory_limits(trt: "Library", config: "Config", settings: BuildSettings) -> None:
    pools = dict(settings.memory_pools)
    if settings.workspace_mib is not None:
        pools.setdefault("workspace", settings.workspace_mib)
    for name, mib in sorted(pools.items()):
        size = int(mib * (1 << 20))
        if hasattr(config, "set_memory_pool_limit"):
            pool = _require_member(trt, trt.MemoryPoolType, POOLS[name])
            config.set_memory_pool_limit(pool, size)
        elif name == "workspace":
            config.max_workspace_size = size  # type: ignore[attr-defined]  # TensorRT 8.2
        else:
            _require_member(trt, trt, "MemoryPoolType")


def _use_dla(trt: "Library", builder: "Builder", config: "Config", settings: BuildSettings) -> None:
    core, cores = settings.dla_core or 0, getattr(builder, "num_DLA_cores", 0)
    if core >= cores:
        raise VendorError(
            "{} {} sees {} DLA cores here, asked for core {}; DLA needs a Xavier or an Orin other "
            "than Nano, and TensorRT 8 to 10.7, or 11.4.1 on AGX Orin".format(
                trt.__name__, trt.__version__, cores, core
            )
        )
    if settings.min_batch != settings.max_batch:
        raise VendorError("a DLA core takes one batch size, so min = opt = max")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if settings.allow_gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def compute_capabilities(trt: "Library") -> List[str]:
    """Compute capabilities, such as ``["7.5"]``, for which ``trt`` compiles without a GPU."""
    if not hasattr(trt, "ComputeCapability"):
        return []
    matches = [re.match(r"SM(\d+)(\d)$", name) for name in trt.ComputeCapability.__members__]
    return ["{}.{}".format(match.group(1), match.group(2)) for match in matches if match]


def _set_compute_capabilities(trt: Any, config: Any, wanted: Tuple[str, ...]) -> None:
    # Any: only TensorRT-RTX has these members, and the type stubs are those of TensorRT.
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


def _add_profile(
    builder: "Builder", network: "Network", config: "Config", settings: BuildSettings
) -> None:
    tensor = network.get_input(0)
    shape: Tuple[int, ...] = tuple(tensor.shape)  # type: ignore[arg-type]  # by index
    if shape[0] != -1:
        return
    batches = (settings.min_batch, settings.opt_batch, settings.max_batch)
    profile = builder.create_optimization_profile()
    low, usual, high = [(batch, *shape[1:]) for batch in batches]  # type: Any, Any, Any
    profile.set_shape(tensor.name, low, usual, high)  # pybind11 makes Dims of tuples
    if config.add_optimization_profile(profile) == -1:
        raise VendorError("the library refuses the batch profile {}:{}:{}".format(*batches))


@contextlib.contextmanager
def _report_progress(trt: "Library", config: "Config", progress: Any) -> Iterator[None]:
    """Report the build's progress (TensorRT 10.0 and later); an exception of it stops the build."""
    if progress is None or not hasattr(trt, "IProgressMonitor"):
        yield
        return
    monitor = _inspection.progress_monitor(trt, progress)
    config.progress_monitor = monitor
    yield
    if monitor.stopped_by:
        raise monitor.stopped_by[0]


@contextlib.contextmanager
def _use_timing_cache(
    config: "Config", path: Optional[str], logger: "CapturingLogger"
) -> Iterator[None]:
    """Use kernel timings from ``path``, and add this build's; several builds may share the file.

    Raises:
        VendorError: The file is damaged, or holds timings of another GPU or TensorRT version.
    """
    if path is None:
        yield
        return
    cache: Any = config.create_timing_cache(_read_if_present(path))  # None if damaged
    foreign = "timing cache {} is of another GPU or TensorRT, or damaged: ".format(path)
    if cache is None or not config.set_timing_cache(cache, False):  # noqa: FBT003 -- its signature
        raise VendorError(foreign + "delete it, or name another file")
    yield
    with _lock_file(path):
        # Another build may have added its timings to the file since this build read it.
        other = _read_if_present(path)
        added: Any = config.create_timing_cache(other)
        if other and (added is None or not cache.combine(added, False)):  # noqa: FBT003
            logger.messages.append(("WARNING", foreign + "what this build timed is not kept"))
            return
        temporary = "{}.{}.partial".format(path, os.getpid())
        with open(temporary, "wb") as stream:
            stream.write(bytes(cache.serialize()))
        os.replace(temporary, path)


def _read_if_present(path: str) -> bytes:
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as stream:
        return stream.read()


@contextlib.contextmanager
def _lock_file(path: str) -> Iterator[None]:
    """Lock ``path`` against other builds; the lock also ends if the process does."""
    import fcntl

    with open(path + ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
