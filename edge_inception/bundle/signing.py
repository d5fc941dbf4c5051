"""Signing of a manifest by an Ed25519 key, in minisign's format.

``device.signature`` checks such a signature, and so does
``minisign -Vm manifest.json -x manifest.json.sig -p KEY.pub``.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from edge_inception.artifact import replace_file
from edge_inception.device import manifest, signature
from edge_inception.errors import BackendMissing, InputError

_MAKE_KEY = "make one: openssl genpkey -algorithm ed25519 -out KEY.pem"


def read_key(path: Path) -> Any:
    """The Ed25519 private key in a PEM file without a password.

    Raises:
        BackendMissing: The package cryptography is not installed.
        InputError: The file cannot be read, or holds no such key.
    """
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 -- an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError as error:
        raise BackendMissing(
            "signing needs the package cryptography", hint="pip install 'edge-inception[deploy]'"
        ) from error
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read key {path}: {error}", hint=_MAKE_KEY) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{path} is no Ed25519 key", hint=_MAKE_KEY)
    return key


def sign(content: bytes, key: Any, comment: str) -> str:
    """Text of the signature file for ``content``; the signature covers ``comment`` too."""
    signed = key.sign(signature.digest(content))
    both = key.sign(signed + comment.encode())
    first = base64.b64encode(signature.SIGNATURE_ALGORITHM + _key_id(key) + signed).decode()
    return (
        f"untrusted comment: signature of {manifest.FILE}\n{first}\n"
        f"trusted comment: {comment}\n{base64.b64encode(both).decode()}\n"
    )


def write_public_key(key: Any, path: Path) -> None:
    """Write the public key of ``key`` as a file of minisign.

    Raises:
        InputError: The file cannot be written.
    """
    content = signature.KEY_ALGORITHM + _key_id(key) + key.public_key().public_bytes_raw()
    text = f"untrusted comment: minisign public key\n{base64.b64encode(content).decode()}\n"
    replace_file(path, text.encode("ascii"))


def _key_id(key: Any) -> bytes:
    public = key.public_key().public_bytes_raw()
    return hashlib.sha256(public).digest()[: signature.KEY_ID_BYTES]
