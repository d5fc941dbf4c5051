"""Facts of a device, read from its files: board, memory, disk, versions, power mode and clocks.

The files differ from release to release, so a parser returns None where its text lacks the fact.
Facts that could not be read are listed, never guessed. Each board numbers its power modes in its
own way, so the modes are read from the board's configuration.
This file travels to devices: Python 3.6 syntax, standard library. It has not run on a Jetson; its
tests read texts in the formats that NVIDIA documents (docs/hardware.md, "Power modes and clocks").
"""

import glob
import hashlib
import json
import os
import platform
import re
import subprocess
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

_L4T_TO_JETPACK = (
    ("32.6.1", "4.6"), ("32.7", "4.6.1 or later"), ("35.1", "5.0.2"), ("35.2", "5.1"),
    ("35.3", "5.1.1"), ("35.4", "5.1.2"), ("35.5", "5.1.3"), ("35.6", "5.1.4 or later"),
    ("36.3", "6.0"), ("36.4.0", "6.1"), ("36.4.3", "6.2"), ("36.4", "6.2.1"), ("36.5", "6.2.2"),
    ("38.2", "7.0"), ("38.4", "7.1"), ("39.2", "7.2"),
)  # fmt: skip # docs/hardware.md, "JetPack releases"
_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b", "gpc")  # parts of the GPU's name in devfreq
_KIB, _MHZ = 1024, 1000 * 1000

ToolRunner = Callable[[List[str]], str]


class PowerMode(NamedTuple):
    """A power mode of this board: its number and its name."""

    id: int
    name: str


class Board(NamedTuple):
    """Facts of a device, each None where no file holds it; sizes in MiB, clocks in MHz.

    ``l4t`` is the version of NVIDIA's Linux for Tegra; ``mem_free_mib`` is the memory that programs
    can get, ``swap_mib`` the free swap; ``emc_mhz`` is the memory clock.
    ``power_modes`` are names by id; ``temperatures_c`` are degrees Celsius by thermal
    zone; ``unread`` names the facts that could not be read.
    """

    model: Optional[str]
    compatible: Optional[List[str]]
    l4t: Optional[str]
    jetpack: Optional[str]
    tensorrt: Optional[str]
    cuda: Optional[str]
    cpu: Optional[str]
    num_cores: Optional[int]
    machine: str
    system: str
    python: str
    container: str
    hostname_hash: str
    mem_total_mib: Optional[int]
    mem_free_mib: Optional[int]
    swap_mib: Optional[int]
    disk_free_mib: Optional[int]
    power_mode: Optional[PowerMode]
    power_modes: Optional[Dict[int, str]]
    power_mode_default: Optional[int]
    clocks_locked: Optional[bool]
    gpu_mhz: Optional[int]
    gpu_max_mhz: Optional[int]
    emc_mhz: Optional[int]
    governor: Optional[str]
    fan_pwm: Optional[int]
    temperatures_c: Dict[str, float]
    unread: List[str]


def run_tool(command: List[str]) -> str:
    """The standard output of ``command``; empty if the tool is absent, fails or takes over 10 s."""
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.decode("utf-8", "replace") if process.returncode == 0 else ""


def read_board(folder: str, root: str = "/", run: ToolRunner = run_tool) -> Board:
    """Facts of this device, and of the disk that holds ``folder``.

    ``root`` is the root of the file system, which tests replace; ``run`` returns a tool's output.
    """
    files = _Files(root)
    facts = dict(
        _identity(files),
        disk_free_mib=_free_mib(folder),
        temperatures_c=read_temperatures(root),
        **_memory(files),
        **_power(files, run),
        **_clocks(files),
    )
    unread = sorted(name for name, value in facts.items() if value in (None, [], {}))
    return Board(unread=unread, **facts)


