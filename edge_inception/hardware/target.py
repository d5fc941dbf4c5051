"""Records of hardware, whose numbers carry their sources; without third-party imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_inception.hardware.jetpack import JetPack, releases_of

SURE: Mapping[str, str] = {
    "V": "read in a primary source",
    "S": "read in a secondary source",
    "R": "recalled, not confirmed",
    "I": "inferred from other figures",
}
"""How certain a fact is: the letter of ``Fact.sure`` -> its meaning."""


class Fact(NamedTuple):
    """A number, how certain it is (a key of ``SURE``), and its source."""

    value: float
    sure: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dla:
    """Deep learning accelerators (DLA) of a module.

    ``int8_tops`` is the dense INT8 peak of one core, in 1e12 operations/s.
    """

    num_cores: int
    generation: str
    int8_tops: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Hardware that an engine is for, and the library that compiles for it.

    A number is None where it is unknown or does not concern the target. All peaks are for dense
    weights at the highest power mode; NVIDIA advertises Orin and later with 2:4 sparse weights.

    Attributes:
        name: What users type.
        title: One line for people.
        backend: File name in ``engines/``.
        is_compiled_here: Whether its engines can be compiled on another machine.
        sources: Sources of the SM version, the memory size and the number of accelerators.
        compute_capabilities: NVIDIA's SM versions: one for a device, several for a family.
        memory_gb: Size of the memory, which CPU and GPU share on a Jetson.
        bandwidth_gb_s: Bandwidth of that memory, 1e9 bytes/s.
        int8_tops: INT8 peak of the GPU, 1e12 operations/s; a multiply-add is two operations.
        fp16_tflops: FP16 peak of the GPU in the same unit; for cards with sums in float32.
        fp8_tflops: FP8 peak of the GPU in the same unit.
        module_int8_tops: INT8 peak of the GPU and all DLA cores together.
        slow: Precision that the GPU has no fast instructions for -> source.
        dla: The module's DLA cores; None where it has none.
        headline: The peak that NVIDIA advertises, and what it counts.
        power_modes: Numbers and names as ``nvpmodel`` knows them; boards differ in them.
        notes: Further facts for users, one sentence each.
    """

    name: str
    title: str
    backend: str
    is_compiled_here: bool
    sources: tuple[str, ...]
    compute_capabilities: tuple[str, ...] = ()
    memory_gb: int | None = None
    bandwidth_gb_s: Fact | None = None
    int8_tops: Fact | None = None
    fp16_tflops: Fact | None = None
    fp8_tflops: Fact | None = None
    module_int8_tops: Fact | None = None
    slow: Mapping[str, str] = field(default_factory=dict)
    dla: Dla | None = None
    headline: str = ""
    power_modes: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_dla_cores(self) -> int:
        """Number of deep learning accelerators of the module."""
        return self.dla.num_cores if self.dla else 0

    @property
    def releases(self) -> tuple[JetPack, ...]:
        """JetPack releases that support the module, oldest first; empty for other hardware."""
        return tuple(releases_of(self.name))

    @property
    def is_jetson(self) -> bool:
        """Whether the target is a Jetson, whose TensorRT comes with a JetPack."""
        return bool(self.releases)

    @property
    def jetpack(self) -> tuple[str, str]:
        """(oldest, newest) JetPack release whose TensorRT this project builds for; else empty."""
        usable = self._supported_releases()
        return (usable[0].first, usable[-1].last) if usable else ("", "")

    @property
    def tensorrt(self) -> tuple[str, str]:
        """(oldest, newest) TensorRT that the releases of ``jetpack`` ship; else empty strings."""
        usable = self._supported_releases()
        return (usable[0].tensorrt, usable[-1].tensorrt) if usable else ("", "")

    @property
    def opset(self) -> int | None:
        """Highest ONNX opset that the oldest version in ``tensorrt`` parses; None without one."""
        usable = self._supported_releases()
        return usable[0].opset if usable else None

    def _supported_releases(self) -> list[JetPack]:
        """Releases that ship TensorRT 8.2 or later, whose parser is known."""
        return [row for row in self.releases if row.is_stock and row.opset is not None]
