"""The folders of a bundle's versions on a device, and the links to the current version.

``REMOTE_DIR/NAME-TARGET/`` holds a folder for each version, the links ``current`` and ``previous``,
a lock file, and for devices without a network the folders ``wheels-KEY`` and ``venv-KEY``.
"""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_inception.deploy import agent
from edge_inception.deploy.connection import DISTRUST, Connection
from edge_inception.deploy.payload import is_version
from edge_inception.errors import DeployFailed, InputError

DEFAULT_FOLDER = "~/edge-inception"
CURRENT, PREVIOUS = "current", "previous"
_LOCK_TIMEOUT_S = 3600.0
_LOCK_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """The versions of one bundle on one device; ``folder`` is absolute."""

    connection: Connection
    folder: str

    def path(self, name: str) -> str:
        """Path of ``name`` in the folder."""
        return f"{self.folder}/{name}"

    def current(self) -> str | None:
        """The current version, None before the first switch."""
        return self._link(self._survey(), CURRENT)

    def versions(self) -> tuple[str, ...]:
        """The versions that have a folder, complete or not."""
        return tuple(filter(is_version, self._survey().folders))

    def switch(self, version: str) -> str | None:
        """Make ``version`` current in one step; return the one that was, which becomes previous."""
        before = self.current()
        if before != version:
            self._set_links(*([(PREVIOUS, before)] if before else []), (CURRENT, version))
        return before

    def rollback_versions(self) -> tuple[str, str]:
        """The version that a rollback makes current, and the one that is current before it.

        Raises:
            DeployFailed: Nothing was deployed, or there is no previous version.
        """
        survey = self._survey()
        before, version = self._link(survey, CURRENT), self._link(survey, PREVIOUS)
        if not any(map(is_version, survey.folders)):
            raise DeployFailed(
                f"nothing was deployed to {self.folder}",
                hint="deploy first, or give the --remote-dir and the bundle that were deployed",
            )
        if not before or not version or version == before or version not in survey.folders:
            raise DeployFailed(
                f"no previous version in {self.folder} to go back to",
                hint="deploy the bundle that you want: edge-inception deploy ... --bundle FOLDER",
            )
        return version, before

    def rollback(self) -> tuple[str, str]:
        """Swap the versions of ``rollback_versions``, and return them."""
        version, before = self.rollback_versions()
        self._set_links((CURRENT, version), (PREVIOUS, before))
        return version, before

    def lock(self, say: Callable[[str], None]) -> None:
        """Take the lock of this folder, and hold it as long as the connection lasts.

        Raises:
            DeployFailed: Another deploy holds the lock for an hour.
        """
        me, named = f"{getpass.getuser()}@{socket.gethostname()}", ""
        last = time.monotonic() + _LOCK_TIMEOUT_S
        while other := self.connection.ask(
            agent.lock, folder=self.folder, holder=me, timeout_s=_LOCK_POLL_S
        ):
            if time.monotonic() > last:
                raise DeployFailed(
                    f"another deploy works in {self.folder}: {other}",
                    hint="wait for it; if it hangs, kill that pid on the device",
                )
            if other != named:
                say(f"waiting: another deploy works in {self.folder}: {other}")
                named = other

    def _survey(self) -> agent.Survey:
        return self.connection.ask(agent.survey, folder=self.folder, names=[])

    def _link(self, survey: agent.Survey, name: str) -> str | None:
        target = survey.links.get(name, "")
        return target if is_version(target) else None

    def _set_links(self, *links: tuple[str, str]) -> None:
        self.connection.ask(agent.switch, folder=self.folder, links=links)


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


def absolute(connection: Connection, remote_dir: str) -> str:
    """The absolute path of a --remote-dir on the device, where ``~`` is the login's home folder.

    Raises:
        DeployFailed: The device gives a home folder that is no path.
    """
    first, *rest = remote_dir.split("/")
    home = connection.device.home
    if not home.startswith("/") or not home.isprintable():
        raise DeployFailed(f"{home!r} is no home folder", hint=DISTRUST)
    return "/".join([home.rstrip("/") if first else "", *filter(None, rest)])
