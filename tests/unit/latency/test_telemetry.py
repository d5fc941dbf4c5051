"""What is read of the machine while an engine is timed."""

from __future__ import annotations

import pytest

from edge_inception.latency.telemetry import Reading, _rail_power_mw, summarize


def reading(count, *, is_throttle_flag):
    return Reading(
        at_s=0.0, temp_c={}, cpu_mhz=None, gpu_mhz=None, energy_j=None, power_mw=None,
        throttle_count=count, is_throttle_flag=is_throttle_flag,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "last", "is_throttle_flag", "wanted"),
    [(1, 1, True, True), (0, 1, True, True), (0, 0, True, False), (1, 1, False, False),
     (1, 2, False, True), (None, 1, True, None)],
)  # fmt: skip
def test_a_flag_throttles_if_set_and_a_counter_if_it_moved(first, last, is_throttle_flag, wanted):
    """NVML tells a flag, the kernel a count."""
    before, after = (reading(one, is_throttle_flag=is_throttle_flag) for one in (first, last))
    assert summarize(before, after).throttled is wanted


def test_a_sensor_that_cannot_be_read_is_no_rail(tmp_path):
    """A name that is a folder, or not text, is skipped."""
    (tmp_path / "class/hwmon/hwmon0/name").mkdir(parents=True)
    (tmp_path / "class/hwmon/hwmon1").mkdir()
    (tmp_path / "class/hwmon/hwmon1/name").write_bytes(b"\xff")
    assert _rail_power_mw(tmp_path) is None
