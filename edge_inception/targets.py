"""Named hardware as a table with sources. Standard library only, so a device can read it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from edge_inception.errors import InputError
from edge_inception.registry import unknown

_RTX_MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Hardware that an engine is for.

    ``compute_capability`` is NVIDIA's SM version; ``memory_gb`` is shared by CPU and GPU on Jetson;
    ``opset`` is the highest ONNX opset of the TensorRT parser there. ``is_compiled_here``: its
    engines can be compiled on another machine than itself.
    """

    name: str
    title: str
    backend: str
    is_compiled_here: bool
    source: str
    compute_capability: str = ""
    jetpack: str = ""
    tensorrt: str = ""
    opset: int | None = None
    memory_gb: int | None = None
    num_dla_cores: int = 0


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            title="this machine's CPU through OpenVINO: compiled, executed and validated here",
            backend="openvino",
            is_compiled_here=True,
            source="OpenVINO 2026.4 documentation, CPU device",
        ),
        Target(
            name="rtx",
            title="NVIDIA RTX GPUs through TensorRT-RTX: compiled ahead of time without a GPU",
            backend="tensorrt_rtx",
            is_compiled_here=True,
            source="TensorRT-RTX 1.7 documentation, ahead-of-time compilation",
        ),
        Target(
            name="orin-nano-8gb",
            title="Jetson Orin Nano 8 GB: compiled on the device by the TensorRT of its JetPack",
            backend="tensorrt",
            is_compiled_here=False,
            source="NVIDIA datasheet DS-11105-001; JetPack manifests",
            compute_capability="8.7",
            jetpack="6.2.1",
            tensorrt="10.3.0",
            opset=20,
            memory_gb=8,
        ),
        Target(
            name="agx-orin-64gb",
            title="Jetson AGX Orin 64 GB: compiled on the device by the TensorRT of its JetPack",
            backend="tensorrt",
            is_compiled_here=False,
            source="NVIDIA datasheet DS-10662-001 v1.6; JetPack manifests",
            compute_capability="8.7",
            jetpack="6.2.1",
            tensorrt="10.3.0",
            opset=20,
            memory_gb=64,
            num_dla_cores=2,
        ),
    )
}


def target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        InputError: No such target.
    """
    if name not in TARGETS:
        raise unknown("target", name, TARGETS)
    return TARGETS[name]


def default_targets() -> tuple[str, ...]:
    """Targets of a build that names none: ``cpu``, and ``rtx`` where its library is installed."""
    has_rtx = any(importlib.util.find_spec(module) for module in _RTX_MODULES)
    return ("cpu", "rtx") if has_rtx else ("cpu",)


def require_compilable(hardware: Target) -> None:
    """Refuse a target whose engines only the device itself can compile.

    Raises:
        InputError: It is one.
    """
    if not hardware.is_compiled_here:
        raise InputError(
            f"engines for '{hardware.name}' are compiled on the device, by TensorRT "
            f"{hardware.tensorrt} of JetPack {hardware.jetpack}",
            hint="build with --target cpu and --target rtx here; both accept the same typed graph",
        )


def compute_capabilities(hardware: Target, asked: tuple[str, ...]) -> tuple[str, ...]:
    """``asked`` where the backend has compute capabilities to choose from, else none."""
    return asked if hardware.backend == "tensorrt_rtx" else ()
