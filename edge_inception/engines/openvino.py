"""OpenVINO on the CPU: the embedded default, which needs no GPU.

The engine file is OpenVINO's exported blob. It holds the graph, not the machine code: importing it
compiles kernels again, so float precision and threads are chosen at import and its own default
(bfloat16 where the CPU has it) would silently replace what was asked at compile time. Both are
therefore set and read back in ``compile`` and in ``open``.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edge_inception import artifact, stage
from edge_inception.artifact import EngineFile, TypedGraph
from edge_inception.engines import _backend
from edge_inception.engines._backend import (
    Availability,
    Backend,
    CompileOptions,
    Session,
    SessionOptions,
    Takes,
)
from edge_inception.engines._openvino_unsigned import unsigned_activations
from edge_inception.errors import BackendMissing, CompileFailed, InputError
from edge_inception.registry import unknown
from edge_inception.spec import ShapeProfile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAME = "openvino"
_DEVICE = "CPU"
_REMEDY = "pip install 'edge-inception[cpu]'"

# float precision -> the capability OpenVINO must report for this CPU
_CAPABILITIES: Mapping[str, str] = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
_ELEMENTS = {"f32": "float32", "u8": "uint8"}
_INT8 = frozenset(("i8", "u8"))
_WEIGHTED = frozenset(("Convolution", "FullyConnected", "MatMul"))


def _library() -> Any:
    """The openvino module.

    Raises:
        BackendMissing: It is not installed, or its native part does not load.
    """
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise BackendMissing(
            f"OpenVINO cannot be imported: {str(error).splitlines()[0]}", hint=_REMEDY
        ) from error
    return openvino


def _reason(error: RuntimeError) -> str:
    """OpenVINO's message without its C++ source positions, on one line."""
    kept = [
        line.strip(" -\t")
        for line in str(error).splitlines()
        if line.strip() and not line.startswith(("Exception from ", "Check '"))
    ]
    return "; ".join(kept) or str(error).replace("\n", "; ")


@contextmanager
def _compiling(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise CompileFailed(
            f"OpenVINO refused {path}: {_reason(error)}",
            hint="the message names the node; compile takes graphs written by quantize",
        ) from error


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"OpenVINO cannot load {path}: {_reason(error)}",
            hint="compile it again on this machine: edge-inception compile, or build --force",
        ) from error


def _check_precision(core: Any, precision: str) -> None:
    if precision not in _CAPABILITIES:
        raise unknown("float precision", precision, _CAPABILITIES)
    if _CAPABILITIES[precision] not in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise InputError(
            f"this CPU ({core.get_property(_DEVICE, 'FULL_DEVICE_NAME')}) has no {precision} "
            "arithmetic",
            hint="use float precision f32",
        )


