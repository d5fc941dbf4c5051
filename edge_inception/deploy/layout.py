"""The folders of a bundle's versions on a device, and the links to the current version.

``REMOTE_DIR/NAME-TARGET/`` holds a folder for each version, the links ``current`` and ``previous``,
a lock file, and for devices without a network the folders ``wheels-KEY`` and ``venv-KEY``.
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

DEFAULT_FOLDER = "~/edge-inception"
CURRENT, PREVIOUS, LOCK = "current", "previous", ".lock"
_LOCK_TIMEOUT_S = 5.0  # sshd takes a moment to notice that the last connection was dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """The versions of one bundle on one device; ``folder`` is absolute."""

    machine: Machine
    folder: str

    def path(self, name: str) -> str:
        """Path of ``name`` in the folder."""
        return f"{self.folder}/{name}"

    def current(self) -> str | None:
        """The current version, None before the first switch."""
        return self.machine.link(self.path(CURRENT))

    def previous(self) -> str | None:
        """The version that a rollback switches to; None if there is none or its folder is gone."""
        version = self.machine.link(self.path(PREVIOUS))
        return version if version != self.current() and version in self.versions() else None

    def versions(self) -> tuple[str, ...]:
        """The versions that have a folder, complete or not."""
        names = self.machine.names(self.folder)
        return tuple(name for name, is_folder in names.items() if is_folder and is_version(name))

    def switch(self, version: str) -> None:
        """Make ``version`` current in one step; the version that was current becomes previous."""
        before = self.current()
        if before == version:
            return
        if before is not None:
            self.machine.set_link(self.path(PREVIOUS), before)
        self.machine.set_link(self.path(CURRENT), version)

    def rollback_versions(self) -> tuple[str, str]:
        """The version that a rollback makes current, and the one that is current before it.

        Raises:
            DeployFailed: There is no previous version.
        """
        before, version = self.current(), self.previous()
        if before is None or version is None:
            raise DeployFailed(
                f"{self.machine.address}: no previous version in {self.folder} to go back to",
                hint="deploy the bundle that you want: edge-inception deploy ... --bundle FOLDER",
            )
        return version, before

    def rollback(self) -> tuple[str, str]:
        """Swap the versions of ``rollback_versions``, and return them."""
        version, before = self.rollback_versions()
        self.machine.set_link(self.path(CURRENT), version)
        self.machine.set_link(self.path(PREVIOUS), before)
        return version, before

    @contextmanager
    def locked(self, python: str) -> Iterator[None]:
        """Hold the lock of this folder while the block runs; a lost connection frees the lock.

        Raises:
            DeployFailed: Another deploy holds the lock.
        """
        request = agent.Lock(
            folder=self.folder,
            file=LOCK,
            holder=f"{getpass.getuser()}@{socket.gethostname()}",
            timeout_s=_LOCK_TIMEOUT_S,
        )
        with self.machine.asking(python, request, agent.LockResult) as answer:
            if not answer.locked:
                raise DeployFailed(
                    f"{self.machine.address}: another deploy works in {self.folder}: "
                    f"{answer.holder or 'it has just started'}",
                    hint="wait for it; if it hangs, kill that pid on the device",
                )
            yield


def require_path(remote_dir: str) -> None:
    """Refuse a remote folder that is not an absolute path.

    Raises:
        InputError: The path is relative, has ``..``, or holds control characters.
    """
    parts = remote_dir.split("/")
    is_absolute = parts[0] in {"", "~"} and len(parts) > 1
    if not is_absolute or ".." in parts or not remote_dir.isprintable():
        raise InputError(
            f"--remote-dir '{remote_dir}' is not an absolute path",
            hint="begin it with / or ~/, without '..'",
        )


def absolute(machine: Machine, remote_dir: str) -> str:
    """The absolute path of a --remote-dir on the device, where ``~`` is the login's home folder."""
    first, *rest = remote_dir.split("/")
    return "/".join([machine.home() if first else "", *filter(None, rest)])
