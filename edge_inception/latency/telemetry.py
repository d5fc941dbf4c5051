"""Clocks, temperatures, power and throttling of the machine while an engine was timed.

These figures are read from the kernel's files, and from NVML, NVIDIA's management library, where it
is installed. A figure that cannot be read is None with a reason, never 0.

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
    """State of the machine at one moment; a figure that cannot be read is None or empty.

    ``at_s`` is on the monotonic clock. ``temp_c`` has the temperatures by thermal zone. ``cpu_mhz``
    is the lowest clock of all cores. ``energy_j`` and ``throttle_count`` count up from an arbitrary
    start. If ``is_throttle_flag``, ``throttle_count`` is no counter but 1 while the GPU is
    throttled, else 0. ``power_mw`` is the power of the GPU, or the sum of a Jetson's supply rails.
    ``unavailable`` has the reason for each missing figure.
    """

    at_s: float
    temp_c: Mapping[str, float]
    cpu_mhz: float | None
    gpu_mhz: int | None
    energy_j: float | None
    power_mw: float | None
    throttle_count: int | None
    is_throttle_flag: bool = False
    unavailable: Mapping[str, str] = field(default_factory=dict)


class Temperatures(Record, frozen=True, kw_only=True):
    """Degrees Celsius by thermal zone, at the start and the end of a run."""

    start: dict[str, float]
    end: dict[str, float]


class Clocks(Record, frozen=True, kw_only=True):
    """Lowest clock of all cores in MHz, at the start and the end of a run."""

    start: float | None
    end: float | None


class Telemetry(NamedTuple):
    """State of the machine during a run; the fields are those of a ``RunRecord``."""

    temp_c: Temperatures
    cpu_mhz: Clocks
    gpu_mhz_min: int | None
    power_mw: float | None
    throttled: bool | None
    unavailable: dict[str, str]


def read(root: Path = Path("/sys")) -> Reading:
    """State of the machine now.

    Args:
        root: The folder ``/sys``, or a copy of it in tests.
    """
    temperatures = jetson_board.read_temperatures(str(root.parent))
    clocks = _read_numbers(root, f"{_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq")
    counts = _read_numbers(root, f"{_CPU}/cpu[0-9]*/thermal_throttle/package_throttle_count")
    energy = _read_numbers(root, _RAPL)
    gpu = _read_nvml() or _Gpu(
        mhz=jetson_board.gpu_clock_mhz(str(root.parent)),
        power_mw=_rail_power_mw(root),
        temp_c={},
        throttle_count=max(counts) if counts else None,
    )
    reading = Reading(
        at_s=time.monotonic(),
        temp_c={**temperatures, **gpu.temp_c},
        cpu_mhz=min(clocks) / 1000 if clocks else None,
        gpu_mhz=gpu.mhz,
        energy_j=energy[0] / _MICRO if energy else None,
        power_mw=gpu.power_mw,
        throttle_count=gpu.throttle_count,
        is_throttle_flag=gpu.is_throttle_flag,
    )
    missing = {name: why for name, why in _REASONS.items() if getattr(reading, name) in (None, {})}
    return replace(reading, unavailable=missing)


_REASONS: Mapping[str, str] = {
    "cpu_mhz": "no cpufreq in /sys/devices/system/cpu: a virtual machine hides it",
    "gpu_mhz": "neither devfreq nor NVML reports a GPU",
    "energy_j": "no readable RAPL counter in /sys/class/powercap",
    "power_mw": "no INA3221 rails in /sys/class/hwmon and no NVML",
    "throttle_count": "no throttle counter of CPU or GPU",
    "temp_c": "no thermal zone in /sys/class/thermal",
}


def summarize(before: Reading, after: Reading) -> Telemetry:
    """State of the machine between two readings.

    ``power_mw`` is the energy that RAPL, a counter of the CPU, counted over the time; without RAPL
    it is the mean of both readings. ``throttled`` is None without a throttle counter.
    """
    seconds = after.at_s - before.at_s
    power = None
    if before.energy_j is not None and after.energy_j is not None and seconds > 0:
        joules = after.energy_j - before.energy_j  # negative if the counter overflowed
        power = 1000 * joules / seconds if joules >= 0 else None
    elif before.power_mw is not None and after.power_mw is not None:
        power = (before.power_mw + after.power_mw) / 2
    counts = before.throttle_count, after.throttle_count
    is_throttle_flag = before.is_throttle_flag or after.is_throttle_flag
    throttled = any(counts) if is_throttle_flag else counts[0] != counts[1]
    return Telemetry(
        temp_c=Temperatures(start=dict(before.temp_c), end=dict(after.temp_c)),
        cpu_mhz=Clocks(start=before.cpu_mhz, end=after.cpu_mhz),
        gpu_mhz_min=min((c for c in (before.gpu_mhz, after.gpu_mhz) if c), default=None),
        power_mw=power,
        throttled=None if None in counts else throttled,
        unavailable=dict(after.unavailable),
    )


def _read_numbers(root: Path, pattern: str) -> list[int]:
    numbers = (_read_number(path) for path in sorted(root.glob(pattern)))
    return [number for number in numbers if number is not None]


def _read_number(path: Path) -> int | None:
    try:
        return int(_read_text(path))
    except ValueError:
        return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _rail_power_mw(root: Path) -> float | None:
    """Power in mW of all rails of INA3221 sensors (mV times mA); None without such rails."""
    chips = (
        name.parent for name in root.glob(f"{_RAILS}/name") if _read_text(name).strip() == _INA
    )
    pairs = [
        (_read_number(current), _read_number(current.with_name(current.name.replace("curr", "in"))))
        for chip in chips
        for current in chip.glob("curr[1-3]_input")
    ]
    powers = [ma * mv / 1000 for ma, mv in pairs if ma is not None and mv is not None]
    return sum(powers) if powers else None


class _Gpu(NamedTuple):
    mhz: int | None
    power_mw: float | None
    temp_c: dict[str, float]
    throttle_count: int | None
    is_throttle_flag: bool = False


def _read_nvml() -> _Gpu | None:
    """Clock, power, temperature and throttling of the first GPU; None without a GPU or NVML."""
    try:
        import pynvml  # noqa: PLC0415 -- an optional library
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
        temperature = float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))
        return _Gpu(
            mhz=pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            power_mw=float(pynvml.nvmlDeviceGetPowerUsage(gpu)),
            temp_c={"gpu": temperature},
            throttle_count=int(bool(reasons & ~idle)),
            is_throttle_flag=True,
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
