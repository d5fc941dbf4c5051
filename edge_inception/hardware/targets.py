"""The table of targets (named hardware) with sources; it needs no third-party library."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from edge_inception.errors import InputError, unknown
from edge_inception.hardware import jetsons
from edge_inception.hardware.target import Fact, Target

_RTX_MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx")

_RTX_DOCS = "TensorRT-RTX documentation, CPU-Only AOT"
_CARDS = 'docs/hardware.md, "Cards"'
_HMC_AND_CPUTRONIC = "hmc-tech.com and cputronic.com, " + _CARDS
_WAREDB = "waredb.com and hmc-tech.com, " + _CARDS
_SPHERON = "castromedia.org and spheron.network, " + _CARDS
_CLOCK = "Published peaks differ by a few percent with the clock they assume."


class _Peaks(NamedTuple):
    int8_tops: Fact
    fp16_tflops: Fact
    bandwidth_gb_s: Fact
    fp8_tflops: Fact | None = None


def _recalled(value: float) -> Fact:
    """A figure from memory, which no source has confirmed."""
    return Fact(value, "R", _CARDS)


def _secondary(source: str, *values: float) -> tuple[Fact, ...]:
    return tuple(Fact(value, "S", source) for value in values)


def _card(name: str, title: str, *, sm: str, memory_gb: int, peaks: _Peaks) -> Target:
    return Target(
        name=name,
        title=f"{title}: compiled by the TensorRT of a machine with this GPU",
        backend="tensorrt",
        is_compiled_here=False,
        sources=(_CARDS,),
        compute_capabilities=(sm,),
        memory_gb=memory_gb,
        notes=(_CLOCK,),
        **peaks._asdict(),
    )


def _rtx_card(name: str, title: str, *, sm: str, memory_gb: int, peaks: _Peaks) -> Target:
    return replace(
        _card(name, title, sm=sm, memory_gb=memory_gb, peaks=peaks),
        title=f"{title} through TensorRT-RTX: compiled ahead of time without a GPU",
        backend="tensorrt_rtx",
        is_compiled_here=True,
        sources=(_RTX_DOCS, _CARDS),
    )


_A100 = _secondary(_HMC_AND_CPUTRONIC, 624, 312)
_HOPPER = (_recalled(1979), _recalled(989))
_RTX_5090 = _Peaks(
    int8_tops=Fact(838, "S", _SPHERON),
    fp16_tflops=_recalled(210),
    bandwidth_gb_s=Fact(1792, "S", _SPHERON),
    fp8_tflops=_recalled(419),
)
_H200_BANDWIDTH = Fact(4800, "V", "NVIDIA H200 datasheet")
# Columns: name, title, SM version, GB of memory, facts in the order of _Peaks.
_DATACENTER = tuple(
    _card(name, f"NVIDIA {title}", sm=sm, memory_gb=memory_gb, peaks=_Peaks(*facts))
    for name, title, sm, memory_gb, facts in (
        ("t4", "T4", "7.5", 16, _secondary(_HMC_AND_CPUTRONIC, 130, 65, 320)),
        ("a2", "A2", "8.6", 16, _secondary(_HMC_AND_CPUTRONIC, 36, 18, 200)),
        ("l4", "L4", "8.9", 24, _secondary(_HMC_AND_CPUTRONIC, 242, 121, 300, 242)),
        ("a100-40gb", "A100 40 GB", "8.0", 40, (*_A100, _recalled(1555))),
        ("a100-80gb", "A100 80 GB", "8.0", 80, (*_A100, _recalled(2039))),
        ("h100-sxm", "H100 SXM 80 GB", "9.0", 80, (*_HOPPER, _recalled(3350), _recalled(1979))),
        ("h200", "H200 141 GB", "9.0", 141, (*_HOPPER, _H200_BANDWIDTH, _recalled(1979))),
    )
)
_GEFORCE = tuple(
    _rtx_card(name, f"GeForce {title}", sm=sm, memory_gb=memory_gb, peaks=_Peaks(*facts))
    for name, title, sm, memory_gb, facts in (
        ("rtx-3060", "RTX 3060 12 GB", "8.6", 12, tuple(map(_recalled, (102, 25, 360)))),
        ("rtx-4090", "RTX 4090", "8.9", 24, _secondary(_WAREDB, 660.6, 165, 1008, 330)),
        ("rtx-5090", "RTX 5090", "12.0", 32, _RTX_5090),
    )
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
    *jetsons.MODULES,
    *_DATACENTER,
    *_GEFORCE,
)

TARGETS: Mapping[str, Target] = {row.name: row for row in _ROWS}


def target(name: str) -> Target:
    """The target called ``name``; an unknown name is refused."""
    if name not in TARGETS:
        raise unknown("target", name, TARGETS)
    return TARGETS[name]


def default_targets() -> tuple[str, ...]:
    """Targets of a build that names none: ``cpu``, and ``rtx`` where its library is installed."""
    has_rtx = any(importlib.util.find_spec(module) for module in _RTX_MODULES)
    return ("cpu", "rtx") if has_rtx else ("cpu",)


def require_compilable(hardware: Target) -> None:
    """Refuse a target whose engines only the device itself can compile."""
    if not hardware.is_compiled_here:
        oldest, newest = hardware.tensorrt
        library = f"the TensorRT ({oldest} to {newest}) of its JetPack"
        raise InputError(
            f"engines for '{hardware.name}' are compiled on the device, by "
            f"{library if oldest else 'its TensorRT'}, and not by this machine",
            hint="here, build for --target cpu or rtx: the typed graph is the same",
        )


def compute_capabilities(hardware: Target, requested: tuple[str, ...]) -> tuple[str, ...]:
    """Compute capabilities to compile for: ``requested`` for a family of GPUs, else the card's own.

    The result is empty for a CPU, and for a device that compiles its own engines.
    """
    if not hardware.is_compiled_here or not hardware.compute_capabilities:
        return ()
    is_one_card = len(hardware.compute_capabilities) == 1
    return hardware.compute_capabilities if is_one_card else requested
