"""What a deploy leaves on a device, and how versions follow each other; over a real sshd."""

from __future__ import annotations

import json
import os

import pytest
from loopback import HOME, free_port, make_archive, version_of, write_bundle

STEPS = ["check", "build", "verify --out results/verify.json", "bench --out results/bench.json"]


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_bundle_is_copied_proved_and_switched_to(deploy, bundle):
    """Every file arrives as it is, the steps run in order, and current is the version."""
    assert deploy(bundle) == 0, deploy.err
    there = files_of(deploy.root / version_of(bundle))
    assert there.items() >= files_of(bundle).items()
    assert not [name for name in there if name.endswith(".part")]
    assert [call for call in deploy.calls(bundle) if not call.startswith("end")] == STEPS
    assert deploy.current() == version_of(bundle)
    assert "verify: verify is fine" in deploy.err.splitlines()
    assert deploy.out.splitlines()[-1] == "PASSED: 1 of 1 device"


def test_results_come_back(deploy, bundle):
    """The records of verify and bench and the engine's facts lie here; --json says where."""
    assert deploy(bundle, "--json") == 0
    record = json.loads(deploy.out)
    (device,) = record["devices"]
    assert (record["status"], device["status"], device["error"]) == ("PASSED", "PASSED", None)
    assert (device["version"], device["before"], device["p50_ms"]) == (
        version_of(bundle),
        None,
        12.5,
    )
    found = files_of(deploy.here / "deployed")
    (folder,) = {name.rsplit("/", 2)[0] for name in found}
    assert str(deploy.here / "deployed" / folder) == device["results"]
    names = {name.removeprefix(folder + "/") for name in found}
    assert names == {"results/verify.json", "results/bench.json", "engine/abc.engine.json"}
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    assert device["bytes_sent"] == size


def test_again_sends_nothing(deploy, bundle):
    """A second deploy of the same bundle finds every file there, and proves it again."""
    assert deploy(bundle) == 0
    assert deploy(bundle, "--json") == 0
    (device,) = json.loads(deploy.out)["devices"]
    assert (device["bytes_sent"], device["before"]) == (0, version_of(bundle))
    assert len(deploy.calls(bundle)) == 2 * 2 * len(STEPS)
    assert not (deploy.root / "previous").is_symlink()


def test_a_changed_file_is_copied_again(deploy, bundle):
    """A file of which one bit was flipped on the device is sent once more, and no other."""
    assert deploy(bundle) == 0
    path = deploy.root / version_of(bundle) / "graphs" / "strong.onnx"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert deploy(bundle, "--json") == 0
    assert path.read_bytes() == good
    assert json.loads(deploy.out)["devices"][0]["bytes_sent"] == len(good)


def test_every_damage_is_seen(deploy, bundle):
    """A file that is shorter, gone or only a link to the right bytes is written anew."""
    assert deploy(bundle) == 0
    folder = deploy.root / version_of(bundle)
    os.truncate(folder / "device.py", 10)
    (folder / "manifest.json").unlink()
    (folder / "graphs" / "strong.onnx").unlink()
    (folder / "graphs" / "strong.onnx").symlink_to(bundle / "graphs" / "strong.onnx")
    assert deploy(bundle) == 0, deploy.err
    assert files_of(folder).items() >= files_of(bundle).items()
    assert not (folder / "graphs" / "strong.onnx").is_symlink()


def test_the_next_version_and_back(deploy, tmp_path):
    """A new version becomes current and the old one previous; --rollback swaps them, both ways."""
    first, second = (write_bundle(tmp_path / name) for name in ("one", "two"))
    assert deploy(first) == 0
    assert deploy(second) == 0
    assert f"{version_of(second)} is current, was {version_of(first)}" in deploy.out
    assert "1 other version kept" in deploy.out
    calls = deploy.calls(first)
    for version, other in ((first, second), (second, first)):
        assert deploy(second, "--rollback") == 0, deploy.err
        assert deploy.current() == version_of(version)
        assert str((deploy.root / "previous").readlink()) == version_of(other)
    assert deploy.calls(first) == calls


