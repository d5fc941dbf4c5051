"""The records of hardware, whose numbers carry their sources; without third-party imports."""

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
    """Deep learning accelerators of a module; ``int8_tops`` dense, per core."""

    num_cores: int
    generation: str
    int8_tops: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Hardware that an engine is for, and the library that compiles for it.

    A number is None where it is unknown or does not concern the target. All peaks are dense, at the
    highest power mode; NVIDIA's headlines for Orin and later are those of 2:4 sparse weights.

    Attributes:
        name: What users type.
        title: One line for people.
        backend: File name in ``engines/``.
        is_compiled_here: Whether its engines can be compiled on another machine.
        sources: Sources of the SM version, the memory size and the number of accelerators.
        compute_capabilities: NVIDIA's SM versions: one for a device, several for a family.
        memory_gb: Shared by CPU and GPU on a Jetson.
        bandwidth_gb_s: Of that memory, 1e9 bytes/s.
        int8_tops: GPU, 1e12 operations/s, two of them a multiply-add.
        fp16_tflops: GPU, likewise; tensor cores with float32 sums on cards.
        fp8_tflops: GPU, likewise.
        module_int8_tops: GPU and all DLA cores together.
        slow: Precision that the GPU has no fast instructions for -> source.
        dla: None where there is none.
        headline: The figure in advertisements, and what it counts.
        power_modes: Names by number as ``nvpmodel`` knows them; they differ from board to board.
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
        """Deep learning accelerators of the module."""
        return self.dla.num_cores if self.dla else 0

    @property
    def releases(self) -> tuple[JetPack, ...]:
        """JetPack releases that support the module, oldest first; empty for other hardware."""
        return tuple(releases_of(self.name))

    @property
    def is_jetson(self) -> bool:
        """Whether its TensorRT comes with a JetPack."""
        return bool(self.releases)

    @property
    def jetpack(self) -> tuple[str, str]:
        """(oldest, newest) release with a TensorRT that this project builds for."""
        usable = self._stock()
        return (usable[0].first, usable[-1].last) if usable else ("", "")

    @property
    def tensorrt(self) -> tuple[str, str]:
        """(oldest, newest) TensorRT that these releases ship."""
        usable = self._stock()
        return (usable[0].tensorrt, usable[-1].tensorrt) if usable else ("", "")

    @property
    def opset(self) -> int | None:
        """Highest ONNX opset that the oldest of these TensorRT versions parses."""
        usable = self._stock()
        return usable[0].opset if usable else None

    def _stock(self) -> list[JetPack]:
        """Releases that ship TensorRT 8.2 or later, whose parser is known."""
        return [row for row in self.releases if row.is_stock and row.opset is not None]
