"""Refusal of impossible builds before any work, with the reason and its source.

Each row of ``RULES`` is one fact. Where a request names no version of TensorRT, the versions that
the device's JetPacks ship are tried, and one that works is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from edge_inception.errors import InputError
from edge_inception.hardware.jetpack import OPSET_SOURCE, JetPack, Version, max_opset, parse_version
from edge_inception.hardware.target import Target
from edge_inception.spec import Precision

Typing = Literal["strong", "weak", "implicit", "cpu"]
_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Least memory that an engine needs, in bytes; ``activations`` are for the whole batch."""

    weights: int
    activations: int
    workspace: int = 0

    @property
    def total(self) -> int:
        """Sum of the three parts, in bytes."""
        return self.weights + self.activations + self.workspace

    @property
    def description(self) -> str:
        """The sum and its parts in MiB, for a message."""
        parts = (self.total, self.weights, self.activations, self.workspace)
        text = "{:,.0f} MiB (weights {:,.0f}, activations {:,.0f}, workspace {:,.0f})"
        return text.format(*(part / _MIB for part in parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a build; a field that is None is not decided yet and refuses nothing.

    ``typing`` is how the graph states its precision: ``strong`` (the graph alone), ``weak``
    (builder flags too), ``implicit`` (a calibration cache) or ``cpu`` (uint8 with zero points).
    ``batch`` is the largest batch, ``is_dynamic`` whether smaller ones are accepted too. ``opset``
    and ``element`` (type of the input) describe the graph. ``tensorrt`` and ``jetpack`` are
    versions such as ``10.3``, ``6.2``.
    """

    precision: Precision
    typing: Typing | None = None
    tensorrt: str | None = None
    jetpack: str | None = None
    dla: bool = False
    batch: int = 1
    is_dynamic: bool = False
    opset: int | None = None
    element: str = "float32"
    memory: MemoryNeed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request on a target with one version of TensorRT, or with none."""

    target: Target
    request: Request
    tensorrt: str | None

    @property
    def version(self) -> Version:
        """Numbers of the TensorRT version; () without a version."""
        return parse_version(self.tensorrt) if self.tensorrt else ()

    def is_between(self, oldest: Version, before: Version) -> bool:
        """Whether the version is known, not older than ``oldest`` and older than ``before``."""
        return bool(self.version) and oldest <= self.version < before

    @property
    def opset(self) -> int | None:
        """Highest ONNX opset that this TensorRT parses; None where that is not known."""
        return max_opset(self.tensorrt) if self.tensorrt else None

    @property
    def releases(self) -> tuple[JetPack, ...]:
        """JetPack releases of the target; if ``request.jetpack`` is set, those that include it."""
        release = self.request.jetpack
        rows = self.target.releases
        return tuple(row for row in rows if release is None or row.includes(release))

    @property
    def supported_releases(self) -> str:
        """Names of the releases that support the target."""
        return ", ".join(row.name for row in self.target.releases if row.is_stock)

    @property
    def shipped_tensorrt(self) -> list[str]:
        """TensorRT versions of ``releases``, oldest first; 8.0 alone if no release has another."""
        usable = [row for row in self.releases if row.opset is not None]
        return list(dict.fromkeys(row.tensorrt for row in usable or self.releases))

    @property
    def shipped_text(self) -> str:
        """The versions in ``shipped_tensorrt`` as text."""
        return ", ".join(self.shipped_tensorrt)

    @property
    def slow_source(self) -> str:
        """Source of the fact that the precision is slow on the target."""
        return self.target.slow.get(self.request.precision.value, "")

    @property
    def is_too_large(self) -> bool:
        """Whether the request needs more than the target's whole memory."""
        need, has = self.request.memory, self.target.memory_gb
        return need is not None and has is not None and need.total > has * _GIB

    @property
    def largest_batch(self) -> str:
        """A sentence on the largest batch that could fit."""
        need, has = self.request.memory, self.target.memory_gb
        assert need is not None  # the rule that uses this has found it too large
        assert has is not None
        left = has * _GIB - need.weights - need.workspace
        batch = left * self.request.batch // max(need.activations, 1)
        return f"batch {batch} is the largest that could fit" if batch > 0 else "no batch fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A fact that makes the cases impossible for which ``refuses`` returns True.

    ``reason``, ``hint`` and ``source`` are templates of the message, filled in with the ``case``.
    """

    refuses: Callable[[Case], bool]
    reason: str
    hint: str
    source: str


_DEVICES_SOURCE = 'docs/hardware.md, "Jetson modules"'
_JETPACKS_SOURCE = 'docs/hardware.md, "JetPack releases"'
_API_SOURCE = 'tags of NVIDIA/TensorRT, docs/tensorrt.md, "Versions"'
_ENUMS_SOURCE = 'tags of NVIDIA/TensorRT, docs/tensorrt.md, "Names"'
_DLA_SOURCE = 'TensorRT 11.4.1 release notes and support matrix, docs/dla.md, "Versions with DLA"'
_DLA_LIMITS_SOURCE = 'TensorRT, DLA supported layers and restrictions, docs/dla.md, "Limits"'
_NO_DLA_HINT = "build for the GPU alone"
_MAX_DLA_BATCH = 4096

_DEVICE_RULES = (
    Rule(
        refuses=lambda case: bool(case.request.tensorrt) and case.target.backend != "tensorrt",
        reason="it is compiled by {case.target.backend}, not by TensorRT {case.request.tensorrt}",
        hint="leave the TensorRT version out",
        source="targets.py",
    ),
    Rule(
        refuses=lambda case: bool(case.request.jetpack) and not case.target.is_jetson,
        reason="it is no Jetson and has no JetPack {case.request.jetpack}",
        hint="leave the JetPack version out",
        source=_JETPACKS_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.target.is_jetson and not case.releases,
        reason="JetPack {case.request.jetpack} does not support it",
        hint="known: {case.supported_releases}",
        source=_JETPACKS_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.request.precision.value in case.target.slow,
        reason="its GPU has no fast {case.request.precision.value} instructions",
        hint="build another precision; `edge-inception targets {case.target.name}` shows its peaks",
        source="{case.slow_source}",
    ),
    Rule(
        refuses=lambda case: case.request.dla and not case.target.num_dla_cores,
        reason="it has no DLA",
        hint=_NO_DLA_HINT,
        source=_DEVICES_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.request.dla and case.request.precision is Precision.FP32,
        reason="DLA computes in fp16 and int8, not in fp32",
        hint="--precision int8 or fp16",
        source=_DLA_LIMITS_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.request.dla and case.request.is_dynamic,
        reason="DLA takes no dynamic batch: min, opt and max must be equal",
        hint="export with a static batch",
        source=_DLA_LIMITS_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.request.dla and case.request.batch > _MAX_DLA_BATCH,
        reason=f"DLA takes a batch of {_MAX_DLA_BATCH} at most, request for {{case.request.batch}}",
        hint="a smaller --batch",
        source=_DLA_LIMITS_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.is_too_large,
        reason=(
            "batch {case.request.batch} needs at least {case.request.memory.description}, "
            "its memory is {case.target.memory_gb} GiB"
        ),
        hint="{case.largest_batch}; the system needs some too",
        source=_DEVICES_SOURCE,
    ),
)
_TENSORRT_RULES = (
    Rule(
        refuses=lambda case: case.is_between((0,), (8, 2)),
        reason="TensorRT {case.tensorrt} is older than 8.2, the oldest this project builds for",
        hint="update the JetPack",
        source='docs/architecture.md, "One typed graph"',
    ),
    Rule(
        refuses=lambda case: case.request.dla and case.is_between((10, 8), (11, 4, 1)),
        reason="TensorRT {case.tensorrt} has no DLA: 10.7 had, 11.4.1 has again, on AGX Orin",
        hint=_NO_DLA_HINT,
        source=_DLA_SOURCE,
    ),
    Rule(
        refuses=lambda case: (
            case.request.dla
            and case.version >= (11, 4, 1)
            and not case.target.name.startswith("agx-orin")
        ),
        reason="TensorRT {case.tensorrt} knows the DLA of AGX Orin alone",
        hint=_NO_DLA_HINT,
        source=_DLA_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.target.is_jetson and case.is_between((11,), (11, 4)),
        reason="TensorRT {case.tensorrt} runs on no JetPack; 11.4.1 is the first of 11 that does",
        hint="its JetPacks bring {case.shipped_text}",
        source='TensorRT 11.4.1 support matrix, docs/hardware.md, "JetPack releases"',
    ),
    Rule(
        refuses=lambda case: (
            case.target.is_jetson
            and case.tensorrt is not None
            and not any(row.ships(case.tensorrt) for row in case.releases)
        ),
        reason="none of its JetPacks brings TensorRT {case.tensorrt}",
        hint="they bring {case.shipped_text}",
        source=_JETPACKS_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.request.typing in {"weak", "implicit"} and case.version >= (11,),
        reason=(
            "TensorRT {case.tensorrt} has no {case.request.typing} typing: "
            "11 removed its flags and calibrators"
        ),
        hint="the strongly typed graph",
        source=_API_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.request.typing == "strong" and case.is_between((0,), (9,)),
        reason="TensorRT {case.tensorrt} has no strongly typed networks",
        hint="the weakly typed graph",
        source=_ENUMS_SOURCE,
    ),
    Rule(
        refuses=lambda case: (
            case.request.dla
            and case.request.precision is Precision.INT8
            and case.request.typing in {"strong", "weak"}
            and case.is_between((8, 2), (10, 8))
        ),
        reason="DLA of TensorRT {case.tensorrt} takes no Q/DQ nodes, but a calibration cache",
        hint="--quantization implicit",
        source=_DLA_LIMITS_SOURCE,
    ),
    Rule(
        refuses=lambda case: case.request.element == "uint8" and case.is_between((8, 2), (8, 5)),
        reason="TensorRT {case.tensorrt} takes no uint8 input, 8.5 is the first that does",
        hint="export without --fold-preprocessing, so that the input is float32",
        source=_ENUMS_SOURCE,
    ),
    Rule(
        refuses=lambda case: (case.request.opset or 0) > (case.opset or 0) > 0,
        reason=(
            "TensorRT {case.tensorrt} parses ONNX opset {case.opset} at most, "
            "the graph has {case.request.opset}"
        ),
        hint="export with a lower opset; 13 is parse_version by all",
        source=OPSET_SOURCE,
    ),
)
RULES = (*_DEVICE_RULES, *_TENSORRT_RULES)


def require(target: Target, request: Request) -> None:
    """Refuse an impossible request.

    Raises:
        InputError: The target, or every version of TensorRT, refuses the request. The message names
            every reason with its source; the hint belongs to the first reason.
    """
    cases = _cases(target, request)
    refused = [next((rule for rule in RULES if rule.refuses(case)), None) for case in cases]
    if not all(refused):
        return
    # A rule that refuses several versions is reported once, for the newest of them.
    last = {id(rule): (rule, case) for rule, case in zip(refused, cases, strict=True) if rule}
    reasons = [f"{rule.reason} ({rule.source})".format(case=case) for rule, case in last.values()]
    first, case = next(iter(last.values()))
    raise InputError(f"{target.name}: {'; '.join(reasons)}", hint=first.hint.format(case=case))


def tensorrt_versions(target: Target, request: Request) -> tuple[str, ...]:
    """Versions of TensorRT that can take the request, oldest first; empty for other backends.

    An impossible request is refused as in ``require``.
    """
    require(target, request)
    possible = (
        case for case in _cases(target, request) if not any(rule.refuses(case) for rule in RULES)
    )
    return tuple(case.tensorrt for case in possible if case.tensorrt)


def _cases(target: Target, request: Request) -> list[Case]:
    """A case for each version of TensorRT that the request may get; never empty."""
    if request.tensorrt and len(parse_version(request.tensorrt)) == 1:
        raise InputError(
            f"TensorRT '{request.tensorrt}' leaves the minor version open",
            hint="wanted one such as 10.3 or 8.5.2",
        )
    versions: Iterable[str | None] = [request.tensorrt]
    if request.tensorrt is None:
        versions = Case(target=target, request=request, tensorrt=None).shipped_tensorrt or [None]
    return [Case(target=target, request=request, tensorrt=version) for version in versions]
