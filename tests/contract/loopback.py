"""A real sshd on loopback, a proxy that cuts connections, and a bundle whose device.py is tiny."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_inception.cli import main
from edge_inception.device import manifest, measure, records

_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SSHD = shutil.which("sshd", path=_SBIN)
SSH, SSH_KEYGEN = shutil.which("ssh") or "", shutil.which("ssh-keygen") or ""
HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
# The key exchange that costs least: each test logs in anew.
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv HOME={folder}
AcceptEnv DEVICE
KexAlgorithms curve25519-sha256
LogLevel VERBOSE
"""

# What the tiny device.py does, told by files in its folder: "lines of COMMAND" and its exit code.
_DEVICE = """\
import importlib, json, os, sys, time
command = sys.argv[1]
with open(command + ".pid", "w") as own:
    own.write(str(os.getpid()))
with open("calls.log", "a") as log:
    log.write(" ".join([command, *sys.argv[2:]]) + "\\n")
plan = json.load(open("behaviour.json")).get(command, {})
sys.path.append(plan.get("path", "."))
time.sleep(plan.get("sleep", 0))
while "until" in plan and not os.path.exists(plan["until"]):
    time.sleep(0.02)
with open("calls.log", "a") as log:
    log.write("end " + command + "\\n")
for name in plan.get("imports", []):
    importlib.import_module(name)
for line in plan.get("lines", [command + " is fine"]):
    print(line)
for line in plan.get("errors", []):
    print(line, file=sys.stderr)
if command == "build":
    os.makedirs("engine", exist_ok=True)
    open("engine/abc.engine", "wb").write(b"plan")
    json.dump({"sha256": "x"}, open("engine/abc.engine.json", "w"))
if "--out" in sys.argv and not plan.get("silent"):
    os.makedirs("results", exist_ok=True)
    record = json.dumps(json.load(open("behaviour.json"))["record"])
    open(sys.argv[sys.argv.index("--out") + 1], "w").write(record)
sys.exit(plan.get("code", 0))
"""


