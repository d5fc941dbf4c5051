from __future__ import annotations

import os
import subprocess
import sys

from edge_inception.latency import machine

_X86 = """processor\t: 0
model name\t: AMD EPYC 9R45
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: other
flags\t\t: fpu
"""
_ARM = """processor\t: 0
Features\t: fp asimd asimdhp asimddp
CPU part\t: 0xd42
"""


def test_cpuinfo_of_x86_and_arm():
    """Model and flags come from the first core; Arm names features and no model."""
    model, flags = machine.parse_cpuinfo(_X86)
    assert model == "AMD EPYC 9R45"
    assert {"avx2", "amx_int8"} <= flags
    assert machine.parse_cpuinfo(_ARM) == ("", frozenset(("fp", "asimd", "asimdhp", "asimddp")))


def test_this_machine_is_described_by_its_own_kernel():
    """Instruction sets are words of /proc/cpuinfo, and the affinity is the kernel's."""
    found = machine.describe()
    words = set(machine._CPUINFO.read_text().split())
    assert set(found.instruction_sets) <= words
    assert found.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert found.cpu != "unknown"


def test_foreign_work_is_what_all_cores_did_less_our_own():
    """In 10 s all cores worked 15 s, of which 5 s were ours: one core was busy for others."""
    before = machine.CpuTimes(wall_s=100, busy_s=1000, own_s=3)
    after = machine.CpuTimes(wall_s=110, busy_s=1015, own_s=8)
    assert machine.foreign_cores(before, after) == 1.0
    assert machine.foreign_cores(None, after) is None
    # rounding of ticks must not make it negative
    idle = machine.CpuTimes(wall_s=110, busy_s=1004.99, own_s=8)
    assert machine.foreign_cores(before, idle) == 0.0


def test_work_of_an_ended_child_is_our_own():
    """A child that burns 0.3 s of CPU adds that to our own time, and to all cores' too."""
    before = machine.read_cpu_times()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = machine.read_cpu_times()
    assert before is not None
    assert after is not None
    # clock ticks of 10 ms on either side
    assert after.own_s - before.own_s >= 0.28
    assert after.busy_s - before.busy_s >= 0.28
