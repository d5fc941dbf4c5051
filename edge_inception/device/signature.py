"""The signature of a manifest, in minisign's format: Ed25519 over the file's BLAKE2b-512.

A signature proves who made the bundle only if the public key and the program that checks it did not
come with the bundle: a changed bundle may bring a changed device.py. The package ``cryptography``
or the tool ``minisign`` checks the signature; if a key is given and neither is installed, the check
is refused.
This file travels to devices: Python 3.6 syntax, standard library.

Source: "minisign: signature format" of jedisct1.github.io/minisign.
"""

import base64
import binascii
import hashlib
import importlib
import os
import shutil
import subprocess
from typing import Any, List, NamedTuple, Optional

from edge_inception.device import errors, manifest
from edge_inception.device.errors import Refusal

KEY_ALGORITHM, SIGNATURE_ALGORITHM = b"Ed", b"ED"
KEY_ID_BYTES = 8
_HEAD_BYTES = len(KEY_ALGORITHM) + KEY_ID_BYTES
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_GET_AGAIN = "get the bundle again, and its maker's public key from another place than the bundle"


class Signature(NamedTuple):
    """The parts of a signature file; ``comment_signature`` signs ``signature`` and ``comment``."""

    key_id: bytes
    signature: bytes
    comment: str
    comment_signature: bytes


def check(bundle: Any, public_key: Optional[str]) -> str:
    """One line on the state of the signature; empty for an unsigned bundle if no key is given.

    Raises:
        Refusal: A key was given, and the bundle is not signed, is signed by another key, or cannot
            be checked on this machine.
    """
    path = os.path.join(bundle.root, manifest.SIGNATURE)
    if not os.path.exists(path):
        if public_key is None:
            return ""
        raise Refusal("the bundle is not signed", "make it with --sign, or leave --public-key out")
    if public_key is None:
        return "signed, not checked: give the maker's key with --public-key"
    crypto = _import_ed25519()
    if crypto is not None:
        signed, key = read_signature(path), read_public_key(public_key)
        return _check_ed25519(crypto, bundle.content, signed, key)
    if shutil.which("minisign"):
        return _check_with_minisign(bundle.content, path, public_key)
    raise Refusal(
        "the signature cannot be checked: neither the package cryptography (2.6 or later) nor "
        "minisign is installed",
        "sudo apt-get install python3-cryptography, or check it where you unpacked the bundle: "
        "minisign -Vm manifest.json -x manifest.json.sig -p KEY.pub",
        errors.LIBRARY_MISSING,
    )


def read_signature(path: str) -> Signature:
    """The parts of the signature file at ``path``; a file of another format is refused."""
    lines = _read_lines(path, 4)
    first, last = _decode(lines[1]), _decode(lines[3])
    is_whole = len(first) == _HEAD_BYTES + _SIGNATURE_BYTES and len(last) == _SIGNATURE_BYTES
    lead, label, comment = lines[2].partition("trusted comment: ")
    if not is_whole or not first.startswith(SIGNATURE_ALGORITHM) or lead or not label:
        raise Refusal("{} is not a signature of minisign's format".format(path), _GET_AGAIN)
    key_id = first[len(SIGNATURE_ALGORITHM) : _HEAD_BYTES]
    return Signature(key_id, first[_HEAD_BYTES:], comment, last)


def read_public_key(path: str) -> bytes:
    """Key id and Ed25519 key of minisign's public key file, 8 + 32 bytes, or a refusal."""
    content = _decode(_read_lines(path, 2)[1])
    if len(content) != _HEAD_BYTES + _KEY_BYTES or not content.startswith(KEY_ALGORITHM):
        raise Refusal("{} is not a public key of minisign's format".format(path), _GET_AGAIN)
    return content[len(KEY_ALGORITHM) :]


def digest(content: bytes) -> bytes:
    """BLAKE2b-512 of a manifest; the signature signs this digest."""
    return hashlib.blake2b(content).digest()


def _read_lines(path: str, count: int) -> List[str]:
    """The lines of a file of minisign; no lines but empty ones if it has not ``count`` lines."""
    try:
        with open(path, encoding="ascii") as stream:
            lines = stream.read().splitlines()
    except (OSError, ValueError) as error:
        raise Refusal("cannot read {}: {}".format(path, error), "check the path") from error
    is_file = len(lines) == count and lines[0].startswith("untrusted comment: ")
    return lines if is_file else [""] * count


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _import_ed25519() -> Any:
    try:
        return importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ImportError:
        return None


def _check_ed25519(crypto: Any, content: bytes, signature: Signature, key: bytes) -> str:
    invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    verifier = crypto.Ed25519PublicKey.from_public_bytes(key[KEY_ID_BYTES:])
    if signature.key_id != key[:KEY_ID_BYTES]:
        raise Refusal("the manifest is signed by another key: its key id differs", _GET_AGAIN)
    try:
        verifier.verify(signature.signature, digest(content))
        verifier.verify(
            signature.comment_signature, signature.signature + signature.comment.encode()
        )
    except invalid as error:
        raise Refusal("the manifest is not what this key signed", _GET_AGAIN) from error
    return "signed by this key: {}".format(signature.comment)


def _check_with_minisign(content: bytes, path: str, public_key: str) -> str:
    done = subprocess.run(
        ["minisign", "-Vm", "/dev/stdin", "-x", path, "-p", public_key],
        input=content,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        raise Refusal("the manifest is not what this key signed", _GET_AGAIN)
    return "signed by this key (minisign)"
