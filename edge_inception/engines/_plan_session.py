"""Sessions of plans (serialized engines) on the first GPU; no session has run on hardware."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_inception import stage
from edge_inception.artifact import EngineFile
from edge_inception.engines import _backend, _cuda, _nvidia, _nvinfer, _plan, _refit
from edge_inception.engines._backend import Backend, InputSpec, Session, SessionOptions
from edge_inception.engines._nvidia import LibrarySpec
from edge_inception.errors import BackendMissing, InputError
from edge_inception.sidecar import PlanDetails

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _PlanSession(_backend.EngineSession):
    """A session of a plan on the first GPU."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Facts about the engine, and whether its last batch ran as a captured CUDA graph."""
        return {**self._info, "cuda_graph": self._runner.uses_graph}

    @property
    def gpu_ms(self) -> float:
        """GPU time of the last batch in ms, without copies."""
        return float(self._runner.gpu_ms)

    def run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return super().run(images)
        except (_nvinfer.VendorError, _cuda.CudaError) as error:
            raise InputError(f"the engine failed to run: {error}") from error


def backend_of(spec: LibrarySpec) -> Backend:
    """The backend of one of NVIDIA's libraries."""
    return Backend(
        name=spec.name,
        suffix=".engine",
        distributions=spec.distributions,
        compile=partial(_nvidia.compile_graph, spec),
        open=partial(open_engine, spec),
        availability=partial(_nvidia.availability, spec),
        tied_to=partial(_nvidia.tied_to, spec),
    )


def open_engine(spec: LibrarySpec, engine: EngineFile, options: SessionOptions) -> Session:
    """A session on the first GPU; ``options.threads`` is ignored.

    A plan built with ``strip_weights`` gets its weights from the typed graph in its folder.
    """
    plan, details = engine.path.read_bytes(), _plan_details(engine)
    _check_plan(spec, engine, plan, _installed_version(spec))
    trt = _nvidia.import_library(spec)
    _nvidia.require_driver(spec, f"{engine.path} was compiled, and is not executed here")
    refit = None
    if details.strip_weights:
        graph = _refit.graph_of(engine, details.graph)
        refit = partial(_refit.refit, trt, graph=graph)
    is_trusted = details.version_compatible  # _check_plan has compared its sha256
    if is_trusted or details.hardware_compatible:
        _check_plan(spec, engine, plan, str(trt.__version__))
    else:
        _backend.check_tied(engine, _nvidia.tied_to(spec))
    try:
        runner = _nvinfer.PlanRunner(
            trt,
            plan,
            dla_core=details.dla_core,
            is_trusted=is_trusted,
            wants_graph=options.cuda_graph,
            refit=refit,
        )
    except _cuda.CudaError as error:
        raise BackendMissing(
            f"{spec.title} engines cannot run here: {error}", hint="pip install pycuda"
        ) from error
    except _nvinfer.VendorError as error:
        raise InputError(
            f"{spec.title} cannot load {engine.path}: {error}",
            hint="compile it again on this machine: edge-inception compile, or build --force",
        ) from error
    info = {
        "backend": spec.name,
        "library": dict(_nvidia.tied_to(spec)),
        "gpu": _cuda.gpu_name(),
        "layers": details.layers,
        "int8_layers": details.int8_layers,
        "float_precision": details.float_precision,
        "batch": stage.plain(details.batch),
    }
    input_spec = InputSpec(dtype=runner.input_element, shape=details.input_shape[1:])
    return _PlanSession(engine, runner, input_spec=input_spec, info=info)


def _plan_details(engine: EngineFile) -> PlanDetails:
    """The details in a plan's sidecar, the .json file beside it; NVIDIA's engines are all plans."""
    assert isinstance(engine.details, PlanDetails), engine.details.backend
    return engine.details


def _check_plan(spec: LibrarySpec, engine: EngineFile, plan: bytes, version: str | None) -> None:
    """Compare the plan's header and sidecar with this machine, before the library loads the plan.

    ``version`` is the library's; None where only an import of the library would tell it.

    Raises:
        InputError: The plan belongs to another library, was changed since the compile, or was
            compiled for another TensorRT, GPU or DLA core.
    """
    details = _plan_details(engine)
    if _plan.read_header(plan).kind != spec.name:
        wanted = " or ".join(magic for magic, kind in _plan.MAGIC.items() if kind == spec.name)
        raise InputError(
            f"{engine.path} is no {spec.title} plan: it starts with "
            f"{plan[:4].decode('latin-1')!r}, wanted {wanted}",
            hint="compile it again: edge-inception compile, or build --force",
        )
    sidecar = {
        "precision": details.precision.value,
        "dla_core": details.dla_core,
        "version_compatible": details.version_compatible,
        "hardware_compatible": details.hardware_compatible,
        "sha256": engine.sha256,
        "tensorrt": details.tied_to.get("tensorrt"),
        "sm": details.tied_to.get("sm"),
        "device": details.tied_to.get("gpu"),
    }
    here = {
        "tensorrt": version if spec.needs_gpu_to_compile else None,
        "sm": _cuda.compute_capability() or None,
        "device": _cuda.gpu_name() or None,
    }
    reason, remedy = _plan.refusal(plan, sidecar, here)
    if reason:
        raise InputError(f"{engine.path}: {reason}", hint=remedy)


def _installed_version(spec: LibrarySpec) -> str | None:
    """Version of the library in its package metadata, read without an import; None if absent."""
    try:
        return importlib.metadata.version(spec.modules[0])
    except importlib.metadata.PackageNotFoundError:
        return None
