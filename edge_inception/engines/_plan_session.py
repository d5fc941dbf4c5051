"""Sessions of plans (serialized engines) on the first GPU; no session has run on hardware."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_inception import stage
from edge_inception.artifact import EngineFile
from edge_inception.engines import _backend, _cuda, _nvidia, _nvinfer, _plan, _refit
from edge_inception.engines._backend import Backend, Session, SessionOptions, Takes
from edge_inception.engines._nvidia import Vendor
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


def backend_of(vendor: Vendor) -> Backend:
    """The backend of one of NVIDIA's libraries."""
    return Backend(
        name=vendor.name,
        suffix=".engine",
        distributions=vendor.distributions,
        compile=partial(_nvidia.compile_graph, vendor),
        open=partial(open_engine, vendor),
        availability=partial(_nvidia.availability, vendor),
        tied_to=partial(_nvidia.tied_to, vendor),
    )


def open_engine(vendor: Vendor, engine: EngineFile, options: SessionOptions) -> Session:
    """A session on the first GPU; ``options.threads`` is ignored.

    A plan built with ``strip_weights`` gets its weights from the typed graph in its folder.

    Raises:
        BackendMissing: The library or an NVIDIA driver is absent, or both pycuda and libcudart are.
        InputError: The engine is damaged, or was compiled for another version or GPU.
    """
    plan, details = engine.path.read_bytes(), plan_details(engine)
    preflight(vendor, engine, plan, installed_version(vendor))
    trt = _nvidia.library(vendor)
    _nvidia.require_driver(vendor, f"{engine.path} was compiled, and is not executed here")
    prepare = None
    if details.strip_weights:
        graph = _refit.graph_of(engine, details.graph)
        prepare = partial(_refit.refit, trt, graph=graph)
    is_trusted = details.version_compatible  # preflight has compared its sha256
    if is_trusted or details.hardware_compatible:
        preflight(vendor, engine, plan, str(trt.__version__))
    else:
        _backend.check_tied(engine, _nvidia.tied_to(vendor))
    try:
        runner = _nvinfer.PlanRunner(
            trt,
            plan,
            dla_core=details.dla_core,
            is_trusted=is_trusted,
            wants_graph=options.cuda_graph,
            prepare=prepare,
        )
    except _cuda.CudaError as error:
        raise BackendMissing(
            f"{vendor.title} engines cannot run here: {error}", hint="pip install pycuda"
        ) from error
    except _nvinfer.VendorError as error:
        raise InputError(
            f"{vendor.title} cannot load {engine.path}: {error}",
            hint="compile it again on this machine: edge-inception compile, or build --force",
        ) from error
    info = {
        "backend": vendor.name,
        "library": dict(_nvidia.tied_to(vendor)),
        "gpu": _cuda.gpu_name(),
        "layers": details.layers,
        "int8_layers": details.int8_layers,
        "float_precision": details.float_precision,
        "batch": stage.plain(details.batch),
    }
    takes = Takes(element=runner.input_element, shape=details.input_shape[1:])
    return _PlanSession(engine, runner, takes=takes, info=info)


def plan_details(engine: EngineFile) -> PlanDetails:
    """The details in a plan's sidecar, the .json file beside it; NVIDIA's engines are all plans."""
    assert isinstance(engine.details, PlanDetails), engine.details.backend
    return engine.details


def preflight(vendor: Vendor, engine: EngineFile, plan: bytes, version: str | None) -> None:
    """Compare the plan's header and sidecar with this machine, before the library loads the plan.

    ``version`` is the library's; None where only an import of the library would tell it.

    Raises:
        InputError: The plan belongs to another library, was changed since the compile, or was
            compiled for another TensorRT, GPU or DLA core.
    """
    details = plan_details(engine)
    if _plan.read_header(plan).kind != vendor.name:
        wanted = " or ".join(magic for magic, kind in _plan.MAGIC.items() if kind == vendor.name)
        raise InputError(
            f"{engine.path} is no {vendor.title} plan: it starts with "
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
        "tensorrt": version if vendor.needs_gpu_to_compile else None,
        "sm": _cuda.compute_capability() or None,
        "device": _cuda.gpu_name() or None,
    }
    reason, remedy = _plan.refusal(plan, sidecar, here)
    if reason:
        raise InputError(f"{engine.path}: {reason}", hint=remedy)


def installed_version(vendor: Vendor) -> str | None:
    """Version of the library in its package metadata, read without an import; None if absent."""
    try:
        return importlib.metadata.version(vendor.modules[0])
    except importlib.metadata.PackageNotFoundError:
        return None
