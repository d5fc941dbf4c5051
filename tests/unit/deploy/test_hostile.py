"""Devices that are broken or hostile: each is its own FAILED, and the others are deployed to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import pytest
from loopback import Deploy, version_of, write_bundle

from edge_inception.cli import main
from edge_inception.deploy import connection, run, transfer

ESCAPES = "\x1b]0;title\x07\x1b[2J\rfine\u202e\nPASSED: 1 of 1 device"
# A Python that runs deploy's program; that of a hostile device defines a function of it anew.
PYTHON = """\
#!{python} -S
import os, sys
if "-c" not in sys.argv:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
device = int(os.environ["DEVICE"])
os.makedirs({here!r} + "/device%d" % device, exist_ok=True)
os.chdir({here!r} + "/device%d" % device)
program = sys.argv[-1].replace("if __name__ ==", {patches!r}[device] + "\\nif __name__ ==")
exec(compile(program, "agent", "exec"), {{"__name__": "__main__"}})
"""


@dataclass
class Fleet:
    """Devices that ssh knows as device0, device1 and so on; device0 is as it should be."""

    one: Deploy

    def require_own_failures(self, bundle: Path, *patches: tuple[str, str]) -> str:
        """Deploy to device0 and one device for each (what its program does, why it fails).

        Returns:
            What was printed on stderr.
        """
        here, python, names = self.one.here, self.one.here / "python", []
        config = f"UserKnownHostsFile {self.one.known_hosts}\nHostName 127.0.0.1\n"
        config += f"IdentityFile {self.one.sshd.identity}\nPort {self.one.sshd.port}\n"
        for index in range(1 + len(patches)):
            names.append(f"device{index}")
            config += f"Host {names[-1]}\n  SetEnv DEVICE={index}\n"
        (here / "ssh_config").write_text(config)
        programs = ["", *(patch for patch, _ in patches)]
        python.write_text(PYTHON.format(python=sys.executable, here=str(here), patches=programs))
        python.chmod(0o755)
        options = ["--bundle", str(bundle), "--python", str(python), "--remote-dir", "~/d"]
        options += ["--out", str(here / "deployed"), "--json"]
        assert main.run(["deploy", *reversed(names), *options]) == 7
        out, err = self.one.capsys.readouterr()
        *failed, passed = json.loads(out)["devices"]
        assert passed["status"] == "PASSED", err
        assert (here / "device0/d/solar-cpu/current").is_symlink()
        for (patch, reason), result in zip(reversed(patches), failed, strict=True):
            assert result["status"] == "FAILED", patch
            assert reason in result["error"], patch
        assert [str(path.parents[2].name) for path in here.glob("*/d/*/current")] == ["device0"]
        return str(err)


@pytest.fixture
def fleet(deploy, monkeypatch) -> Fleet:
    monkeypatch.setattr(run, "_RETRY_DELAYS_S", (0.01, 0.01))
    return Fleet(deploy)


def test_an_answer_that_is_none(fleet, bundle):
    """Odd bytes, nesting without end, wrong types: FAILED with one line, and no traceback."""
    nested = """b'{"value":' + b'[' * 100000 + b'}\\n'"""
    shown = fleet.require_own_failures(
        bundle,
        (r"""def survey(**_): os.write(1, b'{"value": "\xff"}\n'); return 0""", "not JSON"),
        (f"def survey(**_): os.write(1, {nested}); return 0", "not JSON"),
        ("def survey(**_): return Survey({}, 1, {}, 1)", "at folders: got int, wanted list"),
        ("def survey(**_): return float('nan')", "not JSON"),
        (r"def run(**_): return '0\x1b[2J'", "got str, wanted int"),
        (r"def lock(**_): raise OSError(1, '\ud800\x1b[2J')", r"\ud800\x1b[2J"),
        ("def lock(**_): os._exit(3)", "cannot run what deploy asks"),
        (
            r"def main(): _answer(value=DeviceInfo('', '', '/\n')); sys.stdin.read()",
            "no home folder",
        ),
        ("def main(): sys.exit(255)", "cannot connect"),
    )
    assert "Traceback" not in shown
    assert "\x1b" not in shown


def test_a_flood_is_cut_off(fleet, bundle):
    """Output without end, in lines or without, costs 8 MiB and not the memory of this machine."""
    reason, before = "it answers with over 8 MiB", getrusage(RUSAGE_SELF).ru_maxrss
    fleet.require_own_failures(
        bundle,
        ("def run(**_):\n  while True: _answer(line='x' * 3000)", reason),
        ("def run(**_):\n  while True: os.write(1, bytes(60000))", reason),
        ("def survey(**_):\n  while True: os.write(2, b'x\\n' * 30000)", reason),
        ("def main():\n  while True: os.write(1, b'\\n' * 60000)", reason),
    )
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_device_that_never_answers(fleet, bundle, monkeypatch):
    """Silence, and signs of life without end, are limited in time; so is a copy."""
    monkeypatch.setattr(connection, "_ANSWER_S", 3.0)
    monkeypatch.setattr(connection, "_LONG_S", 3.0)
    reason = "no answer in time"
    fleet.require_own_failures(
        bundle,
        ("def survey(**_): time.sleep(20)", reason),
        ("def survey(**_):\n  while True: _answer(); time.sleep(0.1)", reason),
        ("def receive(**_): time.sleep(20)", reason),
    )


def test_a_device_cannot_name_files_here(fleet, bundle):
    """A record's name with a slash would have it written anywhere here."""
    names = ("results/../../../outside.json", "/outside.json", "engine/.json", "engine/a\nb.json")
    programs = [f"def fetch(**_): return {{{name!r}: '{{}}'}}" for name in names]
    fleet.require_own_failures(bundle, *((each, "no record's name") for each in programs))
    assert not list(fleet.one.here.rglob("*outside.json"))