def test_no_rollback_without_a_previous_version(deploy, bundle, tmp_path):
    """Before a first deploy, after only one, and where the previous folder was removed: refused."""
    assert deploy(bundle, "--rollback") == 7
    assert "nothing was deployed" in deploy.err
    assert not list(deploy.device.iterdir())
    assert deploy(bundle) == 0
    assert deploy(bundle, "--rollback") == 7
    assert "no previous version" in deploy.err
    other = write_bundle(tmp_path / "other")
    assert deploy(other) == 0
    (deploy.root / version_of(bundle)).rename(deploy.root / "removed")
    assert deploy(other, "--rollback") == 7
    assert deploy.current() == version_of(other)


@pytest.mark.parametrize("step", ["check", "build", "verify", "bench"])
def test_a_failing_step_switches_nothing(deploy, tmp_path, step):
    """The version that was current stays; the device's own error and fix are ours."""
    old = deploy.root / "0123456789ab"
    old.mkdir(parents=True)
    (deploy.root / "current").symlink_to(old.name)
    behaviour = {"code": 6, "errors": ["error: top-1 differs", "fix: build it again"]}
    bad = write_bundle(tmp_path / "bad", **{step: behaviour})
    assert deploy(bad) == 7
    assert deploy.current() == old.name
    wanted = f"error: 127.0.0.1:{deploy.sshd.port}: {step} failed with exit code 6: "
    assert f"{wanted}top-1 differs\nhint: build it again\n" in deploy.err
    assert [call for call in deploy.calls(bad) if not call.startswith("end")][-1].startswith(step)
    assert deploy.out.splitlines()[-1] == "FAILED: 0 of 1 device"


def test_the_record_of_a_failed_verify_comes_back(deploy, tmp_path):
    """Its checks say what differs, so they are fetched; those of an earlier day are not."""
    bad = write_bundle(tmp_path / "bad", verify={"code": 6})
    results = deploy.root / version_of(bad) / "results"
    results.mkdir(parents=True)
    (results / "bench.json").write_text("{}")
    assert deploy(bad) == 7
    assert {path.name for path in (deploy.here / "deployed").rglob("*.json")} == {
        "verify.json",
        "abc.engine.json",
    }


def test_dry_run_changes_nothing(deploy, bundle):
    """It says what would be sent and where, and leaves no file anywhere."""
    assert deploy(bundle, "--dry-run") == 0, deploy.err
    assert not list(deploy.device.iterdir())
    assert not (deploy.here / "deployed").exists()
    assert f"would send 4 files, 0.2 MiB, to {deploy.root}/{version_of(bundle)}" in deploy.err
    assert deploy.out.splitlines()[-1] == "PLANNED: 1 of 1 device"


def test_dry_run_of_a_rollback(deploy, tmp_path):
    """It names the version to switch back to, changes nothing, and refuses where rollback would."""
    first, second = (write_bundle(tmp_path / name) for name in ("one", "two"))
    assert deploy(first) == 0
    assert deploy(second, "--rollback", "--dry-run") == 7
    assert deploy(second) == 0
    assert deploy(second, "--rollback", "--dry-run") == 0, deploy.err
    assert f"would switch back from {version_of(second)} to {version_of(first)}" in deploy.err
    assert f"would make {version_of(first)} current" in deploy.out
    assert "would send" not in deploy.err
    assert deploy.current() == version_of(second)


def test_home_is_the_default(deploy, bundle):
    """``~`` of --remote-dir is the home of the login, as the device says."""
    assert deploy(bundle, "--dry-run", "--remote-dir", "~/a b/c") == 0
    assert f"{HOME}/a b/c/solar-cpu/" in deploy.err


def test_an_archive_is_as_good(deploy, bundle, tmp_path):
    """The .tar.gz of a bundle deploys what its folder would."""
    assert deploy(make_archive(bundle, tmp_path / "b.tar.gz")) == 0, deploy.err
    assert files_of(deploy.root / version_of(bundle)).items() >= files_of(bundle).items()


def test_one_failing_device_stops_no_other(deploy, bundle):
    """Of two devices one is off: the other is deployed to, and the exit code tells."""
    off = free_port()
    deploy.trust(off)
    assert deploy(bundle, "--json", ports=(off, deploy.sshd.port)) == 7
    first, second = json.loads(deploy.out)["devices"]
    assert (first["status"], second["status"]) == ("FAILED", "PASSED")
    assert "cannot connect" in first["error"]
    assert deploy.current() == version_of(bundle)
    assert f"127.0.0.1:{deploy.sshd.port}: check: check is fine" in deploy.err
