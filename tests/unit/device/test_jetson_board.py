"""Facts of a board from the texts of its files; what is not there is named, never guessed.

The texts have the formats of L4T's own files and tools, written out from their documentation
(docs/hardware.md, "Power modes and clocks"); no board was at hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_inception.device import jetson_board, manifest, readiness
from edge_inception.device.runtimes import GpuIdentity

ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"
    ),
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
    "proc/meminfo": "MemTotal:        7804444 kB\nMemFree: 1 kB\nMemAvailable:    5200000 kB\n"
    "SwapFree:        3902216 kB\n",
    "proc/cpuinfo": "".join(f"processor\t: {i}\nCPU part\t: 0xd42\n\n" for i in range(6)),
    "etc/nvpmodel.conf": (
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n"
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
        "< PM_CONFIG DEFAULT=1 >\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/8188050000.nvjpg/cur_freq": "1\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1728000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48625\n",
    "sys/class/hwmon/hwmon2/pwm1": "128\n",
}
QUERY = "NV Power Mode: 25W\n1\n"


def rooted(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(folder)


def read(folder: Path, files: dict[str, str], query: str = "") -> jetson_board.Board:
    return jetson_board.read_board(str(folder), rooted(folder, files), lambda _: query)


def test_an_orin_nano(tmp_path):
    """Every fact of the recorded texts; the clock of the memory is for root alone."""
    found = read(tmp_path, ORIN_NANO, QUERY)
    wanted = {
        "model": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "36.4.3",
        "jetpack": "6.2",
        "cuda": "12.6.11",
        "tensorrt": "10.3.0",
        "mem_total_mib": 7621,
        "mem_free_mib": 5078,
        "swap_mib": 3810,
        "num_cores": 6,
        "power_mode": jetson_board.PowerMode(1, "25W"),
        "power_modes": {0: "15W", 1: "25W", 2: "MAXN_SUPER"},
        "power_mode_default": 1,
        "clocks_locked": False,
        "gpu_mhz": 612,
        "gpu_max_mhz": 1020,
        "temperatures_c": {"cpu-thermal": 48.625},
        "fan_pwm": 128,
        "unread": ["cpu", "emc_mhz"],
    }
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert found.compatible[1] == "nvidia,p3767-0005"


def test_the_status_file_stands_in_for_the_tool(tmp_path):
    """nvpmodel may be missing in a container: the id of the status file, named by the table."""
    assert read(tmp_path, ORIN_NANO).power_mode == jetson_board.PowerMode(1, "25W")


def test_locked_clocks(tmp_path):
    """jetson_clocks raises every lower limit to the upper one."""
    locked = {
        **ORIN_NANO,
        "sys/class/devfreq/17000000.gpu/min_freq": "1020000000",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1728000",
    }
    assert read(tmp_path, locked).clocks_locked is True


def test_an_empty_board_names_what_it_does_not_tell(tmp_path):
    """Nothing readable: no exception, no guess, and a list of what is missing."""
    found = read(tmp_path, {})
    missing = {"model", "l4t", "cuda", "tensorrt", "mem_total_mib", "power_mode", "clocks_locked"}
    assert missing <= set(found.unread)
    assert found.disk_free_mib > 0


@pytest.mark.parametrize(
    ("reader", "text", "wanted"),
    [
        (jetson_board.parse_release, "# R32 (release), REVISION: 7.1, GCID: 29818004", "32.7.1"),
        (jetson_board.parse_release, "nonsense", None),
        (jetson_board.parse_cuda, "CUDA Version 10.2.300\n", "10.2.300"),
        (jetson_board.parse_cuda, "{}", None),
        (jetson_board.parse_cuda, "[1]", None),
        (jetson_board.parse_power_query, "NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n",
         jetson_board.PowerMode(2, "MODE_15W_6CORE")),
        (jetson_board.parse_power_query, "NVPM ERROR: Error opening /sys\n", None),
        (jetson_board.parse_power_status, "pmode:0002 fmode:quiet", 2),
        (jetson_board.jetpack_version, "32.7.1", "4.6.1 or later"),
        (jetson_board.jetpack_version, "36.4.7", "6.2.1"),
        (jetson_board.jetpack_version, "39.2.0", "7.2"),
        (jetson_board.jetpack_version, "99.0", None),
    ],
)  # fmt: skip
def test_texts_of_other_releases(reader, text, wanted):
    """Formats of other releases, and texts that are none."""
    assert reader(text) == wanted


class FakeWay:
    """A TensorRT that answers with one version on one GPU."""

    name = "tensorrt"

    def __init__(self, version="10.3.0", sm="8.7"):
        self._version, self._sm = version, sm

    def version(self):
        return self._version

    def identity(self):
        return GpuIdentity(self._version, self._sm, "Orin")


@pytest.fixture
def orins(jetson_bundle):
    """A bundle for an Orin Nano whose largest graph has 3 MiB."""
    bundle = manifest.open_bundle(str(jetson_bundle))
    files = dict(bundle.record.files)
    files["graphs/weak.onnx"] = files["graphs/weak.onnx"]._replace(bytes=3 << 20)
    return bundle._replace(record=bundle.record._replace(files=files))


def statuses(bundle, facts, way=None) -> dict[str, readiness.Finding]:
    return {one.what: one for one in readiness.check_device(bundle, way or FakeWay(), facts)}


def test_a_ready_orin_is_told_its_higher_power_mode(orins, tmp_path):
    """All is well but mode and clocks, and the commands that raise them are those of this board."""
    found = statuses(orins, read(tmp_path, ORIN_NANO, QUERY))
    warned = {name for name, entry in found.items() if entry.status != readiness.OK}
    assert warned == {"power mode", "clocks"}
    assert found["power mode"].fix.startswith("sudo nvpmodel -m 2 ")
    assert found["clocks"].fix == "sudo jetson_clocks"


@pytest.mark.parametrize(
    ("change", "what", "status", "words"),
    [
        ({"mem_total_mib": 3900}, "memory", readiness.WARNING, "is this the device?"),
        ({"mem_free_mib": 900, "swap_mib": 0}, "memory", readiness.WARNING, "may need 1756 MiB"),
        ({"mem_free_mib": None}, "memory", readiness.UNREAD, "MemAvailable"),
        ({"disk_free_mib": 70}, "disk", readiness.FAILED, "a build needs 76"),
        ({"disk_free_mib": None}, "disk", readiness.UNREAD, "free space"),
        ({"cuda": None}, "CUDA", readiness.UNREAD, "no version"),
        ({"power_mode": None}, "power mode", readiness.UNREAD, "nvpmodel"),
        ({"clocks_locked": None}, "clocks", readiness.UNREAD, "frequency limits"),
        ({"clocks_locked": True}, "clocks", readiness.OK, "locked, GPU 612 of 1020 MHz"),
    ],
)
def test_each_shortage_is_a_finding(orins, tmp_path, change, what, status, words):
    """One fact changed, one finding: its state and the number that counts."""
    entry = statuses(orins, read(tmp_path, ORIN_NANO, QUERY)._replace(**change))[what]
    assert entry.status == status
    assert words in entry.detail


def test_jetpack_7_2_needs_room_for_builder_resources(orins, tmp_path):
    """TensorRT 10.16 unpacks 2 GB: 76 MiB are not enough there, though they are for 10.3."""
    facts = read(tmp_path, ORIN_NANO, QUERY)._replace(disk_free_mib=500)
    assert statuses(orins, facts)["disk"].status == readiness.OK
    entry = statuses(orins, facts, FakeWay("10.16.2"))["disk"]
    assert entry.status == readiness.FAILED
    assert "2124" in entry.detail


def test_another_gpu_is_refused(orins, tmp_path):
    """A Xavier under a bundle for Orin: both compute capabilities are said."""
    entry = statuses(orins, read(tmp_path, ORIN_NANO, QUERY), FakeWay(sm="7.2"))["GPU"]
    assert entry.status == readiness.FAILED
    assert "7.2; the bundle is for 8.7" in entry.detail


@pytest.mark.parametrize("sm", ["10.1", "11.0"])
def test_thor_has_two_names(orins, tmp_path, sm):
    """CUDA before 13 called its compute capability 10.1: both are the device."""
    target = orins.target._replace(compute_capabilities=["11.0"])
    thor = orins._replace(record=orins.record._replace(target=target))
    found = statuses(thor, read(tmp_path, ORIN_NANO, QUERY), FakeWay(sm=sm))
    assert found["GPU"].status == readiness.OK
