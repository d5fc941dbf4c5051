from __future__ import annotations

import os

from edge_inception.validate import machine

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