def _properties(precision: str, threads: int) -> dict[str, Any]:
    """One stream on ``threads`` threads: the shortest time for one batch."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
    }


def _read_back(compiled: Any, precision: str, threads: int) -> dict[str, Any]:
    """Settings that OpenVINO reports.

    Raises:
        InputError: It does not use the precision or the threads that were asked for.
    """
    facts = {
        "float_precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
        "streams": compiled.get_property("NUM_STREAMS"),
        "performance_hint": str(compiled.get_property("PERFORMANCE_HINT")).rpartition(".")[2],
        "cpu_pinning": compiled.get_property("ENABLE_CPU_PINNING"),
    }
    for name, asked in (("float_precision", precision), ("threads", threads)):
        if facts[name] != asked:
            raise InputError(
                f"asked OpenVINO for {name} {asked}, it uses {facts[name]}",
                hint=f"ask for {facts[name]}",
            )
    return facts


def _executed_layers(compiled: Any) -> dict[str, Any]:
    """Layers of the runtime model that compute at inference, by type and input precision.

    Constants, and what is computed from constants alone when the engine is loaded, do not count.
    """
    layers: dict[str, Counter[str]] = {}
    kernels: Counter[str] = Counter()
    constant: set[str] = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind = str(facts["layerType"].value)
        sources = [entry.get_source_output().get_node() for entry in node.inputs()]
        from_constants = bool(sources) and all(s.get_friendly_name() in constant for s in sources)
        if kind == "Const" or from_constants:
            constant.add(node.get_friendly_name())
        elif kind not in {"Input", "Output"}:
            layers.setdefault(kind, Counter())[str(facts["runtimePrecision"].value)] += 1
            kernels[str(facts["primitiveType"].value)] += 1
    weighted = {kind: count for kind, count in layers.items() if kind in _WEIGHTED}
    return {
        "executed_layers": {kind: dict(count) for kind, count in sorted(layers.items())},
        "kernels": dict(sorted(kernels.items())),
        "weighted_layers": sum(sum(count.values()) for count in weighted.values()),
        "int8_layers": sum(count[p] for count in weighted.values() for p in _INT8),
    }


def _read_model(core: Any, typed: TypedGraph, profile: ShapeProfile) -> Any:
    model = core.read_model(str(typed.path))
    if len(model.inputs) != 1:
        raise InputError(
            f"{typed.path} has {len(model.inputs)} inputs, wanted one",
            hint="pass a typed graph written by quantize",
        )
    shape = model.input(0).partial_shape
    batch = shape[0]
    _backend.check_profile(typed, batch.get_length() if batch.is_static else None, profile)
    if batch.is_dynamic:
        wanted = (profile.min, profile.max) if profile.is_dynamic else profile.max
        model.reshape([wanted, *list(shape)[1:]])
    return model


def _compile(typed: TypedGraph, options: CompileOptions, path: Path) -> EngineFile:
    """Compile a typed graph for this CPU and publish the exported blob.

    Raises:
        BackendMissing: OpenVINO is not installed.
        CompileFailed: OpenVINO refuses the graph.
        InputError: Not a typed graph, or an option that this backend or this CPU cannot honour.
    """
    _backend.check_typed(typed)
    _refuse_foreign_options(options)
    core = _library().Core()
    _check_precision(core, options.float_precision)
    threads = _backend.usable_threads()
    with _compiling(typed.path):
        model = _read_model(core, typed, options.profile)
        respelled = unsigned_activations(model)
        properties = _properties(options.float_precision, threads)
        compiled = core.compile_model(model, _DEVICE, properties)
        settings = _read_back(compiled, options.float_precision, threads)
        layers = _executed_layers(compiled)
        blob = compiled.export_model().getvalue()
    _backend.check_int8(
        typed, layers["int8_layers"], library="OpenVINO", hint="use --precision fp32 on this CPU"
    )
    profile = options.profile
    details = {
        **typed.details,
        **layers,
        "unsigned_activations": respelled.unsigned,
        "split_activations": respelled.split,
        "float_activations": respelled.floating,
        "backend": _NAME,
        "tied_to": dict(tied_to()),
        "float_precision": settings["float_precision"],
        "batch": {"min": profile.min, "opt": profile.opt, "max": profile.max},
    }
    return artifact.publish(
        EngineFile,
        path,
        blob,
        provenance=stage.provenance(
            f"compile:{_NAME}", parents={"typed graph": typed.sha256}, options=options
        ),
        counts={key: layers[key] for key in ("weighted_layers", "int8_layers")},
        details=details,
    )


def _refuse_foreign_options(options: CompileOptions) -> None:
    foreign = {
        "compute capabilities": options.compute_capabilities,
        "workspace": options.workspace_mib,
        "extra": options.extra,
    }
    for name, value in foreign.items():
        if value:
            raise InputError(
                f"backend '{_NAME}' has no option {name}, got {value}", hint="leave it out"
            )


class _OpenVinoSession:
    """One infer request on one stream."""

    def __init__(self, compiled: Any, info: Mapping[str, Any], engine: EngineFile) -> None:
        self.info = info
        self._profile = ShapeProfile(**engine.details["batch"])
        self._num_classes = _backend.num_classes(engine)
        source = compiled.input(0)
        self._takes = Takes(
            element=_ELEMENTS[source.element_type.get_type_name()],
            shape=tuple(size.get_length() for size in list(source.partial_shape)[1:]),
        )
        self._outputs = [output.get_any_name() for output in compiled.outputs]
        self._request: Any = compiled.create_infer_request()

    def run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        return _backend.run_in_batches(
            self._infer, images, takes=self._takes, profile=self._profile
        )

    def _infer(self, images: NDArray[Any]) -> NDArray[np.float32]:
        results = self._request.infer({0: images}, share_inputs=True, share_outputs=False)
        outputs = {name: results[index] for index, name in enumerate(self._outputs)}
        return _backend.dense(outputs, self._num_classes)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._request = None


def _open(engine: EngineFile, options: SessionOptions) -> Session:
    """A session on ``options.threads`` threads, at the float precision of the compile.

    Raises:
        BackendMissing: OpenVINO is not installed.
        InputError: The engine belongs to another version or CPU, is damaged, or the threads
            cannot be had.
    """
    library = _library()
    _backend.check_tied(engine, tied_to())
    core = library.Core()
    precision = str(engine.details["float_precision"])
    _check_precision(core, precision)
    threads = options.threads or _backend.usable_threads()
    with _opening(engine.path):
        properties = _properties(precision, threads)
        compiled = core.import_model(engine.path.read_bytes(), _DEVICE, properties)
        settings = _read_back(compiled, precision, threads)
        info = {
            "backend": _NAME,
            "library": dict(tied_to()),
            "cpu": core.get_property(_DEVICE, "FULL_DEVICE_NAME").strip(),
            "capabilities": sorted(core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")),
            **settings,
            **_executed_layers(compiled),
        }
        return _OpenVinoSession(compiled, info, engine)


def _availability() -> Availability:
    try:
        library = _library()
    except BackendMissing as error:
        return Availability(
            can_compile=False, can_execute=False, version="", why_not=str(error), remedy=error.hint
        )
    try:
        has = library.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    except RuntimeError as error:
        return Availability(
            can_compile=False,
            can_execute=False,
            version=str(library.__version__),
            why_not=f"OpenVINO has no CPU device here: {_reason(error)}",
            remedy=_REMEDY,
        )
    return Availability(
        can_compile=True,
        can_execute=True,
        version=str(library.__version__),
        float_precisions=tuple(name for name, needed in _CAPABILITIES.items() if needed in has),
    )


def tied_to() -> Mapping[str, str]:
    """Version and instruction family; the blob also names the exact instruction set and checks it.

    Raises:
        BackendMissing: OpenVINO is not installed.
    """
    library = _library()
    version = str(library.__version__).partition("-")[0]
    return {_NAME: version, "machine": platform.machine()}


BACKEND = Backend(
    name=_NAME,
    suffix=".blob",
    distributions=("openvino",),
    compile=_compile,
    open=_open,
    availability=_availability,
    tied_to=tied_to,
)
