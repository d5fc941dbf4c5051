"""The rules of feasibility against a second spelling of the facts, on the whole grid."""

from __future__ import annotations

import pytest

from edge_inception.errors import InputError
from edge_inception.hardware import targets
from edge_inception.hardware.feasibility import Request, require
from edge_inception.spec import Precision

# docs/hardware.md, "JetPack releases", as a second spelling: what each family of modules can carry
SHIPS = {
    "nano-": {"8.2.1"},
    "tx2-": {"8.2.1"},
    "xavier-nx-": {"8.2.1", "8.4.1", "8.5.2"},
    "agx-xavier-": {"8.2.1", "8.4.1", "8.5.2"},
    "orin-n": {"8.5.2", "8.6.2", "10.3.0", "10.7.0", "10.16.2"},
    "agx-orin-64gb": {"8.5.2", "8.6.2", "10.3.0", "10.7.0", "10.16.2", "11.4.1"},
    "agx-orin-32gb": {"8.4.1", "8.5.2", "8.6.2", "10.3.0", "10.7.0", "10.16.2", "11.4.1"},
    "thor-": {"10.13.3", "10.16.2", "11.4.1"},
}
BEFORE_SUPER = {"8.5.2", "8.6.2"}
DLA_OF = {
    "xavier-nx-": {"8.2.1", "8.4.1", "8.5.2"},
    "agx-xavier-": {"8.2.1", "8.4.1", "8.5.2"},
    "orin-nx-": {"8.5.2", "8.6.2", "10.3.0", "10.7.0"},
    "agx-orin-": {"8.4.1", "8.5.2", "8.6.2", "10.3.0", "10.7.0", "11.4.1"},
}
ASKED = {version for ships in SHIPS.values() for version in ships}
ASKED |= {"8.6.1", "10.0", "10.8", "10.13.0", "11.0", "11.1", "11.3"}


def of_family(name, table):
    return next((value for start, value in table.items() if name.startswith(start)), set())


def can(name, precision, version, *, dla):
    """Whether the facts allow it."""
    ships = of_family(name, SHIPS) - (BEFORE_SUPER if name.endswith("super") else set())
    if version not in ships or (precision is Precision.INT8 and name.startswith(("nano", "tx2"))):
        return False
    return not dla or (precision is not Precision.FP32 and version in of_family(name, DLA_OF))


@pytest.mark.parametrize("name", [n for n, row in targets.TARGETS.items() if row.is_jetson])
def test_device_by_precision_by_dla_by_tensorrt(name):
    """On every point of the grid the rules decide as a second spelling of the facts does."""
    for precision in Precision:
        for dla in (False, True):
            for version in sorted(ASKED):
                asked = Request(precision=precision, tensorrt=version, dla=dla)
                try:
                    require(targets.target(name), asked)
                except InputError:
                    is_possible = False
                else:
                    is_possible = True
                assert is_possible == can(name, precision, version, dla=dla), asked