class _Files:
    """Text files below a root; the content of a file that cannot be read is None."""

    def __init__(self, root: str) -> None:
        self._root = root

    def text(self, path: str) -> Optional[str]:
        try:
            with open(self.path(path), "rb") as stream:
                return stream.read().decode("utf-8", "replace").strip("\0\n ")
        except OSError:
            return None

    def path(self, path: str) -> str:
        return os.path.join(self._root, path.lstrip("/"))

    def matching(self, pattern: str) -> List[str]:
        """Sorted absolute paths below the root that match a pattern."""
        paths = glob.glob(self.path(pattern))
        return sorted("/" + os.path.relpath(path, self._root) for path in paths)

    def number(self, path: str) -> Optional[int]:
        text = self.text(path)
        return int(text) if text and text.lstrip("-").isdigit() else None


def _identity(files: _Files) -> Dict[str, Any]:
    l4t = parse_release(files.text("/etc/nv_tegra_release") or "")
    compatible = files.text("/proc/device-tree/compatible")
    cpu, cores = parse_cpuinfo(files.text("/proc/cpuinfo") or "")
    return {
        "model": files.text("/proc/device-tree/model"),
        "compatible": compatible.split("\0") if compatible else None,
        "l4t": l4t,
        "jetpack": jetpack_version(l4t) if l4t else None,
        "tensorrt": _installed_tensorrt(files),
        "cuda": parse_cuda(
            files.text("/usr/local/cuda/version.json")
            or files.text("/usr/local/cuda/version.txt")
            or ""
        ),
        "cpu": cpu,
        "num_cores": cores,
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "container": "docker" if os.path.exists(files.path("/.dockerenv")) else "none",
        "hostname_hash": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
    }


def _memory(files: _Files) -> Dict[str, Any]:
    sizes = parse_meminfo(files.text("/proc/meminfo") or "")
    names = {"mem_total_mib": "MemTotal", "mem_free_mib": "MemAvailable", "swap_mib": "SwapFree"}
    return {name: sizes.get(key) for name, key in names.items()}


def _free_mib(folder: str) -> Optional[int]:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return int(disk.f_bavail * disk.f_frsize) // (_KIB * _KIB)


def _power(files: _Files, run: ToolRunner) -> Dict[str, Any]:
    modes, default = parse_power_modes(files.text("/etc/nvpmodel.conf") or "")
    mode = parse_power_query(run(["nvpmodel", "-q"]))
    if mode is None:
        number = parse_power_status(files.text("/var/lib/nvpmodel/status") or "")
        if number is not None:
            mode = PowerMode(number, modes.get(number, "unknown"))
    return {"power_mode": mode, "power_modes": modes or None, "power_mode_default": default}


def _clocks(files: _Files) -> Dict[str, Any]:
    """Present clocks, and whether each CPU and the GPU is locked to one frequency."""
    gpu = _gpu_folder(files)
    pairs = [
        (files.number(cpu + "/scaling_min_freq"), files.number(cpu + "/scaling_max_freq"))
        for cpu in files.matching("/sys/devices/system/cpu/cpu[0-9]*/cpufreq")
    ]
    gpu_mhz = gpu_max = None
    if gpu:
        pairs.append((files.number(gpu + "/min_freq"), files.number(gpu + "/max_freq")))
        gpu_mhz = _mhz(files.number(gpu + "/cur_freq"))
        gpu_max = _mhz(pairs[-1][1])
    emc = files.number("/sys/kernel/debug/bpmp/debug/clk/emc/rate")  # only root may read it
    is_known = bool(pairs) and all(None not in pair for pair in pairs)
    return {
        "clocks_locked": all(low == high for low, high in pairs) if is_known else None,
        "gpu_mhz": gpu_mhz,
        "gpu_max_mhz": gpu_max,
        "emc_mhz": _mhz(emc),
        "governor": files.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "fan_pwm": next(map(files.number, files.matching("/sys/class/hwmon/hwmon*/pwm1")), None),
    }


def _gpu_folder(files: _Files) -> Optional[str]:
    for folder in files.matching("/sys/class/devfreq/*"):
        if any(part in os.path.basename(folder) for part in _GPU_NAMES):
            return folder
    return None


def _mhz(hertz: Optional[int]) -> Optional[int]:
    return None if hertz is None else hertz // _MHZ


