"""Refusal of impossible builds before any work, with the reason and its source.

Each row of ``RULES`` is one fact. The rules about TensorRT judge one version of it. Where a request
names no version, all versions in the device's JetPacks are tried, and one that works is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from edge_inception.errors import InputError
from edge_inception.hardware.jetpack import OPSET_SOURCE, JetPack, Version, opset_of, parsed
from edge_inception.hardware.targets import Target
from edge_inception.spec import Precision

Typing = Literal["strong", "weak", "implicit"]
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
    def words(self) -> str:
        """The sum and its parts in MiB, for a message."""
        parts = {"weights": self.weights, "activations": self.activations}
        parts["workspace"] = self.workspace
        words = [f"{name} {size / _MIB:,.0f}" for name, size in parts.items()]
        return f"{self.total / _MIB:,.0f} MiB ({', '.join(words)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A build asked for a target; a field that is None is not decided yet and refuses nothing.

    ``typing`` is how the graph states its precision: ``strong`` (the graph alone), ``weak``
    (builder flags too) or ``implicit`` (a calibration cache). ``batch`` is the largest batch,
    ``is_dynamic`` whether smaller ones are accepted too. ``opset`` and ``element`` (type of the
    input) describe the graph. ``tensorrt`` and ``jetpack`` are versions such as ``10.3``, ``6.2``.
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
    asked: Request
    tensorrt: str | None

    @property
    def version(self) -> Version:
        """Numbers of the TensorRT version; () without a version."""
        return parsed(self.tensorrt) if self.tensorrt else ()

    def is_between(self, oldest: Version, before: Version) -> bool:
        """Whether the version is known, not older than ``oldest`` and older than ``before``."""
        return bool(self.version) and oldest <= self.version < before

    @property
    def opset(self) -> int | None:
        """Highest ONNX opset that this TensorRT parses; None where that is not known."""
        return opset_of(self.tensorrt) if self.tensorrt else None

    @property
    def releases(self) -> tuple[JetPack, ...]:
        """JetPack releases of the target; if ``asked.jetpack`` is set, those that include it."""
        release = self.asked.jetpack
        rows = self.target.releases
        return tuple(row for row in rows if release is None or row.includes(release))

    @property
    def known_releases(self) -> str:
        """Names of the releases that support the target."""
        return ", ".join(row.name for row in self.target.releases if row.is_stock)

    @property
    def brought(self) -> list[str]:
        """TensorRT versions of ``releases``, oldest first; 8.0 alone if no release has another."""
        usable = [row for row in self.releases if row.opset is not None]
        return list(dict.fromkeys(row.tensorrt for row in usable or self.releases))

    @property
    def known_tensorrt(self) -> str:
        """The versions in ``brought`` as text."""
        return ", ".join(self.brought)

    @property
    def origin(self) -> str:
        """Source of the fact that the precision is slow on the target."""
        return self.target.slow.get(self.asked.precision.value, "")

    @property
    def is_too_large(self) -> bool:
        """Whether the request needs more than the whole memory of the target."""
        need, has = self.asked.memory, self.target.memory_gb
        return need is not None and has is not None and need.total > has * _GIB

    @property
    def largest_batch(self) -> str:
        """A sentence on the largest batch that could fit."""
        need, has = self.asked.memory, self.target.memory_gb
        assert need is not None  # the rule that uses this has found it too large
        assert has is not None
        left = has * _GIB - need.weights - need.workspace
        batch = left * self.asked.batch // max(need.activations, 1)
        return f"batch {batch} is the largest that could fit" if batch > 0 else "no batch fits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A fact that makes some requests impossible.

    ``refuses`` returns whether the fact makes a case impossible. ``reason``, ``hint`` and
    ``source`` are templates of the message, filled in with the fields of that ``case``.
    """

    refuses: Callable[[Case], bool]
    reason: str
    hint: str
    source: str


