"""What the doctor finds, with libraries present and absent."""

from __future__ import annotations

import importlib.util

import pytest

from edge_inception.cli import _doctor, main
from edge_inception.engines import _registry as backends


def _by_name() -> dict[str, _doctor.Finding]:
    return {finding.part: finding for finding in _doctor.examine()}


def test_here_the_build_can_run():
    """Where the tests run everything left of the graph is installed, and openvino executes."""
    found = _by_name()
    assert found["checkpoint to engine"].is_ok
    assert "torch" in found["checkpoint to engine"].detail
    assert found["engine openvino"].is_ok
    assert "execute" in found["engine openvino"].detail
    assert {f"engine {name}" for name in backends.backend_names()} <= set(found)


def test_missing_libraries_are_named_with_one_command(monkeypatch):
    """Without torch and onnxsim: both are named, and one command adds them."""
    real = importlib.util.find_spec
    absent = {"torch", "onnxsim", "elpv_dataset"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else real(n))
    found = _by_name()
    build = found["checkpoint to engine"]
    assert not build.is_ok
    assert build.detail == "missing: torch, onnxsim"
    assert build.remedy == "pip install 'edge-inception[compile]'"
    assert found["demo photos"].remedy == "pip install 'edge-inception[demo]'"


@pytest.mark.parametrize("command", ["doctor", "engines", "targets", "models"])
def test_lists_fit_80_columns(command, capsys):
    """No line of a list is wider than a terminal."""
    assert main.run([command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert max(map(len, lines)) <= 80
