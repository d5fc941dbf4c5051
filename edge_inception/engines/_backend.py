"""What all engine backends share: the records that describe them, their sessions, and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_inception.artifact import EngineFile, TypedGraph
from edge_inception.errors import CompileFailed, InputError
from edge_inception.spec import Precision, Progress, ShapeProfile, no_progress
from edge_inception.stage import Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Session(AbstractContextManager["Session"], Protocol):
    """An open engine or baseline; a ``with`` block closes it at its end."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Facts that the library reports: threads, float precision, executed layers by type."""
        ...

    def run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """The network's outputs [N, classes] for preprocessed images, in a fresh array each call.

        Images are [N, ...] of the element type and layout in the engine's sidecar (the .json file
        beside it): float32 [N, 3, H, W] unless the graph does the preprocessing. The head decides
        whether the outputs are logits, probabilities or embeddings; a top-k head gives
        probabilities, 0 outside the k classes.

        Any N >= 1 is accepted: ``run_in_batches`` splits and pads to the engine's batch sizes.

        Raises:
            InputError: The shape or the element type does not fit the engine.
        """
        ...

    def close(self) -> None:
        """Release the library's engine; the session cannot be used afterwards."""
        ...

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Options of one compile; a backend refuses an option that it does not support.

    Attributes:
        profile: Batch sizes that the engine takes.
        float_precision: Arithmetic of the layers that stay float, where the library chooses it
            (OpenVINO): ``f32`` or ``bf16``.
        compute_capabilities: GPU generations to compile for, such as ``"8.9"``; empty is the
            backend's documented default.
        workspace_mib: Largest scratch memory of an engine in MiB.
        memory_pools: Size limits in MiB by trtexec's name of a pool, such as ``dlaSRAM``.
        builder_optimization_level: 0 to 5; a higher level compiles longer and may run faster.
        timing_cache: File of kernel timings, read and written; builds on one device may share it.
        calibration_cache: File of scales for an ``implicit`` graph, which has no Q/DQ nodes.
        dla_core: Number of the deep learning accelerator (DLA) to compile for; None is the GPU.
        allow_gpu_fallback: Layers that the DLA core does not support run on the GPU.
        version_compatible: The engine also loads in later TensorRT versions, by code it carries.
        hardware_compatibility: GPUs that the engine also runs on, by trtexec's name: ``ampere+`` or
            ``sameComputeCapability``; empty is the GPU of the compile.
        strip_weights: The engine holds no weights; it gets them from the graph when it is opened.
        refit: The engine's weights can be replaced.
        sparsity: The library may use kernels for 2:4 sparse weights where weights are 2:4 sparse.
    """

    profile: ShapeProfile = field(default_factory=ShapeProfile)
    float_precision: str = "f32"
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    memory_pools: Mapping[str, float] = field(default_factory=dict)
    builder_optimization_level: int | None = None
    timing_cache: Path | None = None
    calibration_cache: Path | None = None
    dla_core: int | None = None
    allow_gpu_fallback: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = ""
    strip_weights: bool = False
    refit: bool = False
    sparsity: bool = False


TENSORRT_OPTIONS = (
    "builder_optimization_level",
    "timing_cache",
    "calibration_cache",
    "dla_core",
    "allow_gpu_fallback",
    "version_compatible",
    "hardware_compatibility",
    "strip_weights",
    "refit",
    "sparsity",
)
"""Fields of CompileOptions that TensorRT alone can honour; ``compile`` has flags of these names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Options of a session.

    ``threads`` 0 means all cores the process may use. With ``cuda_graph`` a GPU session captures
    the work of a call once as a CUDA graph and launches the graph, where the driver supports it.
    """

    threads: int = 0
    cuda_graph: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What a backend can do on this machine; ``why_not`` and ``remedy`` tell what is missing.

    ``float_precisions`` are the values of ``CompileOptions.float_precision`` that run here.
    """

    can_compile: bool = False
    can_execute: bool = False
    version: str = ""
    why_not: str = ""
    remedy: str = ""
    float_precisions: tuple[str, ...] = ("f32",)


