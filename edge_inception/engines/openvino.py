"""OpenVINO on the CPU: the default backend, which needs no GPU.

The engine file is OpenVINO's exported blob. ``_openvino`` calls the library and uses no artifact
classes, since that file travels to devices without the rest of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_inception import artifact, stage
from edge_inception.artifact import EngineFile, TypedGraph
from edge_inception.engines import _backend, _openvino
from edge_inception.engines._backend import (
    Availability,
    Backend,
    CompileOptions,
    InputSpec,
    LayerTime,
    Session,
    SessionOptions,
)
from edge_inception.errors import BackendMissing, CompileFailed, InputError, unknown
from edge_inception.hardware.cores import usable_threads
from edge_inception.sidecar import BlobDetails
from edge_inception.spec import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME = "openvino"
_REMEDY = "pip install 'edge-inception[cpu]'"


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise the exceptions of ``_openvino`` as this package's errors."""
    try:
        yield
    except _openvino.LibraryMissing as error:
        raise BackendMissing(str(error), hint=_REMEDY) from error
    except _openvino.GraphRefused as error:
        raise CompileFailed(str(error), hint=error.hint) from error
    except _openvino.BlobRefused as error:
        hint = f"{error.hint}: edge-inception compile, or build --force"
        raise InputError(str(error), hint=hint) from error
    except _openvino.Unavailable as error:
        raise InputError(str(error), hint=error.hint) from error


def _require_known(precision: str) -> str:
    if precision not in _openvino.CAPABILITIES:
        raise unknown("float precision", precision, _openvino.CAPABILITIES)
    return precision


def _compile(
    typed: TypedGraph,
    options: CompileOptions,
    path: Path,
    *,
    progress: Progress = no_progress,
) -> EngineFile:
    """Compile a typed graph for this CPU and publish the exported blob."""
    del progress  # a compile takes seconds
    _backend.check_typed(typed)
    _backend.check_explicit(typed, library="OpenVINO")
    _backend.refuse_options(_NAME, options, ("float_precision",))
    profile, precision = options.profile, _require_known(options.float_precision)
    with _translated_errors():
        model = _openvino.read_graph(str(typed.path))
        if len(model.inputs) != 1:
            raise InputError(
                f"{typed.path} has {len(model.inputs)} inputs, wanted one",
                hint="pass a typed graph written by quantize",
            )
        _backend.check_profile(typed, _openvino.static_batch(model), profile)
        compiled = _openvino.compile_graph(
            model,
            name=str(typed.path),
            precision=precision,
            threads=usable_threads(),
            batch=(profile.min, profile.max),
        )
    _backend.check_int8(
        typed,
        compiled.layers["int8_layers"],
        library="OpenVINO",
        hint="use --precision fp32 on this CPU",
    )
    details = BlobDetails.of(
        typed.details,
        **compiled.layers,
        unsigned_activations=compiled.respelled.unsigned,
        offset_activations=compiled.respelled.offset,
        split_activations=compiled.respelled.split,
        float_activations=compiled.respelled.floating,
        limited_layers=compiled.respelled.limited,
        sums_saturate=compiled.saturates,
        backend=_NAME,
        tied_to=tied_to(),
        float_precision=compiled.settings["float_precision"],
        batch=profile,
    )
    return artifact.publish(
        EngineFile,
        path,
        compiled.blob,
        provenance=stage.provenance(BACKEND.stage, parents={"typed graph": typed}, options=options),
        counts={key: compiled.layers[key] for key in ("weighted_layers", "int8_layers")},
        details=details,
    )


def _check_here(engine: EngineFile) -> None:
    """Refuse an engine for another OpenVINO, machine type or kind of int8 sums than this CPU's.

    Engines of edge-inception before ``sums_saturate`` are right on every CPU.
    """
    _backend.check_tied(engine, tied_to())
    there = engine.details.sums_saturate if isinstance(engine.details, BlobDetails) else None
    with _translated_errors():
        if there is None or there == _openvino.saturates():
            return
    verb = "saturate, here they do not" if there else "do not saturate, here they do"
    raise InputError(
        f"{engine.path} was compiled for a CPU whose int8 sums {verb}",
        hint="compile it again here: edge-inception compile, or build --force",
    )


def _open(engine: EngineFile, options: SessionOptions) -> Session:
    """A session on ``options.threads`` threads, at the float precision chosen at compile time."""
    _check_here(engine)
    with _translated_errors():
        runner = _openvino.BlobRunner(
            engine.path.read_bytes(),
            name=str(engine.path),
            precision=_require_known(engine.details.float_precision),
            threads=options.threads or usable_threads(),
        )
    input_spec = InputSpec(dtype=runner.element, shape=runner.shape)
    return _backend.EngineSession(engine, runner, input_spec=input_spec, info=runner.info)


def _layer_times(
    engine: EngineFile, options: SessionOptions, batches: Sequence[NDArray[Any]]
) -> tuple[LayerTime, ...]:
    """Layer times from OpenVINO's own counters, which make each call slower."""
    _check_here(engine)
    with _translated_errors():
        times = _openvino.layer_times(
            engine.path.read_bytes(),
            batches,
            name=str(engine.path),
            precision=_require_known(engine.details.float_precision),
            threads=options.threads or usable_threads(),
        )
    return tuple(LayerTime(**layer._asdict()) for layer in times)


def _availability() -> Availability:
    try:
        version = str(_openvino.library().__version__)
    except _openvino.LibraryMissing as error:
        return Availability(why_not=str(error), remedy=_REMEDY)
    try:
        capabilities = _openvino.capabilities()
    except RuntimeError as error:
        return Availability(
            version=version,
            why_not=f"OpenVINO has no CPU device here: {_openvino.error_text(error)}",
            remedy=_REMEDY,
        )
    names = _openvino.CAPABILITIES.items()
    return Availability(
        can_compile=True,
        can_execute=True,
        version=version,
        float_precisions=tuple(name for name, needed in names if needed in capabilities),
    )


def tied_to() -> Mapping[str, str]:
    """OpenVINO's version and the instruction family (such as x86_64) that an engine needs.

    The blob also names the exact instruction set, which OpenVINO checks.
    """
    with _translated_errors():
        return _openvino.tied_to()


BACKEND = Backend(
    name=_NAME,
    suffix=".blob",
    distributions=("openvino",),
    compile=_compile,
    open=_open,
    availability=_availability,
    tied_to=tied_to,
    layer_times=_layer_times,
)
