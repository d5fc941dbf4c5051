"""Files to copy to a device: those of a bundle, and wheels for a device without a network."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_inception import artifact
from edge_inception.device import manifest, signature
from edge_inception.device.errors import Refusal
from edge_inception.errors import InputError

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_VERSION = re.compile(rf"[0-9a-f]{{{manifest.VERSION_DIGITS}}}")
_REMAKE = "make it again: edge-inception bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file: its name below the folder on the device, its path here, its size and sha256."""

    name: str
    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A bundle to copy: its name (NAME-TARGET), its version, and its files, the manifest last."""

    name: str
    version: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """Wheels in a folder; ``key`` is a digest of them, ``packages`` are such as ``numpy==2.0``."""

    key: str
    packages: tuple[str, ...]
    items: tuple[Item, ...]


def is_version(name: str) -> bool:
    """Whether a folder's name is a bundle's version."""
    return _VERSION.fullmatch(name) is not None


@contextmanager
def open_payload(bundle: Path, public_key: Path | None = None) -> Iterator[Payload]:
    """The payload of a bundle, whose files are checked against its manifest.

    Args:
        bundle: A bundle's folder or its .tar.gz.
        public_key: minisign's public key file; the manifest must be signed by that key.

    Raises:
        InputError: The path is no bundle, or the bundle was changed, is not signed by that key, or
            names files outside of it.
    """
    if bundle.is_dir():
        yield read_payload(bundle, public_key)
        return
    with tempfile.TemporaryDirectory(prefix="edge-inception-deploy-") as folder:
        yield read_payload(_unpack(bundle, Path(folder)), public_key)


def read_payload(folder: Path, public_key: Path | None = None) -> Payload:
    """The payload of an unpacked bundle, with the checks and errors of ``open_payload``."""
    try:
        bundle = manifest.open_bundle(str(folder))
        if public_key is not None:
            signature.check(bundle, str(public_key))
    except Refusal as error:
        raise InputError(f"{folder}: {error}", hint=error.fix) from error
    record = bundle.record
    name = f"{record.name}-{bundle.target.name}"
    if not _SAFE_NAME.fullmatch(name):
        raise InputError(
            f"{folder}: '{name}' cannot name folders on a device",
            hint="use letters, digits, '.', '_', '+' and '-': edge-inception bundle --name NAME",
        )
    names = [*record.files, *_manifest_files(folder)]
    return Payload(
        name=name,
        version=record.version,
        items=tuple(_read_item(folder / inside, inside) for inside in names),
    )


def read_wheels(folder: Path) -> Wheels:
    """All wheels of a folder.

    Raises:
        InputError: The folder holds no wheel, or a file is not named as wheels are.
    """
    paths = sorted(folder.glob("*.whl"))
    if not paths:
        raise InputError(
            f"{folder} holds no wheels",
            hint="fill it: pip download --only-binary :all: --platform ... --dest DIR PACKAGE",
        )
    for path in paths:
        if not _SAFE_NAME.fullmatch(path.name) or path.name.count("-") not in {4, 5}:
            raise InputError(f"{path} is not named as wheels are", hint="remove or rename it")
    items = tuple(_read_item(path, path.name) for path in paths)
    digest = hashlib.sha256("\n".join(f"{i.name} {i.sha256}" for i in items).encode())
    packages = dict.fromkeys("==".join(path.name.split("-")[:2]) for path in paths)
    key = digest.hexdigest()[: manifest.VERSION_DIGITS]
    return Wheels(key=key, packages=tuple(packages), items=items)


def _manifest_files(folder: Path) -> tuple[str, ...]:
    """Signature and manifest, copied last since device.py refuses a folder without a manifest."""
    signature = (manifest.SIGNATURE,) if (folder / manifest.SIGNATURE).is_file() else ()
    return (*signature, manifest.FILE)


def _read_item(path: Path, name: str) -> Item:
    return Item(name=name, path=path, bytes=path.stat().st_size, sha256=artifact.file_sha256(path))


def _unpack(path: Path, into: Path) -> Path:
    """Unpack a bundle's archive into ``into``, and nowhere else; return the bundle's folder."""
    tops = set()
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if not manifest.is_safe_path(member.name):
                    raise InputError(
                        f"{path}: the archive names '{member.name}', outside of it",
                        hint=_REMAKE,
                    )
                source = archive.extractfile(member) if member.isfile() else None
                if source is None:
                    if member.isdir():
                        continue
                    raise InputError(f"{path}: '{member.name}' is no plain file", hint=_REMAKE)
                target = into / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                tops.add(PurePosixPath(member.name).parts[0])
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"cannot unpack {path}: {error}", hint="give a bundle's folder or its .tar.gz"
        ) from error
    if len(tops) != 1:
        raise InputError(f"{path} holds {len(tops)} folders, wanted one", hint=_REMAKE)
    return into / tops.pop()
