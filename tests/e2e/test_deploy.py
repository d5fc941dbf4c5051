"""A real bundle on a device that is a folder of this machine, behind a real sshd."""

from __future__ import annotations

import json

import pytest

from edge_inception.cli import main

pytestmark = pytest.mark.slow


def test_a_real_bundle_is_built_and_proved_over_ssh(deploy, built, workshop, tmp_path, capsys):
    """Its engine is built there, verified and measured, and the records come back."""
    command = ["bundle", "--from", str(built), "--recipe", str(workshop.recipe), "--golden", "4"]
    assert main.run([*command, "--target", "cpu", "--out", str(tmp_path / "bundles")]) == 0
    capsys.readouterr()
    archive = tmp_path / "bundles" / "inception_v4-cpu.tar.gz"
    assert deploy(archive, "--json") == 0, deploy.err
    (device,) = json.loads(deploy.out)["devices"]
    results = tmp_path / device["results"]
    verified = json.loads((results / "results" / "verify.json").read_text())
    assert (verified["status"], verified["bundle"]["version"]) == ("PASSED", device["version"])
    assert json.loads((results / "results" / "bench.json").read_text())["runs"][0]["n"] >= 300
    (facts,) = (results / "engine").glob("*.json")
    assert json.loads(facts.read_text())["sha256"] == verified["engine"]["sha256"]
    root = deploy.device / "inception_v4-cpu"
    assert str((root / "current").readlink()) == device["version"]
    assert "verify: PASSED: this device answers as it was validated" in deploy.err
    golden = root / device["version"] / "golden.npz"
    golden.write_bytes(golden.read_bytes()[:-1])
    assert deploy(archive) == 0, deploy.err
    assert "build: unchanged" in deploy.err
