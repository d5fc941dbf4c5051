"""The command line of the system's ``ssh``, and what its errors mean."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_inception.deploy.address import Address
from edge_inception.errors import BackendMissing, DeployFailed, InputError

# ~/.ssh/config says the rest: keys, jump hosts, names, and whether unknown host keys are accepted.
_OPTIONS = (
    "LogLevel=ERROR",
    "ConnectTimeout=20",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ControlMaster=no",  # a master would stay in the background and keep our pipes open
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
)
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]+")
_KEYGEN = re.compile(r"ssh-keygen -f .+")


class ConnectionLost(DeployFailed):
    """The connection broke, or data arrived damaged; a new connection can resume the work."""


class LoginRefused(DeployFailed):
    """The host key is unknown or the keys are refused; where ssh can ask a person, it may work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Key files of a login; None stands for those that ssh finds by itself.

    ``identity`` is the file of a private key, ``known_hosts`` a file of host keys.
    """

    identity: Path | None = None
    known_hosts: Path | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of ssh for these files, which a shared connection would not honour."""
        files: dict[str, str] = {}
        if self.identity:
            files |= {"IdentityFile": _quoted(self.identity), "IdentitiesOnly": "yes"}
        if self.known_hosts:
            files |= {
                "UserKnownHostsFile": _quoted(self.known_hosts),
                "GlobalKnownHostsFile": "/dev/null",
            }
        if files:
            files["ControlPath"] = "none"
        return tuple(word for name, value in files.items() for word in ("-o", f"{name}={value}"))


def require(access: Access) -> None:
    """Refuse to start without ssh, or with key files that are missing.

    Raises:
        BackendMissing: There is no ``ssh``.
        InputError: A file is missing, or ssh cannot be told its name.
    """
    if shutil.which("ssh") is None:
        raise BackendMissing(
            "deploy needs ssh, which is not installed", hint="sudo apt install openssh-client"
        )
    files = ((access.identity, "--identity"), (access.known_hosts, "--known-hosts"))
    for path, option in files:
        if path is not None and not path.is_file():
            raise InputError(f"no file {path}", hint=f"{option} names another file")
        if path is not None and re.search(r'["\\]|\$\{', str(path)):
            raise InputError(f"ssh cannot read {path}", hint='rename it without ", \\ and ${')


def command(
    address: Address, access: Access, words: Sequence[str], *, is_asking: bool
) -> list[str]:
    """The command line that runs ``words`` on a device.

    Args:
        address: The device.
        access: Key files.
        words: The command there and its arguments.
        is_asking: Whether ssh may ask for passwords and host keys on the terminal.
    """
    batch = () if is_asking else ("BatchMode=yes",)
    options = [word for option in (*batch, *_OPTIONS) for word in ("-o", option)]
    # Without terminal, agent forwarding and X11. The shell there gets one word for each of ours.
    return [
        *("ssh", "-T", "-a", "-x", *options, *access.arguments, *_destination(address)),
        shlex.join(words),
    ]


def login_error(address: Address, access: Access, text: str) -> DeployFailed:
    """The error for a login that ended with ``text`` on ssh's stderr."""
    by_hand = shlex.join(["ssh", *access.arguments, *_destination(address)])
    if "is marked as revoked" in text:
        return DeployFailed(
            f"{address}: host key is marked @revoked in known_hosts",
            hint="do not use this device before its host keys are made anew: ssh-keygen -A",
        )
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in text:
        shown, remove = _FINGERPRINT.search(text), _KEYGEN.search(text)
        return DeployFailed(
            f"{address}: host key changed: known_hosts has another than {shown and shown[0]}",
            hint="another machine, or one that was set up again; only if you know why: "
            f"{remove[0] if remove else 'remove it from known_hosts'}, then deploy again",
        )
    if "Host key verification failed" in text:
        return LoginRefused(
            f"{address}: unknown host key: it is not in known_hosts",
            hint="on the device's own console run: for key in /etc/ssh/ssh_host_*.pub; do "
            f"ssh-keygen -lf $key; done; only if one is the same, say yes here to: {by_hand}",
        )
    if re.search("Permission denied|Too many authentication failures", text):
        return LoginRefused(
            f"{address}: login refused: none of our keys is accepted",
            hint="ssh-copy-id, or --identity FILE; a key with a passphrase goes to the agent first:"
            f" ssh-add FILE; see why: {by_hand}",
        )
    reason = (text.strip().splitlines() or ["it does not answer"])[-1].removeprefix("ssh: ")
    if "Could not resolve hostname" in text:
        return DeployFailed(
            f"{address}: no host of that name: {reason}",
            hint="give a name that DNS, /etc/hosts or ~/.ssh/config knows",
        )
    return ConnectionLost(
        f"{address}: cannot connect: {reason}",
        hint="is it on, is sshd running there, is the port right?",
    )


def _destination(address: Address) -> list[str]:
    user = ["-l", address.user] if address.user else []
    port = ["-p", str(address.port)] if address.port else []
    return [*user, *port, "--", address.host]


def _quoted(path: Path) -> str:
    """The absolute path as ssh reads file names; % would start one of its own placeholders."""
    return '"' + str(path.absolute()).replace("%", "%%") + '"'
