"""The machine that a latency is measured on: CPU, instruction sets, cores, load, clocks."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from edge_inception.records import Count, Record

_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
_DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

# as the kernel spells them; they decide the speed of float and INT8 convolutions
_X86 = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
        "amx_tile", "amx_int8", "amx_bf16")  # fmt: skip
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
INSTRUCTION_SETS = (*_X86, *_ARM)


class Machine(Record, frozen=True, kw_only=True):
    """The machine as the operating system describes it.

    ``num_cores`` counts all logical cores, ``affinity`` lists those that this process may use.
    ``load_average`` is over the last minute. ``governor`` is the policy for the CPU's clock; None
    where the kernel shows none, as in a virtual machine, so that the clocks are unknown.
    """

    cpu: str
    architecture: str
    instruction_sets: tuple[str, ...]
    num_cores: Count
    affinity: tuple[Count, ...]
    load_average: float
    governor: str | None
    system: str
    python: str


def describe() -> Machine:
    """Description of this machine with its present load."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Times in seconds since an arbitrary start, so only the differences of two records count.

    ``wall_s`` is elapsed time. ``busy_s`` is the CPU time of all programs on all cores, with the
    time that the host took from a virtual machine. ``own_s`` is the CPU time of this process, and
    of its children once they have ended.
    """

    wall_s: float
    busy_s: float
    own_s: float


def read_cpu_times() -> CpuTimes | None:
    """CPU times up to now; None where ``/proc/stat`` cannot be read."""
    text = _read(_STAT)
    if text is None:
        return None
    # fields: user nice system idle iowait irq softirq steal, in ticks, summed over the cores
    user, nice, system, _, _, *rest = (int(word) for word in text.splitlines()[0].split()[1:9])
    times = os.times()
    return CpuTimes(
        wall_s=times.elapsed,
        busy_s=(user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK"),
        own_s=times.user + times.system + times.children_user + times.children_system,
    )


def foreign_cores(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Mean number of cores that other programs kept busy between two moments; None if unknown."""
    if before is None or after is None or after.wall_s <= before.wall_s:
        return None
    foreign = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    # a tick is 10 ms, so rounding may give a value a little below zero
    return max(0.0, foreign / (after.wall_s - before.wall_s))


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Model name and flags of the first core in ``/proc/cpuinfo``; each is empty if missing."""
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
