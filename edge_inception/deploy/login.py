"""A login on a device whose host key is known."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import InvalidHostKey

from edge_inception.deploy.address import Address
from edge_inception.deploy.remote import CONNECT_S, ConnectionLost, Machine
from edge_inception.errors import DeployFailed, InputError

_SILENCE_S = 30  # what was sent and is not acknowledged for so long was lost
_KEEPALIVE_S = 10
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to log in: key file (else the agent's and ~/.ssh's), and the keys that hosts must have.

    ``known_hosts`` None is ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.
    """

    identity: Path | None = None
    known_hosts: Path | None = None


class _Unknown(paramiko.MissingHostKeyPolicy):
    """Refuse a host that known_hosts does not list, and show its key."""

    def __init__(self, address: Address, access: Access) -> None:
        self._address, self._access = address, access

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client
        raise DeployFailed(
            f"{self._address}: unknown host key {_shown(key)}: it is not in "
            f"{_known_hosts(self._access)[0]}",
            hint=_how_to_trust(hostname, key, self._access),
        )


def _shown(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def _how_to_trust(name: str, key: paramiko.PKey, access: Access) -> str:
    line = shlex.quote(f"{name} {key.get_name()} {key.get_base64()}")
    file = shlex.quote(str(_known_hosts(access)[0]))
    return (
        "on the device's own console run: ssh-keygen -lf /etc/ssh/ssh_host_"
        f"{key.get_name().partition('-')[2].partition('-')[0]}_key.pub; only if it shows the same "
        f"SHA256, here: echo {line} >> {file}"
    )


def _known_hosts(access: Access) -> tuple[Path, ...]:
    if access.known_hosts is not None:
        return (access.known_hosts,)
    return (Path("~/.ssh/known_hosts").expanduser(), _SYSTEM_KNOWN_HOSTS)


def require(access: Access) -> None:
    """Refuse a key file or known hosts that cannot be read, before any device is bothered.

    Raises:
        InputError: They cannot.
    """
    if access.identity is not None and not access.identity.is_file():
        raise InputError(f"no key file {access.identity}", hint="--identity names a private key")
    try:
        for path in _readable(access):
            paramiko.HostKeys(str(path))
    except (OSError, UnicodeDecodeError, InvalidHostKey) as error:
        raise InputError(
            f"cannot read known hosts: {error}", hint="--known-hosts names another file"
        ) from error


def connect(address: Address, access: Access) -> Machine:
    """Log in to a device whose host key is known.

    Raises:
        DeployFailed: It cannot be reached, its host key is unknown or another, or it takes none of
            our keys.
    """
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Unknown(address, access))
    for path in _readable(access):
        client.load_system_host_keys(str(path))
    try:
        with _connecting(address, access):
            client.connect(
                address.host,
                port=address.port,
                username=address.user,
                key_filename=str(access.identity) if access.identity else None,
                look_for_keys=access.identity is None,
                sock=_socket(address),
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
    """The files of known hosts, less the usual ones that are not there."""
    return [path for path in _known_hosts(access) if access.known_hosts or path.is_file()]


def _socket(address: Address) -> socket.socket:
    """A connection that the kernel gives up when the other side is silent: paramiko never would."""
    found = socket.create_connection((address.host, address.port), timeout=CONNECT_S)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_S * 1000)
    return found


@contextmanager
def _connecting(address: Address, access: Access) -> Iterator[None]:
    """Turn what can go wrong before a login into errors that say what to do."""
    try:
        yield
    except paramiko.BadHostKeyException as error:
        file = _known_hosts(access)[0]
        raise DeployFailed(
            f"{address}: host key changed: it shows {_shown(error.key)}, {file} has "
            f"{_shown(error.expected_key)}",
            hint="another machine, or one that was set up again; only if you know why: ssh-keygen "
            f"-f {shlex.quote(str(file))} -R {shlex.quote(address.known_as)}, then deploy again",
        ) from error
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
