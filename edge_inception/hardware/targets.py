"""Named hardware as a table with sources. Standard library only, so a device can read it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from edge_inception.errors import InputError, unknown
from edge_inception.hardware import jetsons
from edge_inception.hardware.target import Fact, Target

__all__ = (
    "TARGETS",
    "Target",
    "compute_capabilities",
    "default_targets",
    "require_compilable",
    "target",
)

_RTX_MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx")

_RTX_DOCS = "TensorRT-RTX documentation, CPU-Only AOT"
_CARDS = 'docs/hardware.md, "Cards"'
_COMPARED = "hmc-tech.com and cputronic.com, " + _CARDS
_WAREDB = "waredb.com and hmc-tech.com, " + _CARDS
_SPHERON = "castromedia.org and spheron.network, " + _CARDS
_CLOCK = "Published peaks differ by a few percent with the clock they assume."


def _recalled(value: float) -> Fact:
    return Fact(value, "R", _CARDS)


def _card(name: str, title: str, *, sm: str, memory_gb: int, peaks: _Peaks) -> Target:
    return Target(
        name=name,
        title=f"{title}: compiled by the TensorRT of a machine with this GPU",
        backend="tensorrt",
        is_compiled_here=False,
        sources=(_CARDS,),
        compute_capabilities=(sm,),
        memory_gb=memory_gb,
        int8_tops=peaks.int8_tops,
        fp16_tflops=peaks.fp16_tflops,
        fp8_tflops=peaks.fp8_tflops,
        bandwidth_gb_s=peaks.bandwidth_gb_s,
        notes=(_CLOCK,),
    )


class _Peaks(NamedTuple):
    int8_tops: Fact
    fp16_tflops: Fact
    bandwidth_gb_s: Fact
    fp8_tflops: Fact | None = None


def _rtx_card(name: str, title: str, *, sm: str, memory_gb: int, peaks: _Peaks) -> Target:
    return replace(
        _card(name, title, sm=sm, memory_gb=memory_gb, peaks=peaks),
        title=f"{title} through TensorRT-RTX: compiled ahead of time without a GPU",
        backend="tensorrt_rtx",
        is_compiled_here=True,
        sources=(_RTX_DOCS, _CARDS),
    )


_DATACENTER = (
    _card(
        "t4",
        "NVIDIA T4",
        sm="7.5",
        memory_gb=16,
        peaks=_Peaks(
            Fact(130, "S", _COMPARED), Fact(65, "S", _COMPARED), Fact(320, "S", _COMPARED)
        ),
    ),
    _card(
        "a2",
        "NVIDIA A2",
        sm="8.6",
        memory_gb=16,
        peaks=_Peaks(Fact(36, "S", _COMPARED), Fact(18, "S", _COMPARED), Fact(200, "S", _COMPARED)),
    ),
    _card(
        "l4",
        "NVIDIA L4",
        sm="8.9",
        memory_gb=24,
        peaks=_Peaks(
            Fact(242, "S", _COMPARED),
            Fact(121, "S", _COMPARED),
            Fact(300, "S", _COMPARED),
            Fact(242, "S", _COMPARED),
        ),
    ),
    _card(
        "a100-40gb",
        "NVIDIA A100 40 GB",
        sm="8.0",
        memory_gb=40,
        peaks=_Peaks(Fact(624, "S", _COMPARED), Fact(312, "S", _COMPARED), _recalled(1555)),
    ),
    _card(
        "a100-80gb",
        "NVIDIA A100 80 GB",
        sm="8.0",
        memory_gb=80,
        peaks=_Peaks(Fact(624, "S", _COMPARED), Fact(312, "S", _COMPARED), _recalled(2039)),
    ),
    _card(
        "h100-sxm",
        "NVIDIA H100 SXM 80 GB",
        sm="9.0",
        memory_gb=80,
        peaks=_Peaks(_recalled(1979), _recalled(989), _recalled(3350), _recalled(1979)),
    ),
    _card(
        "h200",
        "NVIDIA H200 141 GB",
        sm="9.0",
        memory_gb=141,
        peaks=_Peaks(
            _recalled(1979),
            _recalled(989),
            Fact(4800, "V", "NVIDIA H200 datasheet"),
            _recalled(1979),
        ),
    ),
)
_GEFORCE = (
    _rtx_card(
        "rtx-3060",
        "GeForce RTX 3060 12 GB",
        sm="8.6",
        memory_gb=12,
        peaks=_Peaks(_recalled(102), _recalled(25), _recalled(360)),
    ),
    _rtx_card(
        "rtx-4090",
        "GeForce RTX 4090",
        sm="8.9",
        memory_gb=24,
        peaks=_Peaks(
            Fact(660.6, "S", _WAREDB),
            Fact(165, "S", _WAREDB),
            Fact(1008, "S", _WAREDB),
            Fact(330, "S", _WAREDB),
        ),
    ),
    _rtx_card(
        "rtx-5090",
        "GeForce RTX 5090",
        sm="12.0",
        memory_gb=32,
        peaks=_Peaks(
            Fact(838, "S", _SPHERON), _recalled(210), Fact(1792, "S", _SPHERON), _recalled(419)
        ),
    ),
)

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
        sources=(_RTX_DOCS, "ComputeCapability of 1.7.1.116"),
        compute_capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    ),
    *jetsons.modules(),
    *_DATACENTER,
    *_GEFORCE,
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
        library = f"the TensorRT ({oldest} to {newest}) of its JetPack"
        raise InputError(
            f"engines for '{hardware.name}' are compiled on the device, by "
            f"{library if oldest else 'its TensorRT'}, and not by this machine",
            hint="build with --target cpu and --target rtx here; both accept the same typed graph",
        )


def compute_capabilities(hardware: Target, asked: tuple[str, ...]) -> tuple[str, ...]:
    """What the compiler is told: ``asked`` for a family, its own for one card, else nothing.

    A device that compiles for itself needs no telling, and a CPU has none.
    """
    is_one_card = hardware.is_compiled_here and len(hardware.compute_capabilities) == 1
    if is_one_card:
        return hardware.compute_capabilities
    return asked if hardware.compute_capabilities and hardware.is_compiled_here else ()