class Compile(Protocol):
    """Compiles a typed graph (an ONNX graph whose every precision is explicit) to an engine file.

    Long builds call ``progress``.

    Raises:
        BackendMissing: The library, or a GPU that the compile needs, is absent.
        CompileFailed: The library refuses the graph (the message names the node), or computes no
            convolution of an int8 graph in int8.
        InputError: The artifact is no typed graph, or an option cannot be honoured here.
    """

    def __call__(
        self,
        typed: TypedGraph,
        options: CompileOptions,
        path: Path,
        *,
        progress: Progress = no_progress,
    ) -> EngineFile: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """Mean time of one executed layer in ms.

    ``name`` is the name of the graph node where the layer computes a single node; ``kernel`` is the
    library's name of the code that computes the layer.
    """

    name: str
    kind: str
    kernel: str
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One engine library.

    ``open(engine, options)`` returns a Session; ``availability()`` never raises; ``tied_to()``
    names the versions and the hardware that an engine depends on, such as ``{"openvino":
    "2026.4.1"}``: its sidecar records them, and ``open`` refuses a mismatch.
    ``layer_times(engine, options, batches)`` runs two or more batches and returns each layer's mean
    time over all but the first, in the order of execution; ``layer_times`` is None where the
    library measures no layers.

    Raises:
        BackendMissing: By ``open``, ``layer_times`` and ``tied_to``: the library, or a driver that
            it needs, is absent.
        InputError: By ``open`` and ``layer_times``: the engine is damaged or was compiled for
            another version or hardware, or the options ask for more than this machine has.
    """

    name: str
    suffix: str
    distributions: tuple[str, ...]
    compile: Compile
    open: Callable[[EngineFile, SessionOptions], Session]
    availability: Callable[[], Availability]
    tied_to: Callable[[], Mapping[str, str]]
    layer_times: (
        Callable[[EngineFile, SessionOptions, Sequence[NDArray[Any]]], tuple[LayerTime, ...]] | None
    ) = None

    @property
    def stage(self) -> Stage:
        """The stage that compiles with this library."""
        return compile_stage(self.name, self.distributions)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """Element type, by numpy's name, and shape of one image that an engine takes."""

    dtype: str
    shape: tuple[int, ...]


def compile_stage(name: str, distributions: tuple[str, ...]) -> Stage:
    """The compile stage of ``engines/<name>.py``; a change of its source files reruns the stage."""
    shared = sorted(f"engines/{file.name}" for file in Path(__file__).parent.glob("_*.py"))
    sources = (f"engines/{name}.py", *shared, "data/batches.py")
    return Stage(name=f"compile:{name}", tools=distributions, sources=sources)


def check_typed(typed: TypedGraph) -> None:
    """Refuse an artifact that is not a typed graph, for callers without a type checker."""
    if typed.kind != TypedGraph.kind:
        raise InputError(
            f"{typed.path} is a {typed.kind}, compile takes a {TypedGraph.kind}",
            hint="run quantize first; --precision fp32 types a graph without changing it",
        )


def is_int8_by_cache(typed: TypedGraph) -> bool:
    """Whether an int8 graph's scales are in a calibration cache, not in the graph's Q/DQ nodes."""
    return typed.details.typing == "implicit" and typed.details.precision is Precision.INT8


def check_explicit(typed: TypedGraph, *, library: str) -> None:
    """Refuse an int8 graph without Q/DQ nodes: ``library`` would run it as float32."""
    if is_int8_by_cache(typed):
        raise InputError(
            f"{typed.path} is int8 by its calibration cache, which {library} does not read",
            hint="quantize --typing strong for this target",
        )


def check_not_for_cpu(typed: TypedGraph, *, library: str) -> None:
    """Refuse a graph whose int8 activations have zero points, which ``library`` does not take."""
    if typed.details.typing == "cpu":
        raise InputError(
            f"{typed.path} has uint8 activations with zero points, which {library} does not take",
            hint="quantize --typing strong for this target",
        )


def refuse_options(backend: str, options: CompileOptions, supported: Iterable[str]) -> None:
    """Refuse options that differ from their default and are not among ``supported``.

    ``supported`` are fields of CompileOptions; every backend supports ``profile`` besides.

    Raises:
        InputError: The message names the first option that must be refused.
    """
    default, accepted = CompileOptions(), {"profile", *supported}
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name not in accepted and value != getattr(default, option.name):
            raise InputError(
                f"backend '{backend}' has no option {option.name.replace('_', ' ')}, got {value}",
                hint="leave it out",
            )


