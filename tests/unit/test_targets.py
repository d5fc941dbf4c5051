"""Promises of the table of targets."""

from __future__ import annotations

import importlib.machinery
import importlib.util

import pytest

from edge_inception import registry, targets
from edge_inception.errors import InputError

ROWS = list(targets.TARGETS.values())
JETSONS = [row for row in ROWS if not row.is_compiled_here]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_is_usable(row):
    """Each target names an existing backend, its key is its name, and its facts have sources."""
    assert targets.TARGETS[row.name] is row
    assert row.backend in registry.backend_names()
    assert row.sources
    assert all(row.sources)


@pytest.mark.parametrize("row", JETSONS, ids=lambda row: row.name)
def test_jetson_row_is_complete(row):
    """A Jetson has one compute capability, a JetPack range, a TensorRT range in order, memory."""
    assert len(row.compute_capabilities) == 1
    assert row.memory_gb
    oldest, newest = ([int(part) for part in version.split(".")] for version in row.tensorrt)
    assert oldest <= newest
    assert all(row.jetpack)
    # onnx-tensorrt: 8.2 parses opset 13, 8.4 to 8.6 parse 17, 10 parses 20
    assert row.opset == (13 if oldest < [8, 4] else 17 if oldest < [10] else 20)


@pytest.mark.parametrize("row", JETSONS, ids=lambda row: row.name)
def test_jetson_is_refused_here(row):
    """A Jetson engine is compiled on the device alone: one line says so, the hint what works."""
    with pytest.raises(InputError, match="compiled on the device") as caught:
        targets.require_compilable(row)
    assert row.name in str(caught.value)
    assert "--target cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["cpu", "rtx"])
def test_targets_of_this_machine_are_not_refused(name):
    """cpu and rtx compile on any machine that has their library."""
    targets.require_compilable(targets.target(name))


def test_unknown_target_gets_the_nearest_name():
    """A mistyped target is an input error with a suggestion and the whole list."""
    with pytest.raises(InputError, match="no target named 'orin-nano'") as caught:
        targets.target("orin-nano")
    assert "did you mean 'orin-nano-8gb'" in caught.value.hint
    assert all(name in caught.value.hint for name in targets.TARGETS)


@pytest.mark.parametrize(("is_installed", "expected"), [(True, ("cpu", "rtx")), (False, ("cpu",))])
def test_default_targets_follow_the_installed_libraries(monkeypatch, is_installed, expected):
    """rtx is built by default exactly where one of its modules can be found."""
    found = importlib.machinery.ModuleSpec("any", None) if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    assert targets.default_targets() == expected


def test_rtx_table_is_what_the_library_offers():
    """The compute capabilities of the rtx row are those of the installed TensorRT-RTX."""
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    members = [name[2:] for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    offered = {f"{member[:-1]}.{member[-1]}" for member in members}
    assert set(targets.target("rtx").compute_capabilities) == offered


def test_compute_capabilities_reach_only_a_target_that_chooses():
    """What was asked for rtx is not handed to the CPU, nor to a Jetson, which has exactly one."""
    asked = ("8.9",)
    assert targets.compute_capabilities(targets.target("rtx"), asked) == asked
    assert targets.compute_capabilities(targets.target("cpu"), asked) == ()
    assert targets.compute_capabilities(targets.target("orin-nano-8gb"), asked) == ()