def read_temperatures(root: str = "/") -> Dict[str, float]:
    """Present temperatures in degrees Celsius by zone; the kernel's files hold thousandths."""
    files, temperatures = _Files(root), {}
    for zone in files.matching("/sys/class/thermal/thermal_zone*"):
        name, value = files.text(zone + "/type"), files.number(zone + "/temp")
        if name and value is not None:
            temperatures[name] = value / 1000.0
    return temperatures


def _installed_tensorrt(files: _Files) -> Optional[str]:
    """TensorRT's version by the name of its library file, which needs no Python bindings."""
    for path in files.matching("/usr/lib/*/libnvinfer.so.*"):
        version = re.search(r"libnvinfer\.so\.(\d+\.\d+\.\d+)$", path)
        if version:
            return version.group(1)
    return None


def gpu_clock_mhz(root: str = "/") -> Optional[int]:
    """The GPU's present clock in MHz; None where no file holds it."""
    files = _Files(root)
    folder = _gpu_folder(files)
    return _mhz(files.number(folder + "/cur_freq")) if folder else None


def parse_release(text: str) -> Optional[str]:
    """The L4T version: ``36.4.3`` for ``# R36 (release), REVISION: 4.3, GCID: ...``."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return "{}.{}".format(match.group(1), match.group(2)) if match else None


def jetpack_version(l4t: str) -> Optional[str]:
    """The JetPack that ships this L4T; None where the table lacks it."""
    for start, jetpack in _L4T_TO_JETPACK:
        if l4t == start or l4t.startswith(start + "."):
            return jetpack
    return None


def parse_cuda(text: str) -> Optional[str]:
    """CUDA's version from the content of ``version.json`` or of the older ``version.txt``.

    ``version.txt`` holds a line such as ``CUDA Version 10.2.300``.
    """
    try:
        return str(json.loads(text)["cuda"]["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        match = re.search(r"CUDA Version (\d[\d.]*)", text)
        return match.group(1) if match else None


def parse_cpuinfo(text: str) -> Tuple[Optional[str], Optional[int]]:
    """(name of the CPU, number of cores) from ``/proc/cpuinfo``; Arm kernels write no name."""
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    cores = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    return (name.group(1).strip() if name else None), cores or None


def parse_meminfo(text: str) -> Dict[str, int]:
    """Sizes in MiB from ``/proc/meminfo``, by name."""
    entries = re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
    return {name: int(size) // _KIB for name, size in entries}


def parse_power_modes(text: str) -> Tuple[Dict[int, str], Optional[int]]:
    """(names of power modes by id, id of the default mode) from ``/etc/nvpmodel.conf``."""
    modes = {}
    for line in text.splitlines():
        model = re.match(r"\s*<\s*POWER_MODEL\b(.*)>", line)
        if model:
            number = re.search(r"\bID=(\d+)", model.group(1))
            name = re.search(r"\bNAME=(\S+)", model.group(1))
            if number and name:
                modes[int(number.group(1))] = name.group(1)
    default = re.search(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)", text)
    return modes, int(default.group(1)) if default else None


def parse_power_query(text: str) -> Optional[PowerMode]:
    """The mode that ``nvpmodel -q`` prints: ``NV Power Mode: NAME``, then a line with the id."""
    match = re.search(r"Power Mode\s*:\s*(\S+)\s+(\d+)\s*$", text, re.MULTILINE)
    return PowerMode(int(match.group(2)), match.group(1)) if match else None


def parse_power_status(text: str) -> Optional[int]:
    """The power mode's id in ``/var/lib/nvpmodel/status``: 2 for ``pmode:0002``."""
    match = re.search(r"pmode:(\d+)", text)
    return int(match.group(1)) if match else None


def unlimited_power_mode(modes: Mapping[int, str]) -> Optional[int]:
    """Id of the mode without a power limit, found by its name, since ids differ between boards."""
    named = [(number, name.upper()) for number, name in sorted(modes.items())]
    unlimited = [number for number, name in named if name == "MAXN_SUPER"]
    unlimited += [number for number, name in named if name.startswith("MAXN")]
    return unlimited[0] if unlimited else None
