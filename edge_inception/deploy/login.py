"""A login on a device whose host key is known."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from edge_inception.deploy import hostkeys
from edge_inception.deploy.address import Address
from edge_inception.deploy.hostkeys import HostKey
from edge_inception.deploy.remote import CONNECT_S, ConnectionLost, Machine
from edge_inception.errors import DeployFailed, InputError, listed

_SILENCE_S = 30  # a connection without an acknowledgement for this time is lost
_KEEPALIVE_S = 10
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Key files of a login.

    ``identity`` is the file of a private key; None stands for the ssh agent's keys and the keys in
    ~/.ssh. ``known_hosts`` is a file of host keys; None stands for ~/.ssh/known_hosts and
    /etc/ssh/ssh_known_hosts.
    """

    identity: Path | None = None
    known_hosts: Path | None = None


class _Trusted(paramiko.MissingHostKeyPolicy):
    """Policy that accepts hosts whose key is in known_hosts, and names the key of any other host.

    paramiko asks the policy about every host, since we give paramiko no host keys.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self._address = address
        self._file = _known_hosts(access)[0]
        self._lines = hostkeys.read(_readable(access))
        self._keys = hostkeys.keys_of(address.known_as, self._lines)

    def transport(self, sock: Any, **options: Any) -> paramiko.Transport:
        """A transport that prefers the kinds of key that known_hosts has for the host."""
        transport = paramiko.Transport(sock, **options)
        security = transport.get_security_options()
        security.key_types = hostkeys.preferred(security.key_types, self._keys)
        return transport

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client, hostname
        name, shown = self._address.known_as, HostKey(kind=key.get_name(), blob=key.asbytes())
        if shown in hostkeys.keys_of(name, self._lines, is_revoked=True):
            raise DeployFailed(
                f"{self._address}: host key {shown} is marked @revoked in {self._file}",
                hint="do not use this device before its host keys are made anew: ssh-keygen -A",
            )
        if shown in self._keys:
            return
        if self._keys:
            trusted = listed(str(key) for key in self._keys)
            raise DeployFailed(
                f"{self._address}: host key changed: it shows {shown}, {self._file} has {trusted}",
                hint="another machine, or one that was set up again; only if you know why: "
                f"ssh-keygen -f {shlex.quote(str(self._file))} -R {shlex.quote(name)}, "
                "then deploy again",
            )
        raise DeployFailed(
            f"{self._address}: unknown host key {shown}: it is not in {self._file}",
            hint=_how_to_trust(name, shown, self._file),
        )


def _how_to_trust(name: str, key: HostKey, file: Path) -> str:
    kind = {"ssh-rsa": "rsa", "ssh-ed25519": "ed25519"}.get(key.kind, "ecdsa")
    return (
        f"on the device's own console run: ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub; only "
        f"if it shows the same SHA256, here: echo {shlex.quote(f'{name} {key.text}')} >> "
        f"{shlex.quote(str(file))}"
    )


def _known_hosts(access: Access) -> tuple[Path, ...]:
    if access.known_hosts is not None:
        return (access.known_hosts,)
    return (Path("~/.ssh/known_hosts").expanduser(), _SYSTEM_KNOWN_HOSTS)


def require(access: Access) -> None:
    """Refuse a key file or a known_hosts file that cannot be read, before any connection is made.

    Raises:
        InputError: A file is missing or cannot be read.
    """
    if access.identity is not None and not access.identity.is_file():
        raise InputError(f"no key file {access.identity}", hint="--identity names a private key")
    try:
        hostkeys.read(_readable(access))
    except OSError as error:
        raise InputError(
            f"cannot read known hosts: {error}", hint="--known-hosts names another file"
        ) from error


def connect(address: Address, access: Access) -> Machine:
    """Log in to a device whose host key is known.

    Raises:
        DeployFailed: The device cannot be reached, its host key is unknown, revoked or changed, or
            it accepts none of our keys.
    """
    client = paramiko.SSHClient()
    trusted = _Trusted(address, access)
    client.set_missing_host_key_policy(trusted)
    try:
        with _connecting(address, access):
            client.connect(
                address.host,
                port=address.port,
                username=address.user,
                key_filename=str(access.identity) if access.identity else None,
                look_for_keys=access.identity is None,
                sock=_socket(address),
                transport_factory=trusted.transport,
                timeout=CONNECT_S,
                banner_timeout=CONNECT_S,
                auth_timeout=CONNECT_S,
            )
            transport = client.get_transport()
            assert transport is not None  # connect has just made it
            transport.set_keepalive(_KEEPALIVE_S)
        return Machine(address, client)
    except BaseException:
        client.close()
        raise


def _readable(access: Access) -> list[Path]:
    """The known_hosts files; default files that do not exist are left out."""
    return [path for path in _known_hosts(access) if access.known_hosts or path.is_file()]


def _socket(address: Address) -> socket.socket:
    """A connection that the kernel closes when the device is silent, since paramiko would not."""
    connection = socket.create_connection((address.host, address.port), timeout=CONNECT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_S * 1000)
    return connection


@contextmanager
def _connecting(address: Address, access: Access) -> Iterator[None]:
    """Turn the failures of a login into DeployFailed, whose hint says what to do."""
    try:
        yield
    except paramiko.PasswordRequiredException as error:
        raise DeployFailed(
            f"{address}: the private key {access.identity or 'of ~/.ssh'} has a passphrase",
            hint="give it to the agent first: ssh-add FILE",
        ) from error
    except paramiko.AuthenticationException as error:
        raise DeployFailed(
            f"{address}: login refused: none of our keys is accepted for {address.user}",
            hint=f"ssh-copy-id -p {address.port} {address.user}@{address.host}, or --identity FILE",
        ) from error
    except socket.gaierror as error:
        raise DeployFailed(
            f"{address}: no host of that name: {error.strerror}",
            hint="give a name that DNS or /etc/hosts knows; ~/.ssh/config is not read",
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise ConnectionLost(
            f"{address}: cannot connect: {str(error) or 'it hung up'}",
            hint="is it on, is sshd running there, is the port right?",
        ) from error
