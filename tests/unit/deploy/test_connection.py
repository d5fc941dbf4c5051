"""Logging in, and connections that break; over a real sshd and a proxy that cuts."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from loopback import SSH_KEYGEN, free_port, make_key, version_of, write_bundle

from edge_inception.cli import main
from edge_inception.deploy import run

SIZE = 12_000_000
WINDOW = 2 << 20  # what sshd lets a channel have on its way; lost with the connection
OLD_PYTHONS = sorted(Path("/").glob("root/.pyenv/versions/3.[68].*/bin/python3"))


# A shell that runs pytest in the background leaves SIGINT ignored, and children inherit that.
AT_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from edge_inception.cli.main import main
main()
"""


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch):
    monkeypatch.setattr(run, "_RETRY_DELAYS_S", (0.01, 0.01, 0.01))


def lines(text):
    return [line for line in text.splitlines() if line.startswith(("error: ", "hint: "))]


def test_an_unknown_host_key_is_refused(deploy, bundle, monkeypatch):
    """Nothing is sent or asked; the hint's command adds the key where a person says yes."""
    (deploy.here / "ask").write_text(f"#!/bin/sh\ntouch {deploy.here}/asked\n")
    (deploy.here / "ask").chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(deploy.here / "ask"))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    deploy.known_hosts.write_text("")
    assert deploy(bundle) == 7
    assert not (deploy.here / "asked").exists()
    error, hint = lines(deploy.err)
    assert "unknown host key" in error
    assert not list(deploy.device.iterdir())
    program, *more = shlex.split(hint.removeprefix("hint: run ").partition(" and say yes")[0])
    yes = ("-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR")
    subprocess.run([program, *yes, *more, "true"], check=True)
    assert deploy(bundle) == 0


