"""systemd units, read back and checked by systemd itself where it is installed."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess

import pytest

from edge_inception.bundle.serving import systemd
from edge_inception.errors import BackendMissing, Inconclusive, InputError

ANALYZE = shutil.which("systemd-analyze")
CLOCKS = "edge-inception-clocks.service"
NOT_HERE = "Command /usr/bin/jetson_clocks is not executable"


def read(text):
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read_string(text)
    return parser


def values(text, key):
    """Every value of a key that may stand more than once."""
    return re.findall(rf"^{key}=(.*)$", text, flags=re.MULTILINE)


def service(served):
    return systemd.render(served)[f"systemd/{served.name}.service"]


def test_engine_is_checked_and_built_before_it_is_proved(served):
    """In this order: the folder as root, check, build, then the golden inputs as the user."""
    text = service(served())
    folder, check, build = values(text, "ExecStartPre")
    assert folder.startswith("+/usr/bin/install -d ")
    assert folder.endswith("/engine")
    assert (check.split()[-1], build.split()[-1]) == ("check", "build")
    (start,) = values(text, "ExecStart")
    assert start == "/usr/bin/python3 device.py verify"
    assert int(read(text)["Service"]["TimeoutStartSec"]) >= 1800  # the default is 90 s


def test_unit_waits_for_power_mode_and_clocks(served):
    """jetson_clocks pins the clocks of the power mode in force, so nvpmodel comes first."""
    files = systemd.render(served())
    unit = read(files["systemd/solar.service"])["Unit"]
    assert unit["After"].split() == ["nvpmodel.service", CLOCKS]
    assert unit["Wants"] == CLOCKS
    clocks = read(files[f"systemd/{CLOCKS}"])
    assert clocks["Unit"]["After"] == "nvpmodel.service"
    assert clocks["Service"]["Type"] == "oneshot"


def test_user_is_not_root_and_may_use_the_gpu(served):
    """video and render own the GPU's files; JetPack 4 has no group render to join."""
    part = read(service(served("orin-nx-16gb")))["Service"]
    assert part["User"] not in {"", "root", "0"}
    assert part["SupplementaryGroups"].split() == ["video", "render"]
    assert part["NoNewPrivileges"] == "yes"
    old = read(service(served("xavier-nx-8gb")))["Service"]
    assert old["SupplementaryGroups"] == "video"


def test_failure_is_tried_again_unless_it_is_final(served):
    """An unclear measurement is tried again, not a broken bundle or a missing library."""
    text = service(served())
    part, unit = read(text)["Service"], read(text)["Unit"]
    assert part["Restart"] == "on-failure"
    final = {int(code) for code in part["RestartPreventExitStatus"].split()}
    assert {InputError.exit_code, BackendMissing.exit_code} <= final
    assert Inconclusive.exit_code not in final
    # Builds that fail after an hour each must still be counted together.
    longest = int(unit["StartLimitBurst"]) * int(part["TimeoutStartSec"])
    assert 0 < longest < int(unit["StartLimitIntervalSec"])


def test_systemd_of_jetpack_4_knows_every_key(served):
    """systemd 237 refuses Restart= of a oneshot service and does not know Type=exec."""
    part = read(service(served()))["Service"]
    assert part["Type"] == "simple"
    assert part["RemainAfterExit"] == "yes"


@pytest.mark.parametrize("target", ["cpu", "rtx"])
def test_pc_has_no_clocks_to_pin(served, target):
    """Without a JetPack there is neither nvpmodel nor jetson_clocks, nor a group to join."""
    files = systemd.render(served(target))
    assert list(files) == ["systemd/solar.service"]
    assert "nvpmodel" not in files["systemd/solar.service"]
    assert "SupplementaryGroups" not in files["systemd/solar.service"]


@pytest.mark.skipif(not ANALYZE, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["solar", "Solar_v4.int8-orin"])
def test_systemd_accepts_the_units(served, tmp_path, name):
    """systemd-analyze verify finds nothing but that this machine is no Jetson."""
    said = verify(systemd.render(served(name=name)), tmp_path)
    assert [line for line in said if NOT_HERE not in line] == []


@pytest.mark.skipif(not ANALYZE, reason="systemd is not installed")
def test_systemd_would_say_so(served, tmp_path):
    """The check above can fail: a misspelled key is reported."""
    files = systemd.render(served())
    files["systemd/solar.service"] = files["systemd/solar.service"].replace("Restart=", "Restrat=")
    assert any("Restrat" in line for line in verify(files, tmp_path))


def verify(files, folder):
    paths = []
    for name, text in files.items():
        paths.append(folder / name.rpartition("/")[2])
        paths[-1].write_text(text, encoding="utf-8")
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line]
