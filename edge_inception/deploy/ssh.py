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
_OPTIONS = {
    "LogLevel": "ERROR",
    "ConnectTimeout": "20",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "ControlMaster": "no",  # a master would stay in the background and keep our pipes open
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
}


class ConnectionLost(DeployFailed):
    """The connection broke, or data arrived damaged; a new connection can resume the work."""


class LoginRefused(DeployFailed):
    """The host key is unknown or the keys are refused; where ssh can ask a person, it may work."""


# What ssh prints -> the error, its message and its hint
_ERRORS: tuple[tuple[str, type[DeployFailed], str, str], ...] = (
    (
        "is marked as revoked",
        DeployFailed,
        "host key is marked @revoked in known_hosts",
        "do not use this device before its host keys are made anew: ssh-keygen -A",
    ),
    (
        r"(?s)HAS CHANGED.*?(?P<key>SHA256:[\w+/]+)(.*(?P<remove>ssh-keygen [^\r\n]+))?",
        DeployFailed,
        "host key changed: it shows {key}, known_hosts has another",
        "another machine, or set up again; only if you know why: {remove}, then deploy again",
    ),
    (
        "Host key verification failed",
        LoginRefused,
        "unknown host key: it is not in known_hosts",
        (
            "run {by_hand} and say yes, but only if on the device's own console "
            "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub prints the same SHA256"
        ),
    ),
    (
        "Permission denied|Too many authentication failures",
        LoginRefused,
        "login refused: none of our keys is accepted",
        "ssh-copy-id, --identity FILE, or for a passphrase ssh-add FILE; see why: {by_hand}",
    ),
    (
        "Could not resolve hostname",
        DeployFailed,
        "no host of that name: {last}",
        "give a name that DNS, /etc/hosts or ~/.ssh/config knows",
    ),
    (
        "",
        ConnectionLost,
        "cannot connect: {last}",
        "is it on, is sshd running there, is the port right?",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Key files of a login; None stands for those that ssh finds by itself.

    ``identity`` is the file of a private key, ``known_hosts`` a file of host keys.
    """

    identity: Path | None = None
    known_hosts: Path | None = None

    def options(self) -> dict[str, str]:
        """Options of ssh for these files, which a shared connection would not honour."""
        options: dict[str, str] = {}
        if self.identity:
            options |= {"IdentityFile": _quoted(self.identity), "IdentitiesOnly": "yes"}
        if self.known_hosts:
            options["UserKnownHostsFile"] = _quoted(self.known_hosts)
            options["GlobalKnownHostsFile"] = "/dev/null"
        return options | ({"ControlPath": "none"} if options else {})


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
    batch = {} if is_asking else {"BatchMode": "yes"}
    # Without terminal, agent forwarding and X11. The shell there gets one word for each of ours.
    more = ("-T", "-a", "-x", *_words(batch | _OPTIONS))
    return [*_login(address, access, more), shlex.join(words)]


def login_error(address: Address, access: Access, text: str) -> DeployFailed:
    """The error for a login that ended with ``text`` on ssh's stderr."""
    last = (text.strip().splitlines() or ["it does not answer"])[-1].removeprefix("ssh: ")
    by_hand = shlex.join(_login(address, access))
    for pattern, kind, message, hint in _ERRORS:
        if found := re.search(pattern, text):
            facts = {"last": last, "by_hand": by_hand, **found.groupdict("remove it there")}
            return kind(message.format(**facts), hint=hint.format(**facts))
    raise AssertionError  # the last pattern fits every text


def _login(address: Address, access: Access, more: Sequence[str] = ()) -> list[str]:
    user = ["-l", address.user] if address.user else []
    port = ["-p", str(address.port)] if address.port else []
    return ["ssh", *more, *_words(access.options()), *user, *port, "--", address.host]


def _words(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _quoted(path: Path) -> str:
    """The absolute path as ssh reads file names; % would start one of its own placeholders."""
    return '"' + str(path.absolute()).replace("%", "%%") + '"'