def check_profile(typed: TypedGraph, num_images: int | None, profile: ShapeProfile) -> None:
    """Refuse batch sizes that do not fit the graph.

    ``num_images`` is the graph's static batch, None where the batch is dynamic.

    Raises:
        InputError: The profile is not 1 <= min <= opt <= max, or differs from the static batch.
    """
    sizes = f"{profile.min}:{profile.opt}:{profile.max}"
    if not 1 <= profile.min <= profile.opt <= profile.max:
        raise InputError(
            f"batch profile {sizes} is not 1 <= min <= opt <= max", hint="write it as MIN:OPT:MAX"
        )
    if num_images is not None and (profile.min, profile.max) != (num_images, num_images):
        raise InputError(
            f"{typed.path} has the static batch {num_images}, the profile asks for {sizes}",
            hint="export again with that --batch, or with --dynamic-batch MIN:OPT:MAX",
        )


def check_int8(typed: TypedGraph, num_int8: int, *, library: str, hint: str) -> None:
    """Refuse, as CompileFailed, an engine of an int8 graph with no convolution in int8."""
    if typed.details.precision is Precision.INT8 and not num_int8:
        raise CompileFailed(
            f"{typed.path} is int8, but {library} computes no convolution of it in int8", hint=hint
        )


def check_tied(engine: EngineFile, here: Mapping[str, str]) -> None:
    """Refuse an engine that was compiled for other versions or hardware than ``here``.

    ``here`` is the result of the backend's ``tied_to()``.
    """
    there = engine.details.tied_to
    for name in sorted(there.keys() | here.keys()):
        compiled_for, have = there.get(name, "not recorded"), here.get(name, "absent")
        if compiled_for != have:
            raise InputError(
                f"{engine.path} was compiled for {name} {compiled_for}, here is {have}",
                hint="compile it again here: edge-inception compile, or build --force",
            )


def run_in_batches(
    run: Callable[[NDArray[Any]], NDArray[np.float32]],
    images: NDArray[Any],
    *,
    input_spec: InputSpec,
    profile: ShapeProfile,
) -> NDArray[np.float32]:
    """Outputs for any number of images, from an engine that takes profile.min..max images a call.

    ``run`` takes one batch and returns a fresh array; ``images`` are [N, ...] of ``input_spec``,
    N >= 1. Images do not affect each other in an inference graph, so other batches change a logit
    only by the rounding of other kernels.

    Raises:
        InputError: The shape or the element type does not fit.
    """
    from edge_inception.data import batches  # numpy on first use

    shape, wanted = tuple(images.shape), ", ".join(map(str, ("N", *input_spec.shape)))
    if str(images.dtype) != input_spec.dtype or shape[1:] != input_spec.shape or not shape[0]:
        raise InputError(
            f"the engine takes {input_spec.dtype} [{wanted}], got {images.dtype} {list(shape)}",
            hint="preprocess with edge_inception.data.images and the engine's own preprocessing",
        )
    rows: NDArray[np.float32] = batches.in_batches(run, images, profile.min, profile.max)
    return rows


class EngineSession(Session):
    """A session of an engine file, which calls the runner of the engine's library.

    The runner has ``run(images)``, which returns the outputs of one batch by name in fresh arrays,
    and ``close()``.
    """

    def __init__(
        self, engine: EngineFile, runner: Any, *, input_spec: InputSpec, info: Mapping[str, Any]
    ) -> None:
        self._runner, self._input_spec, self._info = runner, input_spec, info
        self._details = engine.details

    @property
    def info(self) -> Mapping[str, Any]:
        return self._info

    def run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        spec, profile = self._input_spec, self._details.batch
        return run_in_batches(self._infer, images, input_spec=spec, profile=profile)

    def _infer(self, images: NDArray[Any]) -> NDArray[np.float32]:
        from edge_inception.data import batches  # numpy on first use

        outputs = self._runner.run(images)
        rows: NDArray[np.float32] = batches.dense(outputs, self._details.num_classes)
        return rows

    def close(self) -> None:
        self._runner.close()
