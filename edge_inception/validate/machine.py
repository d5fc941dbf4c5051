"""The machine a latency was measured on: CPU, instruction sets, cores, load, clocks."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

INSTRUCTION_SETS = (
    # x86, as the kernel spells them: what decides the speed of float and INT8 convolutions
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    # Arm
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine as the operating system describes it.

    ``num_cores`` are all logical cores, ``affinity`` those this process may use; ``load_average``
    is over the last minute; ``governor`` is None where the kernel does not show one (a virtual
    machine), so clocks are then unknown, not fixed.
    """

    cpu: str
    architecture: str
    instruction_sets: tuple[str, ...]
    num_cores: int
    affinity: tuple[int, ...]
    load_average: float
    governor: str | None
    system: str
    python: str


def describe() -> Machine:
    """This machine, now."""
    model, flags = parse_cpuinfo(_read(_CPUINFO) or "")
    return Machine(
        cpu=model or _read(_DEVICE_TREE_MODEL) or platform.processor() or "unknown",
        architecture=platform.machine(),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        num_cores=os.cpu_count() or 1,
        affinity=tuple(sorted(os.sched_getaffinity(0))),
        load_average=os.getloadavg()[0],
        governor=_read(_GOVERNOR),
        system=platform.platform(),
        python=platform.python_version(),
    )


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """CPU model and flags of the first core in ``/proc/cpuinfo``; empty where it names none."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", ""))
    return fields.get("model name", ""), frozenset(flags.split())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip("\0\n ")
    except OSError:
        return None
