"""What an engine backend is: one frozen record of plain functions, and the session it opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from edge_inception.artifact import EngineFile, TypedGraph
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

        Raises:
            InputError: The shape does not fit the engine.
        """
        ...

    def __enter__(self) -> Session: ...

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

    profile: ShapeProfile = ShapeProfile()
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
    """What this machine can do with a backend, and the command that adds what is missing."""

    can_compile: bool
    can_execute: bool
    version: str
    why_not: str = ""
    remedy: str = ""


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