_GRAPH = manifest.Graph(
    file="graphs/strong.onnx", tensorrt=("10.0", ""), typing="strong", precision="int8",
    float_rest="fp16", input="input", output="logits", input_shape=[1, 3, 8, 8],
    profile=manifest.Profile(1, 1, 1),
)  # fmt: skip
_MANIFEST = manifest.Manifest(
    name="solar",
    made_with={},
    model="inception_v4",
    precision="int8",
    head="logits",
    num_classes=2,
    preprocess=manifest.Preprocess((8, 8)),
    target=manifest.Target("cpu", "this CPU", "openvino", [], ("", ""), None, 0),
    graphs=[_GRAPH],
    build=manifest.BuildOptions(
        None, None, allow_gpu_fallback=True, builder_optimization_level=None
    ),
    gates=manifest.Gates(),
    verdict="PASSED",
    golden=manifest.Golden(0, manifest.Tolerance(30.0, 30.0, 1.0, 2)),
    files={},
)
_BENCH = measure.Bench(
    created_utc="2026-11-25T19:00:00Z",
    tool={},
    bundle=manifest.Identity("solar", "0123456789ab"),
    model=measure.Model("inception_v4", "ab", [1, 3, 8, 8]),
    engines={
        "A": measure.TimedEngine(
            sha256="x", bytes=4, sm=None, precision="int8", dla_core=None, key="k",
            graph_sha256="ab", build_s=0.1, backend="openvino", plan_trt=None, typed="strong",
            batch=1, build_id="2026-11-25T19:00:00Z", int8_layers=1,
        )
    },
    device=measure.Device(
        **{
            **dict.fromkeys(measure.Device._fields),
            **dict.fromkeys(("machine", "system", "python", "container", "hostname_hash"), ""),
        }
    ),
    protocol=measure.Conditions(
        runner="python", spin_wait=False, cuda_graph=False, metric="host_to_host_ms",
        input_sha256="ef", batch=1, **measure.Protocol()._asdict(),
    ),
    runs=[measure.summarize_run([12.5], ())],
    fingerprint="0123456789ab",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def make_key(path: Path) -> Path:
    command = [SSH_KEYGEN, "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@dataclass(frozen=True)
class Sshd:
    """A server of the user who runs the tests: its port, host key and the user's key."""

    folder: Path
    port: int

    @property
    def identity(self) -> Path:
        return self.folder / "user_key"

    def host_line(self, port: int, key: Path | None = None) -> str:
        """A line of known_hosts."""
        public = (key or self.folder / "host_key").with_suffix(".pub").read_text()
        return f"[127.0.0.1]:{port} {' '.join(public.split()[:2])}\n"


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert server.poll() is None, log.read_text()
        time.sleep(0.05)
    pytest.fail(f"sshd does not answer: {log.read_text()}")


class Proxy:
    """Forwards to a port; cuts each connection after so many bytes, one number per connection.

    A number of None, and every connection beyond the list, is never cut. ``passed`` counts the
    bytes towards the server, by connection.
    """

    def __init__(self, to: int, cuts: list[int | None]) -> None:
        self._to, self._cuts = to, cuts
        self.passed: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                index = len(self.passed)
                cut = self._cuts[index] if index < len(self._cuts) else None
                self.passed.append(0)
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for pair, counted, limit in (((near, far), index, cut), ((far, near), None, None)):
                    arguments = (*pair, counted, limit)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, counted: int | None, limit: int | None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if counted is not None:
                    self.passed[counted] += len(data)
                    if limit is not None and self.passed[counted] > limit:
                        break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut_all(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for end in self._open:
            end.close()


def write_bundle(folder: Path, *, weight: bytes = b"", **behaviour: Any) -> Path:
    """A bundle of a tiny device.py that does what ``behaviour`` says of each command."""
    (folder / "graphs").mkdir(parents=True)
    (folder / "device.py").write_text(_DEVICE)
    told = {"record": records.plain(_BENCH), **behaviour}
    (folder / "behaviour.json").write_text(json.dumps(told))
    (folder / "graphs" / "strong.onnx").write_bytes(weight or os.urandom(200_000))
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return write_manifest(folder, files)


def write_manifest(folder: Path, files: dict[str, Any], **changed: Any) -> Path:
    record = {**records.plain(_MANIFEST), "files": files, **changed}
    record["version"] = record["version"] or manifest.compute_version(record)
    record["sha256"] = manifest.compute_digest(record)
    (folder / manifest.FILE).write_text(json.dumps(record))
    return folder


def version_of(bundle: Path) -> str:
    return str(json.loads((bundle / manifest.FILE).read_text())["version"])


@dataclass
class Deploy:
    """``edge-inception deploy`` to a device that is a folder of this machine."""

    sshd: Sshd
    here: Path
    device: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    @property
    def root(self) -> Path:
        """The folder of the bundle ``solar`` for ``cpu`` on the device."""
        return self.device / "solar-cpu"

    @property
    def known_hosts(self) -> Path:
        return self.here / "known_hosts"

    def trust(self, *ports: int) -> None:
        lines = [self.sshd.host_line(port) for port in (self.sshd.port, *ports)]
        self.known_hosts.write_text("".join(lines))

    def arguments(self, bundle: Path, *more: str, ports: tuple[int, ...] = ()) -> list[str]:
        """The command line of a deploy to these ports, or to sshd's own."""
        options = {
            "--bundle": bundle,
            "--identity": self.sshd.identity,
            "--known-hosts": self.known_hosts,
            "--remote-dir": self.device,
            "--python": sys.executable,
            "--out": self.here / "deployed",
        }
        given = [str(word) for pair in options.items() for word in pair]
        hosts = [f"127.0.0.1:{port}" for port in ports or (self.sshd.port,)]
        return ["deploy", *hosts, *given, *more]

    def __call__(self, bundle: Path, *more: str, ports: tuple[int, ...] = ()) -> int:
        """Its exit code; what it printed is kept."""
        code = main.run(self.arguments(bundle, *more, ports=ports))
        self.out, self.err = self.capsys.readouterr()
        return code

    def calls(self, bundle: Path) -> list[str]:
        """What device.py of a version was asked, and ``end NAME`` of each that ended."""
        log = self.root / version_of(bundle) / "calls.log"
        return log.read_text().splitlines() if log.exists() else []

    def is_running(self, bundle: Path, command: str) -> bool:
        """Whether device.py of a version is still about ``command``, which it was asked."""
        pid = int((self.root / version_of(bundle) / f"{command}.pid").read_text())
        return Path(f"/proc/{pid}").exists()

    def current(self) -> str:
        return str((self.root / "current").readlink())


def make_archive(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return path


@pytest.fixture(scope="session")
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    """OpenSSH's sshd with its own keys and configuration; nothing of the machine's is touched."""
    if not SSHD or not SSH:
        pytest.skip("no sshd here: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    make_key(folder / "host_key")
    make_key(folder / "user_key")
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    port = free_port()
    (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where root's sshd separates privileges
    command = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stderr=log)
    try:
        wait_for(port, server, folder / "log")
        yield Sshd(folder, port)
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture
def proxy(sshd) -> Iterator[Callable[..., Proxy]]:
    """``proxy(cut, cut, ...)`` in front of sshd."""
    made: list[Proxy] = []

    def start(*cuts: int | None) -> Proxy:
        made.append(Proxy(sshd.port, list(cuts)))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def deploy(sshd, tmp_path, capsys, monkeypatch) -> Deploy:
    """Ready to log in: the host key is known, and ssh reads ``ssh_config`` in place of the user's.

    OpenSSH finds ~ in the list of accounts and not in HOME, so a script of its name adds ``-F``.
    """
    device, programs = tmp_path / "device", tmp_path / "programs"
    device.mkdir()
    programs.mkdir()
    (tmp_path / "ssh_config").write_text("")
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {SSH} -F {tmp_path}/ssh_config "$@"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made = Deploy(sshd, tmp_path, device, capsys)
    made.trust()
    return made


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle of 200 kB that passes."""
    return write_bundle(tmp_path / "bundle")
