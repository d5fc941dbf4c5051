"""Where versions lie on a device, and which of them is current.

``REMOTE_DIR/NAME-TARGET/`` holds one folder per version, the links ``current`` and ``previous``, a
lock, and for devices without a network ``wheels-KEY`` and ``venv-KEY``.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_inception.deploy import agent
from edge_inception.deploy.payload import is_version
from edge_inception.deploy.remote import Machine
from edge_inception.errors import DeployFailed, InputError

DEFAULT = "~/edge-inception"
CURRENT, PREVIOUS, LOCK = "current", "previous", ".lock"
_PATIENCE_S = 5.0  # sshd takes a moment to notice that the last connection was dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """The versions of one bundle on one device; ``folder`` is absolute."""

    machine: Machine
    folder: str

    def of(self, name: str) -> str:
        """The path of something in it."""
        return f"{self.folder}/{name}"

    def current(self) -> str | None:
        """The version that is switched to."""
        return self.machine.link(self.of(CURRENT))

    def previous(self) -> str | None:
        """The version that a rollback goes to; None if there is none, or it was removed."""
        found = self.machine.link(self.of(PREVIOUS))
        return found if found != self.current() and found in self.versions() else None

    def versions(self) -> tuple[str, ...]:
        """Those that have a folder, complete or not."""
        found = self.machine.names(self.folder)
        return tuple(name for name, is_folder in found.items() if is_folder and is_version(name))

    def switch(self, version: str) -> None:
        """Make a version current in one step, and the one before it previous."""
        before = self.current()
        if before == version:
            return
        if before is not None:
            self.machine.set_link(self.of(PREVIOUS), before)
        self.machine.set_link(self.of(CURRENT), version)

    def rollback(self) -> tuple[str, str]:
        """Switch to the previous version, which makes this one previous; both, new one first.

        Raises:
            DeployFailed: There is no previous version.
        """
        before, version = self.current(), self.previous()
        if before is None or version is None:
            raise DeployFailed(
                f"{self.machine.address}: no previous version in {self.folder} to go back to",
                hint="deploy the bundle that you want: edge-inception deploy ... --bundle FOLDER",
            )
        self.machine.set_link(self.of(CURRENT), version)
        self.machine.set_link(self.of(PREVIOUS), before)
        return version, before

    @contextmanager
    def locked(self, python: str) -> Iterator[None]:
        """Alone in this folder while the block runs; the lock goes with the connection.

        Raises:
            DeployFailed: Somebody else deploys.
        """
        request = agent.Lock(
            folder=self.folder,
            file=LOCK,
            holder=f"{getpass.getuser()}@{socket.gethostname()}",
            patience_s=_PATIENCE_S,
        )
        with self.machine.asking(python, request, agent.Locked) as answer:
            if not answer.locked:
                raise DeployFailed(
                    f"{self.machine.address}: another deploy works in {self.folder}: "
                    f"{answer.holder or 'it has just started'}",
                    hint="wait for it; if it hangs, kill that pid on the device",
                )
            yield


def require_path(remote_dir: str) -> None:
    """Refuse what is no absolute path on any device.

    Raises:
        InputError: It is relative, goes up, or holds control characters.
    """
    parts = remote_dir.split("/")
    if (
        parts[0] not in {"", "~"}
        or len(parts) == 1
        or ".." in parts
        or not remote_dir.isprintable()
    ):
        raise InputError(
            f"--remote-dir '{remote_dir}' is not an absolute path",
            hint="begin it with / or ~/, without '..'",
        )


def absolute(machine: Machine, remote_dir: str) -> str:
    """A --remote-dir as the device sees it: ``~`` is where a login starts."""
    first, *rest = remote_dir.split("/")
    return "/".join([machine.home() if first else "", *filter(None, rest)])
