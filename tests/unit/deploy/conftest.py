"""A device that is a folder of this machine, behind a real sshd on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import (
    CONFIG,
    SSH_KEYGEN,
    SSHD,
    Deploy,
    Proxy,
    Sshd,
    free_port,
    make_key,
    wait_for,
    write_bundle,
)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    """OpenSSH's sshd with its own keys and configuration; nothing of the machine's is touched."""
    if not SSHD or not SSH_KEYGEN:
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
        server.wait(timeout=10)


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
def deploy(sshd, tmp_path, capsys) -> Deploy:
    """Ready to log in: the host key is known."""
    device = tmp_path / "device"
    device.mkdir()
    made = Deploy(sshd, tmp_path, device, capsys)
    made.trust()
    return made


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle of 200 kB that passes."""
    return write_bundle(tmp_path / "bundle")
