"""Publication of a finished bundle folder, and its reproducible archive."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edge_inception.device import errors, manifest
from edge_inception.errors import InputError


def publish_folder(temporary: Path, folder: Path, *, force: bool) -> bool:
    """Rename the finished bundle ``temporary`` to ``folder``; ``force`` replaces what is there.

    Returns:
        Whether the folder is new; False where it holds the same bundle already.

    Raises:
        InputError: ``folder`` exists and is not this bundle, and ``force`` is off.
    """
    if not folder.exists():
        temporary.rename(folder)
        return True
    if not force:
        if _is_same_bundle(temporary, folder):
            return False
        raise InputError(f"{folder} is there already and is another bundle", hint="use --force")
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    folder.rename(old / folder.name)
    temporary.rename(folder)
    shutil.rmtree(old)
    return True


def _is_same_bundle(temporary: Path, folder: Path) -> bool:
    """Whether ``folder`` is a complete bundle with the manifest and signature of ``temporary``."""
    try:
        manifest.open_bundle(str(folder))
    except errors.Refusal:
        return False
    names = (manifest.FILE, manifest.SIGNATURE)
    return all(
        _read_if_present(temporary / name) == _read_if_present(folder / name) for name in names
    )


def _read_if_present(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@contextmanager
def temporary_beside(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, removed at the end unless it was renamed by then."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_archive(folder: Path, path: Path) -> None:
    """Write the bundle in a folder as a .tar.gz whose bytes depend on the bundle alone.

    Only the manifest, its signature and the files that it lists are packed, so engines and records
    that were made in the folder stay out.
    """
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in _listed_files(folder):
            inside = file.relative_to(folder)
            member = tarfile.TarInfo(f"{folder.name}/{inside.as_posix()}")
            content = file.read_bytes()
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))


def _listed_files(folder: Path) -> Sequence[Path]:
    names = manifest.open_bundle(str(folder)).record.files
    own = (folder / name for name in (manifest.FILE, manifest.SIGNATURE))
    paths = [*(folder / name for name in names), *(path for path in own if path.exists())]
    return sorted(paths, key=Path.as_posix)