def test_a_bug_of_one_device_is_its_own(fleet, bundle, monkeypatch):
    """An exception that nobody expected ends one deploy; its traceback is printed."""
    real = transfer.copy

    def copy(to, *rest):
        if "device1" in to.device.home:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd byte")
        real(to, *rest)

    monkeypatch.setattr(transfer, "copy", copy)
    shown = fleet.require_own_failures(bundle, ("", "UnicodeDecodeError"))
    assert "device1: Traceback" in shown


def test_odd_bytes_of_a_command_are_replaced(deploy, tmp_path):
    """Bytes that are no UTF-8, a line without end and a process left behind end no deploy."""
    program = "import os, subprocess; os.write(1, b'odd \\xff byte\\n' + bytes(200000))"
    sleeping = "subprocess.Popen(['sleep', '20'])"
    (tmp_path / "odd.py").write_text(f"{program}; {sleeping}")
    bundle = write_bundle(tmp_path / "b", check={"imports": ["odd"], "path": str(tmp_path)})
    started = time.monotonic()
    assert deploy(bundle) == 0, deploy.err
    assert time.monotonic() - started < 15
    assert "check: odd \ufffd byte" in deploy.err
    assert max(map(len, deploy.err.splitlines())) < 5000


def test_a_command_floods(deploy, tmp_path):
    """A line without end of the bundle's own program is cut up there, and ends its deploy."""
    (tmp_path / "odd.py").write_text("import os\nwhile True: os.write(1, b'x' * 60000)")
    bundle = write_bundle(tmp_path / "b", check={"imports": ["odd"], "path": str(tmp_path)})
    assert deploy(bundle) == 7
    assert "it answers with over 8 MiB" in deploy.err


def test_a_device_cannot_steer_the_terminal(deploy, tmp_path):
    """Escape sequences and line breaks of a device arrive as text, also where it fails."""
    forged = {"lines": [ESCAPES], "errors": [f"error: {ESCAPES}"]}
    bundle = write_bundle(tmp_path / "b", check={**forged, "code": 1})
    assert deploy(bundle) == 7
    assert r"check: \x1b]0;title\x07\x1b[2J\rfine\u202e" in deploy.err
    assert not set("\x1b\x07\r\u202e") & set(deploy.err + deploy.out)
    assert deploy.out.splitlines()[-1] == "FAILED: 0 of 1 device"
    assert "PASSED: 1 of 1 device" not in deploy.err.splitlines()


@pytest.mark.parametrize("kind", ["pipe", "large", "link", "many"])
def test_a_record_that_is_none(deploy, bundle, kind):
    """A pipe would be read for ever, 3 GB would fill this machine, a link leads elsewhere."""
    results = deploy.root / version_of(bundle) / "results"
    results.mkdir(parents=True)
    path = results / "x.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/hostname")
    for name in ("x", "y") if kind == "many" else ("x",) if kind == "large" else ():
        (results / f"{name}.json").write_bytes(b"")
        os.truncate(results / f"{name}.json", 3 << 20 if kind == "many" else 3 << 30)
    assert deploy(bundle) == 7
    wanted = {"pipe": "no regular file", "link": "x.json: "}.get(kind, "records of over 4 MiB")
    assert wanted in deploy.err
    assert not (deploy.root / "current").exists()


def test_a_second_deploy_waits(deploy, tmp_path):
    """Two first deploys at once: one says that it waits, and for whom; then both have passed."""
    bundle = write_bundle(tmp_path / "bundle", check={"until": str(tmp_path / "go")})
    program = "from edge_inception.cli.main import main; main()"
    command = [sys.executable, "-c", program, *deploy.arguments(bundle)]
    log = tmp_path / "log"
    with log.open("w") as sink:
        both = [subprocess.Popen(command, stderr=sink) for _ in range(2)]
    try:
        while "waiting: " not in log.read_text():
            assert [each.poll() for each in both] == [None, None], log.read_text()
            time.sleep(0.05)
        assert len(deploy.calls(bundle)) == 1
    finally:
        (tmp_path / "go").touch()
    assert [each.wait(timeout=60) for each in both] == [0, 0]
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("waiting: ")]
    assert f"another deploy works in {deploy.root}: " in line
    assert ", pid " in line


def test_waiting_has_an_end(deploy, bundle, monkeypatch):
    """A lock that is held too long is an error that names its holder; nothing was copied."""
    import fcntl

    from edge_inception.deploy import layout

    monkeypatch.setattr(layout, "_LOCK_TIMEOUT_S", 0.2)
    deploy.root.mkdir(parents=True)
    with (deploy.root / ".lock").open("wb") as lock:
        lock.write(b"ann@desk, since 2026-11-25 10:00:00 UTC, pid 42 \xff\x1b[2J")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert deploy(bundle) == 7
    assert "another deploy works" in deploy.err
    assert "ann@desk, since 2026-11-25 10:00:00 UTC, pid 42 \ufffd\\x1b[2J" in deploy.err
    assert [path.name for path in deploy.root.iterdir()] == [".lock"]
    assert deploy(bundle) == 0