_DEVICES = 'docs/hardware.md, "Jetson modules"'
_JETPACKS = 'docs/hardware.md, "JetPack releases"'
_API = 'tags of NVIDIA/TensorRT, docs/tensorrt.md, "Versions"'
_ENUMS = 'tags of NVIDIA/TensorRT, docs/tensorrt.md, "Names"'
_DLA = 'TensorRT 11.4.1 release notes and support matrix, docs/dla.md, "Versions with DLA"'
_DLA_LIMITS = 'TensorRT, DLA supported layers and restrictions, docs/dla.md, "Limits"'
_NO_DLA = "build for the GPU alone"
_MAX_DLA_BATCH = 4096
_FIRST, _TYPED, _NO_MORE_DLA, _DLA_AGAIN = (8, 2), (9,), (10, 8), (11, 4, 1)
_PIXELS = (8, 5)
_ELEVEN = (11,)

_OF_THE_DEVICE = (
    Rule(
        refuses=lambda case: bool(case.asked.tensorrt) and case.target.backend != "tensorrt",
        reason="it is compiled by {case.target.backend}, not by TensorRT {case.asked.tensorrt}",
        hint="leave the TensorRT version out",
        source="targets.py",
    ),
    Rule(
        refuses=lambda case: bool(case.asked.jetpack) and not case.target.is_jetson,
        reason="it is no Jetson and has no JetPack {case.asked.jetpack}",
        hint="leave the JetPack version out",
        source=_JETPACKS,
    ),
    Rule(
        refuses=lambda case: case.target.is_jetson and not case.releases,
        reason="JetPack {case.asked.jetpack} does not support it",
        hint="known: {case.known_releases}",
        source=_JETPACKS,
    ),
    Rule(
        refuses=lambda case: case.asked.precision.value in case.target.slow,
        reason="its GPU has no fast {case.asked.precision.value} instructions",
        hint="build another precision; `edge-inception targets {case.target.name}` shows its peaks",
        source="{case.origin}",
    ),
    Rule(
        refuses=lambda case: case.asked.dla and not case.target.num_dla_cores,
        reason="it has no DLA",
        hint=_NO_DLA,
        source=_DEVICES,
    ),
    Rule(
        refuses=lambda case: case.asked.dla and case.asked.precision is Precision.FP32,
        reason="DLA computes in fp16 and int8, not in fp32",
        hint="--precision int8 or fp16",
        source=_DLA_LIMITS,
    ),
    Rule(
        refuses=lambda case: case.asked.dla and case.asked.is_dynamic,
        reason="DLA takes no dynamic batch: min, opt and max must be equal",
        hint="export with a static batch",
        source=_DLA_LIMITS,
    ),
    Rule(
        refuses=lambda case: case.asked.dla and case.asked.batch > _MAX_DLA_BATCH,
        reason=f"DLA takes a batch of {_MAX_DLA_BATCH} at most, asked for {{case.asked.batch}}",
        hint="a smaller --batch",
        source=_DLA_LIMITS,
    ),
    Rule(
        refuses=lambda case: case.is_too_large,
        reason=(
            "batch {case.asked.batch} needs at least {case.asked.memory.words}, "
            "its memory is {case.target.memory_gb} GiB"
        ),
        hint="{case.largest_batch}; the system needs some too",
        source=_DEVICES,
    ),
)
_OF_TENSORRT = (
    Rule(
        refuses=lambda case: case.is_between((0,), _FIRST),
        reason="TensorRT {case.tensorrt} is older than 8.2, the oldest this project builds for",
        hint="update the JetPack",
        source='docs/architecture.md, "One typed graph"',
    ),
    Rule(
        refuses=lambda case: case.asked.dla and case.is_between(_NO_MORE_DLA, _DLA_AGAIN),
        reason="TensorRT {case.tensorrt} has no DLA: 10.7 had, 11.4.1 has again, on AGX Orin",
        hint=_NO_DLA,
        source=_DLA,
    ),
    Rule(
        refuses=lambda case: (
            case.asked.dla
            and case.version >= _DLA_AGAIN
            and not case.target.name.startswith("agx-orin")
        ),
        reason="TensorRT {case.tensorrt} knows the DLA of AGX Orin alone",
        hint=_NO_DLA,
        source=_DLA,
    ),
    Rule(
        refuses=lambda case: case.target.is_jetson and case.is_between(_ELEVEN, (11, 4)),
        reason="TensorRT {case.tensorrt} runs on no JetPack; 11.4.1 is the first of 11 that does",
        hint="its JetPacks bring {case.known_tensorrt}",
        source='TensorRT 11.4.1 support matrix, docs/hardware.md, "JetPack releases"',
    ),
    Rule(
        refuses=lambda case: (
            case.target.is_jetson
            and case.tensorrt is not None
            and not any(row.ships(case.tensorrt) for row in case.releases)
        ),
        reason="none of its JetPacks brings TensorRT {case.tensorrt}",
        hint="they bring {case.known_tensorrt}",
        source=_JETPACKS,
    ),
    Rule(
        refuses=lambda case: case.asked.typing in {"weak", "implicit"} and case.version >= _ELEVEN,
        reason=(
            "TensorRT {case.tensorrt} has no {case.asked.typing} typing: "
            "11 removed its flags and calibrators"
        ),
        hint="the strongly typed graph",
        source=_API,
    ),
    Rule(
        refuses=lambda case: case.asked.typing == "strong" and case.is_between((0,), _TYPED),
        reason="TensorRT {case.tensorrt} has no strongly typed networks",
        hint="the weakly typed graph",
        source=_ENUMS,
    ),
    Rule(
        refuses=lambda case: (
            case.asked.dla
            and case.asked.precision is Precision.INT8
            and case.asked.typing in {"strong", "weak"}
            and case.is_between(_FIRST, _NO_MORE_DLA)
        ),
        reason="DLA of TensorRT {case.tensorrt} takes no Q/DQ nodes, but a calibration cache",
        hint="--quantization implicit",
        source=_DLA_LIMITS,
    ),
    Rule(
        refuses=lambda case: case.asked.element == "uint8" and case.is_between(_FIRST, _PIXELS),
        reason="TensorRT {case.tensorrt} takes no uint8 input, 8.5 is the first that does",
        hint="export without --fold-preprocessing, so that the input is float32",
        source=_ENUMS,
    ),
    Rule(
        refuses=lambda case: (case.asked.opset or 0) > (case.opset or 0) > 0,
        reason=(
            "TensorRT {case.tensorrt} parses ONNX opset {case.opset} at most, "
            "the graph has {case.asked.opset}"
        ),
        hint="export with a lower opset; 13 is parsed by all",
        source=OPSET_SOURCE,
    ),
)
RULES = (*_OF_THE_DEVICE, *_OF_TENSORRT)