def test_a_changed_host_key_is_refused(deploy, bundle):
    """Another key than known_hosts has: its fingerprint is shown, and the hint's command works."""
    other = make_key(deploy.here / "other")
    deploy.known_hosts.write_text(deploy.sshd.host_line(deploy.sshd.port, other))
    assert deploy(bundle) == 7
    error, hint = lines(deploy.err)
    assert "host key changed" in error
    command = [SSH_KEYGEN, "-lf", str(deploy.sshd.folder / "host_key.pub")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.split()[1] in error
    assert not list(deploy.device.iterdir())
    remove = hint.partition("only if you know why: ")[2].removesuffix(", then deploy again")
    subprocess.run(shlex.split(remove), check=True, capture_output=True)
    assert deploy.known_hosts.read_text() == ""


def test_a_revoked_host_key_is_refused(deploy, bundle):
    """A key that is marked as revoked counts more than that it is known."""
    line = deploy.sshd.host_line(deploy.sshd.port)
    deploy.known_hosts.write_text(f"{line}@revoked * {' '.join(line.split()[1:])}\n")
    assert deploy(bundle) == 7
    assert "@revoked" in lines(deploy.err)[0]


def test_only_the_named_known_hosts_count(deploy, bundle):
    """With --known-hosts, a key in the file of ssh's configuration is not enough."""
    (deploy.here / "others").write_text(deploy.known_hosts.read_text())
    (deploy.here / "ssh_config").write_text(f"UserKnownHostsFile {deploy.here}/others\n")
    deploy.known_hosts.write_text("")
    assert deploy(bundle, "--dry-run") == 7
    assert "unknown host key" in deploy.err


@pytest.mark.parametrize("kind", ["stranger", "locked"])
def test_a_key_that_does_not_work_is_refused(deploy, bundle, kind):
    """One that the device does not know, and one with a passphrase; the hint says what to do."""
    key = make_key(deploy.here / "stranger")
    if kind == "locked":
        key = deploy.here / "locked"
        shutil.copy(deploy.sshd.identity, key)
        command = [SSH_KEYGEN, "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)]
        subprocess.run(command, check=True)
    assert deploy(bundle, "--identity", str(key)) == 7
    error, hint = lines(deploy.err)
    assert "login refused" in error
    assert "ssh-copy-id" in hint
    assert "ssh-add" in hint


def test_the_configuration_of_ssh_counts(deploy, bundle):
    """A name, port, user, key and jump host of ~/.ssh/config, where the command line has none."""
    (deploy.here / "ssh_config").write_text(
        f"""
        Host nano jump
          HostName 127.0.0.1
          Port {deploy.sshd.port}
          IdentityFile "{deploy.sshd.identity}"
          UserKnownHostsFile "{deploy.known_hosts}"
        Host nano
          ProxyJump jump
          RemoteCommand touch {deploy.here}/canary
          RequestTTY force
          ControlMaster auto
          ControlPath {tempfile.mkdtemp(dir="/tmp")}/%C
          ControlPersist 60
        """
    )
    command = ["deploy", "nano", "--bundle", str(bundle), "--remote-dir", str(deploy.device)]
    assert main.run([*command, "--out", str(deploy.here / "deployed")]) == 0
    assert deploy.current() == version_of(bundle)
    assert "nano: " in deploy.capsys.readouterr().out


def test_a_person_may_say_yes(deploy, bundle):
    """On a terminal ssh asks about an unknown host key, and for the passphrase of a key."""
    deploy.known_hosts.write_text("")
    key = deploy.here / "locked"
    shutil.copy(deploy.sshd.identity, key)
    command = [SSH_KEYGEN, "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)]
    subprocess.run(command, check=True)
    arguments = deploy.arguments(bundle, "--dry-run", "--identity", str(key))
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", AT_A_TERMINAL, *arguments])  # noqa: S606
    shown = b""
    for question, answer in (
        (b"yes/no", b"yes\n"),
        (b"passphrase", b"secret\n"),
        (b"PLANNED", b""),
    ):
        while question not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, answer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    assert deploy.known_hosts.read_text().startswith("[127.0.0.1]:")


@pytest.mark.parametrize("option", ["--identity", "--known-hosts"])
def test_key_files_are_read_first(deploy, bundle, option):
    """A key file or known_hosts that is not there is an input error."""
    assert deploy(bundle, option, str(deploy.here / "absent")) == 3
    assert "absent" in deploy.err


def test_a_device_that_is_off(deploy, bundle):
    """A port where nobody listens is one line, at once, without trying again."""
    assert deploy(bundle, ports=(free_port(),)) == 7
    assert "cannot connect" in lines(deploy.err)[0]
    assert "trying again" not in deploy.err


@pytest.mark.parametrize("python", ["no-such-python", "/nowhere/python3"])
def test_no_python_there(deploy, bundle, python):
    """A device without that Python is told so."""
    assert deploy(bundle, "--python", python) == 7
    error, hint = lines(deploy.err)
    assert f"no {python} there" in error
    assert "--python" in hint


def test_a_python_that_cannot(deploy, bundle):
    """What is no Python of today is refused with its own last line."""
    fake = deploy.here / "python"
    fake.write_text("#!/bin/sh\necho 'Unknown option: -I' >&2\nexit 2\n")
    fake.chmod(0o755)
    assert deploy(bundle, "--python", str(fake)) == 7
    assert "Unknown option: -I" in lines(deploy.err)[0]


@pytest.mark.skipif(not OLD_PYTHONS, reason="no Python 3.6 or 3.8 of pyenv here")
@pytest.mark.parametrize("python", OLD_PYTHONS, ids=lambda path: path.parts[-3])
def test_old_pythons_do(deploy, bundle, python):
    """The Pythons of JetPack 4 and 5 run what deploy sends."""
    assert deploy(bundle, "--python", str(python)) == 0, deploy.err
    assert deploy.current() == version_of(bundle)


def test_a_copy_survives_a_dropped_connection(deploy, proxy, tmp_path):
    """Cut in the middle of a file, twice: it goes on where it stopped, and all arrives."""
    bundle = write_bundle(tmp_path / "bundle", weight=os.urandom(SIZE))
    through = proxy(SIZE // 2, SIZE // 3)
    deploy.trust(through.port)
    assert deploy(bundle, ports=(through.port,)) == 0, deploy.err
    assert len(through.passed) == 3
    assert deploy.err.count("connection lost") == 2
    arrived = deploy.root / version_of(bundle) / "graphs" / "strong.onnx"
    assert arrived.read_bytes() == (bundle / "graphs" / "strong.onnx").read_bytes()
    arrived_before = SIZE // 2 - WINDOW + SIZE // 3 - WINDOW
    assert arrived_before > 0
    assert SIZE // 6 < through.passed[2] < SIZE - arrived_before


def test_a_line_that_always_breaks_is_given_up(deploy, proxy, bundle):
    """After some attempts without headway it fails, says what to do, and keeps what was sent."""
    through = proxy(*[60_000, *[6000] * 20])
    deploy.trust(through.port)
    assert deploy(bundle, ports=(through.port,)) == 7
    error, hint = lines(deploy.err)
    assert "connection lost" in error or "cannot connect" in error
    assert len(through.passed) == 1 + 3
    part = deploy.root / version_of(bundle) / "graphs" / "strong.onnx.part"
    size = part.stat().st_size
    assert 0 < size < 200_000
    assert not (deploy.root / "current").exists()
    assert "run the same command again" in hint or "is it on" in hint
    assert deploy(bundle, "--json") == 0, deploy.err
    assert json.loads(deploy.out)["devices"][0]["bytes_sent"] < 200_000


def test_a_wrong_beginning_is_not_continued(deploy, bundle):
    """An unfinished copy that is not how the file begins is written anew."""
    folder = deploy.root / version_of(bundle) / "graphs"
    folder.mkdir(parents=True)
    (folder / "strong.onnx.part").write_bytes(b"x" * 1000)
    assert deploy(bundle) == 0
    assert "trying again" not in deploy.err
    assert (folder / "strong.onnx").read_bytes() == (bundle / "graphs/strong.onnx").read_bytes()


def test_a_right_beginning_is(deploy, bundle):
    """One that is, gets only the rest."""
    folder, content = (
        deploy.root / version_of(bundle) / "graphs",
        (bundle / "graphs" / "strong.onnx").read_bytes(),
    )
    folder.mkdir(parents=True)
    (folder / "strong.onnx.part").write_bytes(content[:150_000])
    assert deploy(bundle, "--json") == 0
    others = sum(p.stat().st_size for p in bundle.glob("*") if p.is_file())
    assert json.loads(deploy.out)["devices"][0]["bytes_sent"] == others + 50_000


def test_a_build_does_not_outlive_its_connection(deploy, proxy, tmp_path):
    """Cut during the build: it is stopped there, so that the next attempt builds alone."""
    bundle = write_bundle(tmp_path / "bundle", build={"sleep": 2})
    through = proxy()
    deploy.trust(through.port)

    def cut():
        while "build" not in deploy.calls(bundle):
            time.sleep(0.05)
        through.cut_all()

    cutter = threading.Thread(target=cut)
    cutter.start()
    assert deploy(bundle, ports=(through.port,)) == 0, deploy.err
    cutter.join()
    calls = deploy.calls(bundle)
    assert (calls.count("build"), calls.count("end build")) == (2, 1)
    assert len(through.passed) == 2


def test_ctrl_c_stops_the_build_there_too(deploy, tmp_path):
    """An interrupt ends at once with 130, and leaves no build running on the device."""
    bundle = write_bundle(tmp_path / "bundle", build={"sleep": 60})
    command = [sys.executable, "-c", AT_A_TERMINAL, *deploy.arguments(bundle)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as here:
        while "build" not in deploy.calls(bundle):
            assert here.poll() is None
            time.sleep(0.05)
        here.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert here.wait(timeout=30) == 130
        assert "Traceback" not in here.stderr.read()
    while deploy.is_running(bundle, "build"):
        assert time.monotonic() - asked < 45
        time.sleep(0.05)
    assert "end build" not in deploy.calls(bundle)
    assert not (deploy.root / "current").is_symlink()
