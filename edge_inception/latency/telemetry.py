"""What the machine did while something was timed: clocks, temperatures, power, throttling.

Read from the kernel's files, and from NVIDIA's management library where it is installed. What a
machine does not tell is recorded with the reason, never as a zero.

Source: Linux ``cpufreq``, ``thermal`` and ``powercap`` (RAPL) in Documentation/; INA3221 rails of
Jetson as docs/hardware.md, "Power modes and clocks"; NVML as ``nvidia-ml-py`` binds it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from edge_inception.device import jetson_board
from edge_inception.records import Record

_CPU = "devices/system/cpu"
_RAPL = "class/powercap/intel-rapl:0/energy_uj"
_RAILS = "class/hwmon/hwmon*"
_INA = "ina3221"
_MICRO = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at the machine; None and empty where it does not tell, with the reason.

    ``cpu_mhz`` is the lowest of all cores; ``energy_j`` counts up from an arbitrary start;
    ``power_mw`` is the sum of a Jetson's rails, or of the GPU; ``throttle_count`` counts up.
    """

    at_s: float
    temp_c: Mapping[str, float]
    cpu_mhz: float | None
    gpu_mhz: int | None
    energy_j: float | None
    power_mw: float | None
    throttle_count: int | None
    unavailable: Mapping[str, str] = field(default_factory=dict)


class Temperatures(Record, frozen=True, kw_only=True):
    """Degrees Celsius by zone, before and after."""

    start: dict[str, float]
    end: dict[str, float]


class Clocks(Record, frozen=True, kw_only=True):
    """Lowest MHz of all cores, before and after."""

    start: float | None
    end: float | None


class Seen(NamedTuple):
    """What happened from one reading to another, with the names that the record of a run has."""

    temp_c: Temperatures
    cpu_mhz: Clocks
    gpu_mhz_min: int | None
    power_mw: float | None
    throttled: bool | None
    unavailable: dict[str, str]


def read(root: Path = Path("/sys")) -> Reading:
    """The machine, now.

    Args:
        root: Where ``/sys`` is; tests have one of their own.
    """
    heat = jetson_board.read_temperatures(str(root.parent))
    clocks = _numbers(root, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq")
    counts = _numbers(root, f"{_CPU}/cpu[0-9]*/thermal_throttle/package_throttle_count")
    energy = _numbers(root, _RAPL)
    gpu = _nvml() or _Gpu(
        mhz=jetson_board.gpu_clock_mhz(str(root.parent)),
        power_mw=_rails(root),
        temp_c={},
        throttled=max(counts) if counts else None,
    )
    found = Reading(
        at_s=time.monotonic(),
        temp_c={**heat, **gpu.temp_c},
        cpu_mhz=min(clocks) / 1000 if clocks else None,
        gpu_mhz=gpu.mhz,
        energy_j=energy[0] / _MICRO if energy else None,
        power_mw=gpu.power_mw,
        throttle_count=gpu.throttled,
    )
    lacking = {name: why for name, why in _WHY.items() if getattr(found, name) in (None, {})}
    return replace(found, unavailable=lacking)


_WHY: Mapping[str, str] = {
    "cpu_mhz": "no cpufreq in /sys/devices/system/cpu: a virtual machine hides it",
    "gpu_mhz": "no GPU that devfreq or NVML tells of",
    "energy_j": "no readable RAPL counter in /sys/class/powercap",
    "power_mw": "no INA3221 rails in /sys/class/hwmon and no NVML",
    "throttle_count": "no throttle counter of CPU or GPU",
    "temp_c": "no thermal zone in /sys/class/thermal",
}


def between(before: Reading, after: Reading) -> Seen:
    """What happened from one reading to another.

    ``power_mw`` is the mean of RAPL's energy over the time, else of the two readings.
    ``throttled`` is None where no counter tells.
    """
    seconds = after.at_s - before.at_s
    power = None
    if before.energy_j is not None and after.energy_j is not None and seconds > 0:
        joules = after.energy_j - before.energy_j  # below zero when the counter went round
        power = 1000 * joules / seconds if joules >= 0 else None
    elif before.power_mw is not None and after.power_mw is not None:
        power = (before.power_mw + after.power_mw) / 2
    counts = before.throttle_count, after.throttle_count
    throttled = None if None in counts else counts[0] != counts[1]
    return Seen(
        temp_c=Temperatures(start=dict(before.temp_c), end=dict(after.temp_c)),
        cpu_mhz=Clocks(start=before.cpu_mhz, end=after.cpu_mhz),
        gpu_mhz_min=min((c for c in (before.gpu_mhz, after.gpu_mhz) if c), default=None),
        power_mw=power,
        throttled=throttled,
        unavailable=dict(after.unavailable),
    )


def _numbers(root: Path, pattern: str) -> list[int]:
    found = (_number(path) for path in sorted(root.glob(pattern)))
    return [value for value in found if value is not None]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _rails(root: Path) -> float | None:
    """Milliwatts of all INA3221 rails: millivolts times milliamperes."""
    chips = (
        name.parent for name in root.glob(f"{_RAILS}/name") if name.read_text().strip() == _INA
    )
    pairs = [
        (_number(current), _number(current.with_name(current.name.replace("curr", "in"))))
        for chip in chips
        for current in chip.glob("curr[1-3]_input")
    ]
    known = [amps * volts / 1000 for amps, volts in pairs if amps is not None and volts is not None]
    return sum(known) if known else None


class _Gpu(NamedTuple):
    mhz: int | None
    power_mw: float | None
    temp_c: dict[str, float]
    throttled: int | None


def _nvml() -> _Gpu | None:
    """Clock, power, temperature and throttle reasons of the first GPU; None without NVML."""
    try:
        import pynvml  # noqa: PLC0415 -- optional, and only where there is a GPU
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
        idle = pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonNone
        heat = float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))
        return _Gpu(
            mhz=pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            power_mw=float(pynvml.nvmlDeviceGetPowerUsage(gpu)),
            temp_c={"gpu": heat},
            throttled=int(bool(reasons & ~idle)),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