def require(target: Target, asked: Request) -> None:
    """Refuse an impossible request.

    Raises:
        InputError: The target, or every version of TensorRT, refuses the request. The message names
            every reason with its source; the hint belongs to the first reason.
    """
    cases = _cases(target, asked)
    refused = [next((rule for rule in RULES if rule.refuses(case)), None) for case in cases]
    if not all(refused):
        return
    # A rule that refuses several versions is reported once, for the newest of them.
    last = {id(rule): (rule, case) for rule, case in zip(refused, cases, strict=True) if rule}
    reasons = [f"{rule.reason} ({rule.source})".format(case=case) for rule, case in last.values()]
    first, case = next(iter(last.values()))
    raise InputError(f"{target.name}: {'; '.join(reasons)}", hint=first.hint.format(case=case))


def tensorrt_versions(target: Target, asked: Request) -> tuple[str, ...]:
    """Versions of TensorRT that can take the request, oldest first; empty for other backends.

    Raises:
        InputError: The request is impossible, as in ``require``.
    """
    require(target, asked)
    possible = (
        case for case in _cases(target, asked) if not any(rule.refuses(case) for rule in RULES)
    )
    return tuple(case.tensorrt for case in possible if case.tensorrt)


def _cases(target: Target, asked: Request) -> list[Case]:
    """A case for each version of TensorRT that the request may get; never empty."""
    if asked.tensorrt and len(parsed(asked.tensorrt)) == 1:
        raise InputError(
            f"TensorRT '{asked.tensorrt}' leaves the minor version open",
            hint="wanted one such as 10.3 or 8.5.2",
        )
    versions: Iterable[str | None] = [asked.tensorrt]
    if asked.tensorrt is None:
        versions = Case(target=target, asked=asked, tensorrt=None).brought or [None]
    return [Case(target=target, asked=asked, tensorrt=version) for version in versions]
