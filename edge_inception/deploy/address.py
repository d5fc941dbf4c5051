"""A device's address: user, host and port, without characters that mean something to a shell."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_inception.errors import InputError

_MAX_PORT = 65535
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?)\]|(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An account on a device; ``host`` is a name, an IPv4 or an IPv6 address.

    Where ``user`` or ``port`` is None, ssh takes it from ~/.ssh/config or has a default.
    """

    user: str | None
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")
        )


def parse_address(text: str) -> Address:
    """The address that ``user@host``, ``host:port`` or ``user@[IPv6]:port`` gives.

    Raises:
        InputError: The text is none of these.
    """
    match = _ADDRESS.fullmatch(text)
    user, ipv6, host, digits = match.groups() if match else ("", "", "", "")
    port = int(digits) if digits else None
    if not match or not (port is None or 0 < port <= _MAX_PORT):
        raise InputError(
            f"'{text}' is not a device's address",
            hint="write user@host, user@host:port or user@[IPv6]:port",
        )
    return Address(user=user, host=ipv6 or host, port=port)
