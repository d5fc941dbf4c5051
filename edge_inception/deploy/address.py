"""A device's address: user, host and port, without characters that mean something to a shell."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass

from edge_inception.errors import InputError

SSH_PORT = 22
_MAX_PORT = 65535
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?)\]|(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An account on a device; ``host`` is a name, an IPv4 or an IPv6 address."""

    user: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != SSH_PORT else "")

    @property
    def known_as(self) -> str:
        """The host's name in known_hosts."""
        return self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"


def parse_address(text: str) -> Address:
    """The address that ``user@host``, ``host:port`` or ``user@[IPv6]:port`` gives.

    Without a user, the address gets the name of the user who runs this program.

    Raises:
        InputError: The text is none of these.
    """
    match = _ADDRESS.fullmatch(text)
    user, ipv6, host, digits = match.groups() if match else ("", "", "", "0")
    port = int(digits or SSH_PORT)
    if not match or not 0 < port <= _MAX_PORT:
        raise InputError(
            f"'{text}' is not a device's address",
            hint="write user@host, user@host:port or user@[IPv6]:port",
        )
    return Address(user=user or getpass.getuser(), host=ipv6 or host, port=port)
