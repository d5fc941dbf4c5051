"""onnxruntime on the CPU: the numeric reference, which computes operators as ONNX defines them.

The engine file is a copy of the typed graph (an ONNX graph in which every tensor's precision is
explicit). Graph optimisations are off, since they fuse Q/DQ nodes into kernels that round in
another way than the reference should. Q/DQ nodes thus run as separate float operators, so the
latency of this backend says nothing about the latency of an INT8 engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_inception import artifact, stage
from edge_inception.artifact import EngineFile, TypedGraph
from edge_inception.engines import _backend
from edge_inception.engines._backend import (
    Availability,
    Backend,
    CompileOptions,
    InputSpec,
    Session,
    SessionOptions,
)
from edge_inception.errors import BackendMissing, CompileFailed, InputError
from edge_inception.hardware.cores import usable_threads
from edge_inception.sidecar import EngineDetails
from edge_inception.spec import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME = "onnxruntime"
_REMEDY = "pip install onnxruntime"
_ELEMENTS = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


def _library() -> Any:
    """The onnxruntime module, or BackendMissing where it does not load."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise BackendMissing(
            f"onnxruntime cannot be imported: {str(error).splitlines()[0]}", hint=_REMEDY
        ) from error
    return onnxruntime


@contextmanager
def _translated_errors(path: Path, kind: type[CompileFailed | InputError]) -> Iterator[None]:
    """Raise onnxruntime's exceptions, which have no base class of their own, as ``kind``."""
    from onnxruntime.capi import onnxruntime_pybind11_state as vendor

    refusals = (
        vendor.Fail, vendor.InvalidArgument, vendor.InvalidGraph, vendor.InvalidProtobuf,
        vendor.NotImplemented, vendor.RuntimeException, vendor.NoSuchFile,
    )  # fmt: skip
    try:
        yield
    except refusals as error:
        reason = " ".join(str(error).split())
        raise kind(
            f"onnxruntime refused {path}: {reason}",
            hint="export without the op that the message names, or build for another target",
        ) from error


def _session(path: Path, threads: int) -> Any:
    library = _library()
    options = library.SessionOptions()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # log errors alone; onnxruntime raises them too
    return library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _compile(
    typed: TypedGraph,
    options: CompileOptions,
    path: Path,
    *,
    progress: Progress = no_progress,
) -> EngineFile:
    """Check that onnxruntime loads the typed graph, and publish a copy of it as the engine."""
    del progress  # a compile takes seconds
    _backend.check_typed(typed)
    _backend.check_explicit(typed, library="onnxruntime")
    _library()
    _backend.refuse_options(_NAME, options, ())
    with _translated_errors(typed.path, CompileFailed):
        session = _session(typed.path, 1)
    batch = session.get_inputs()[0].shape[0]
    profile = options.profile
    _backend.check_profile(typed, batch if isinstance(batch, int) else None, profile)
    return artifact.publish(
        EngineFile,
        path,
        typed.path.read_bytes(),
        provenance=stage.provenance(BACKEND.stage, parents={"typed graph": typed}, options=options),
        details=EngineDetails.of(
            typed.details,
            backend=_NAME,
            tied_to=tied_to(),
            float_precision="f32",
            batch=profile,
        ),
    )


class _Runner:
    """A session of onnxruntime's CPU provider."""

    def __init__(self, session: Any) -> None:
        self._session: Any = session
        entry = session.get_inputs()[0]
        self._input = entry.name
        self._outputs = [output.name for output in session.get_outputs()]
        self.input_spec = InputSpec(dtype=_ELEMENTS[entry.type], shape=tuple(entry.shape[1:]))

    def run(self, images: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        values = self._session.run(self._outputs, {self._input: images})
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._session = None


def _open(engine: EngineFile, options: SessionOptions) -> Session:
    """A session on ``options.threads`` threads."""
    _library()
    _backend.check_tied(engine, tied_to())
    threads = options.threads or usable_threads()
    with _translated_errors(engine.path, InputError):
        session = _session(engine.path, threads)
    info = {
        "backend": _NAME,
        "library": dict(tied_to()),
        "threads": session.get_session_options().intra_op_num_threads,
        "float_precision": "f32",
        "providers": session.get_providers(),
    }
    runner = _Runner(session)
    return _backend.EngineSession(engine, runner, input_spec=runner.input_spec, info=info)


def _availability() -> Availability:
    try:
        version = str(_library().__version__)
    except BackendMissing as error:
        return Availability(why_not=str(error), remedy=error.hint)
    return Availability(can_compile=True, can_execute=True, version=version)


def tied_to() -> Mapping[str, str]:
    """Version of the installed onnxruntime; only that version opens an engine compiled with it."""
    return {_NAME: str(_library().__version__)}


BACKEND = Backend(
    name=_NAME,
    suffix=".ort.onnx",
    distributions=("onnxruntime",),
    compile=_compile,
    open=_open,
    availability=_availability,
    tied_to=tied_to,
)
