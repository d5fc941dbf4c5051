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
    """Hardware that an engine is for, and the library that compiles for it.

    Pairs are (oldest, newest); both are empty where a field does not concern the target.

    Attributes:
        name: What users type.
        title: One line for people.
        backend: File name in ``engines/``.
        is_compiled_here: Its engines can be compiled on another machine than itself.
        sources: Where the facts of this row come from.
        compute_capabilities: NVIDIA's SM versions: one for a module, several for a family.
        jetpack: Releases that support the module.
        tensorrt: Versions that those releases ship.
        opset: Highest ONNX opset that the oldest of these TensorRT versions parses.
        memory_gb: Shared by CPU and GPU on a Jetson.
        num_dla_cores: Deep learning accelerators of the module.
    """

    name: str
    title: str
    backend: str
    is_compiled_here: bool
    sources: tuple[str, ...]
    compute_capabilities: tuple[str, ...] = ()
    jetpack: tuple[str, str] = ("", "")
    tensorrt: tuple[str, str] = ("", "")
    opset: int | None = None
    memory_gb: int | None = None
    num_dla_cores: int = 0


_JETPACKS = "NVIDIA's JetPack package manifests, facts/jetson.md 1.2"
_PARSERS = "onnx/onnx-tensorrt docs/operators.md per branch, facts/jetson.md 1.3"

_ROWS = (
    Target(
        name="cpu",
        title="this machine's CPU through OpenVINO: compiled, executed and validated here",
        backend="openvino",
        is_compiled_here=True,
        sources=("docs.openvino.ai, CPU device",),
    ),
    Target(
        name="rtx",
        title="NVIDIA RTX GPUs through TensorRT-RTX: compiled ahead of time without a GPU",
        backend="tensorrt_rtx",
        is_compiled_here=True,
        sources=("TensorRT-RTX documentation, CPU-Only AOT", "ComputeCapability of 1.7.1.116"),
        compute_capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    ),
    Target(
        name="orin-nano-8gb",
        title="Jetson Orin Nano 8 GB: compiled on the device by the TensorRT of its JetPack",
        backend="tensorrt",
        is_compiled_here=False,
        sources=("NVIDIA datasheet DS-11105-001", _JETPACKS, _PARSERS),
        compute_capabilities=("8.7",),
        jetpack=("5.1.1", "7.2"),
        tensorrt=("8.5.2", "10.16.2"),
        opset=17,
        memory_gb=8,
    ),
    Target(
        name="orin-nx-16gb",
        title="Jetson Orin NX 16 GB: compiled on the device by the TensorRT of its JetPack",
        backend="tensorrt",
        is_compiled_here=False,
        sources=("NVIDIA datasheet DS-10712-001 v1.0", _JETPACKS, _PARSERS),
        compute_capabilities=("8.7",),
        jetpack=("5.1.1", "7.2"),
        tensorrt=("8.5.2", "10.16.2"),
        opset=17,
        memory_gb=16,
        num_dla_cores=2,
    ),
    Target(
        name="agx-orin-64gb",
        title="Jetson AGX Orin 64 GB: compiled on the device by the TensorRT of its JetPack",
        backend="tensorrt",
        is_compiled_here=False,
        sources=("NVIDIA datasheet DS-10662-001 v1.6", _JETPACKS, _PARSERS),
        compute_capabilities=("8.7",),
        jetpack=("5.1", "7.2"),
        tensorrt=("8.5.2", "10.16.2"),
        opset=17,
        memory_gb=64,
        num_dla_cores=2,
    ),
)

TARGETS: Mapping[str, Target] = {row.name: row for row in _ROWS}


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
        oldest, newest = hardware.tensorrt
        raise InputError(
            f"engines for '{hardware.name}' are compiled on the device, by the TensorRT "
            f"({oldest} to {newest}) of its JetPack, and not by this machine",
            hint="build with --target cpu and --target rtx here; both accept the same typed graph",
        )


def compute_capabilities(hardware: Target, asked: tuple[str, ...]) -> tuple[str, ...]:
    """``asked`` where the target has compute capabilities to choose from, else none."""
    return asked if len(hardware.compute_capabilities) > 1 else ()
