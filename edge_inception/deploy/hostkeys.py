"""Trusted host keys in known_hosts, read as OpenSSH reads them.

paramiko's own reader fails on a file that holds ``@revoked`` or ``@cert-authority``, does not
support patterns, and reads only one key per host.

Source: "SSH_KNOWN_HOSTS FILE FORMAT" of sshd(8).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_HASHED, _REVOKED = "|1|", "@revoked"
# Kind of key -> signature algorithms to accept for it; the algorithm ssh-rsa would sign with SHA-1.
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A host's public key; ``kind`` is its type such as ``ssh-ed25519``, ``blob`` its bytes."""

    kind: str
    blob: bytes

    def __str__(self) -> str:
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return f"{self.kind} SHA256:{digest.rstrip('=')}"

    @property
    def text(self) -> str:
        """Kind and key in base64, as a line of known_hosts has them after the host names."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of known_hosts: patterns of host names, a key, and whether the key is revoked."""

    patterns: tuple[str, ...]
    key: HostKey
    is_revoked: bool


def read(paths: Iterable[Path]) -> tuple[Line, ...]:
    """Lines of the files, except those of certificate authorities and those that cannot be parsed.

    Raises:
        OSError: A file cannot be read.
    """
    return tuple(
        line
        for path in paths
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in _parsed(text.split())
    )


def keys_of(name: str, lines: Iterable[Line], *, is_revoked: bool = False) -> list[HostKey]:
    """The trusted keys of a host, or with ``is_revoked`` its revoked keys.

    Args:
        name: The host, as ``[host]:port`` where the port is not 22.
        lines: Lines of known_hosts.
        is_revoked: Whether to return the revoked keys.
    """
    chosen = [line for line in lines if line.is_revoked == is_revoked]
    return [line.key for line in chosen if _is_for(line.patterns, name)]


def preferred(offered: Iterable[str], keys: Iterable[HostKey]) -> list[str]:
    """The offered algorithms, where those of the host's known keys come first."""
    known = {name for key in keys for name in _ALGORITHMS.get(key.kind, (key.kind,))}
    return sorted(offered, key=lambda name: name not in known)


def _parsed(words: list[str]) -> Iterator[Line]:
    is_revoked = words[:1] == [_REVOKED]
    names, kind, blob, *_ = (*words[is_revoked:], "", "", "")
    if not blob or names[0] in "#@":
        return
    try:
        key = HostKey(kind=kind, blob=base64.b64decode(blob, validate=True))
    except binascii.Error:
        return
    yield Line(patterns=tuple(names.split(",")), key=key, is_revoked=is_revoked)


def _is_for(patterns: Iterable[str], name: str) -> bool:
    """Whether a pattern matches ``name``, and no pattern negated by ``!`` does."""
    is_negated = any(_fits(each[1:], name) for each in patterns if each.startswith("!"))
    return not is_negated and any(_fits(each, name) for each in patterns)


def _fits(pattern: str, name: str) -> bool:
    if pattern.startswith(_HASHED):
        return _fits_hashed(pattern, name)
    # A bracket is part of a name here, as in [host]:port, and not a set of characters.
    return fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


def _fits_hashed(pattern: str, name: str) -> bool:
    """Whether ``pattern``, which is ``|1|salt|HMAC-SHA1(salt, name)`` in base64, is of ``name``."""
    salt, _, digest = pattern.removeprefix(_HASHED).partition("|")
    try:
        wanted = base64.b64decode(digest, validate=True)
        actual = hmac.digest(base64.b64decode(salt, validate=True), name.encode(), "sha1")
    except binascii.Error:
        return False
    return hmac.compare_digest(actual, wanted)
