"""What an engine backend is: one frozen record of plain functions, and the session it opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from edge_inception.artifact import EngineFile, TypedGraph
from edge_inception.errors import CompileFailed, InputError
from edge_inception.spec import ShapeProfile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Session(Protocol):
    """An open engine or the PyTorch baseline; use it as a context manager."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Facts read back from the library: threads, float precision, executed layers by type."""
        ...

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, classes] of preprocessed images [N, 3, H, W]; a fresh array each call.

        Any N >= 1 is accepted: ``run_in_batches`` splits and pads to what the engine takes.

        Raises:
            InputError: The shape or the element type does not fit the engine.
        """
        ...

    def __enter__(self) -> Session: ...  # noqa: PYI034 -- typing.Self needs Python 3.11

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Choices of one compile; a backend refuses what it cannot honour.

    ``float_precision`` is the arithmetic of the float part where the library chooses it (OpenVINO):
    ``f32`` or ``bf16``. ``compute_capabilities`` are NVIDIA's, such as ``"8.9"``; empty means the
    backend's documented default. ``extra`` holds one backend's own switches.
    """

    profile: ShapeProfile = field(default_factory=ShapeProfile)
    float_precision: str = "f32"
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How an engine is run; ``threads`` 0 means all cores the process may use."""

    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What this machine can do with a backend, and the command that adds what is missing.

    ``float_precisions`` are the values of ``CompileOptions.float_precision`` it can execute.
    """

    can_compile: bool
    can_execute: bool
    version: str
    why_not: str = ""
    remedy: str = ""
    float_precisions: tuple[str, ...] = ("f32",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One engine library.

    ``compile(typed, options, path)`` publishes an EngineFile; ``open(engine, options)`` returns a
    Session; ``availability()`` never raises; ``tied_to()`` names what an engine depends on, such as
    ``{"openvino": "2026.4.1"}``; it goes into the sidecar and ``open`` refuses a mismatch.
    """

    name: str
    suffix: str
    distributions: tuple[str, ...]
    compile: Callable[[TypedGraph, CompileOptions, Path], EngineFile]
    open: Callable[[EngineFile, SessionOptions], Session]
    availability: Callable[[], Availability]
    tied_to: Callable[[], Mapping[str, str]]


def usable_threads() -> int:
    """Cores that this process may use: what ``SessionOptions.threads`` 0 stands for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_typed(typed: TypedGraph) -> None:
    """Refuse what is not a typed graph, also where no type checker looked.

    Raises:
        InputError: Another kind of artifact.
    """
    if typed.kind != TypedGraph.kind:
        raise InputError(
            f"{typed.path} is a {typed.kind}, compile takes a {TypedGraph.kind}",
            hint="run quantize first; --precision fp32 types a graph without changing it",
        )


def check_profile(typed: TypedGraph, num_images: int | None, profile: ShapeProfile) -> None:
    """Refuse batch sizes that the graph cannot have; ``num_images`` None is a dynamic batch.

    Raises:
        InputError: The profile is not 1 <= min <= opt <= max, or the graph's batch is another one.
    """
    asked = f"{profile.min}:{profile.opt}:{profile.max}"
    if not 1 <= profile.min <= profile.opt <= profile.max:
        raise InputError(
            f"batch profile {asked} is not 1 <= min <= opt <= max", hint="write it as MIN:OPT:MAX"
        )
    if num_images is not None and (profile.min, profile.max) != (num_images, num_images):
        raise InputError(
            f"{typed.path} has the static batch {num_images}, the profile asks for {asked}",
            hint="export again with that --batch, or with --dynamic-batch MIN:OPT:MAX",
        )


def check_int8(typed: TypedGraph, num_int8: int, *, library: str, hint: str) -> None:
    """Refuse an engine of an int8 graph in which no convolution computes in int8.

    Raises:
        CompileFailed: It is one; the library fell back to float.
    """
    if typed.details.get("precision") == "int8" and not num_int8:
        raise CompileFailed(
            f"{typed.path} is int8, but {library} computes no convolution of it in int8", hint=hint
        )


def check_tied(engine: EngineFile, here: Mapping[str, str]) -> None:
    """Refuse an engine that was compiled for something else than ``here`` (``tied_to()``).

    Raises:
        InputError: The sidecar names no ties, or one of them differs.
    """
    there: Mapping[str, str] = engine.details.get("tied_to", {})
    for what in sorted(there.keys() | here.keys()):
        made_for, have = there.get(what, "not recorded"), here.get(what, "absent")
        if made_for != have:
            raise InputError(
                f"{engine.path} was compiled for {what} {made_for}, here is {have}",
                hint="compile it again here: edge-inception compile, or build --force",
            )


def run_in_batches(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    images: NDArray[np.float32],
    *,
    input_shape: tuple[int, int, int],
    profile: ShapeProfile,
) -> NDArray[np.float32]:
    """Logits of any number of images through an engine that takes profile.min..max at a time.

    More than ``profile.max`` images go through in several runs; fewer than ``profile.min`` are
    padded by repeating the last image, and the padding's logits are dropped. Images are
    independent in an inference graph, so neither changes a logit beyond kernel rounding.

    Args:
        run: Runs one batch of an accepted size; returns a fresh array.
        images: float32 [N, 3, H, W], N >= 1.
        input_shape: (3, H, W) of the engine.
        profile: Batch sizes of the engine.

    Raises:
        InputError: The shape or the element type does not fit.
    """
    import numpy as np

    shape = tuple(images.shape)
    if images.dtype != np.float32 or len(shape) != 4 or shape[1:] != input_shape or not shape[0]:  # noqa: PLR2004 -- NCHW
        raise InputError(
            f"the engine takes float32 [N, {', '.join(map(str, input_shape))}], got "
            f"{images.dtype} {list(shape)}",
            hint="preprocess with edge_inception.images and the engine's own preprocessing",
        )
    if profile.min <= shape[0] <= profile.max:
        return run(np.ascontiguousarray(images))
    parts = []
    for start in range(0, shape[0], profile.max):
        batch = images[start : start + profile.max]
        missing = max(profile.min - len(batch), 0)
        padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        parts.append(run(padded)[: len(batch)])
    return np.concatenate(parts)
