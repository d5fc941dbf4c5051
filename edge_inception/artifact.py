"""Artifacts, files with a sidecar: they are written atomically, and refused if the hash differs.

The sidecar of ``model.onnx`` is ``model.onnx.json``. It records the stage that wrote the file, the
hashes of the stage's inputs, its options and tools, and what it counted. Both files are written to
a temporary name in the same folder, flushed to disk, then renamed, the sidecar last. A crash leaves
either the old pair or a pair whose hash does not match, which is then built again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar, get_type_hints

from edge_inception import records
from edge_inception.errors import InputError
from edge_inception.sidecar import (
    SCHEMA,
    BaselineDetails,
    CacheDetails,
    Details,
    EngineDetails,
    GraphDetails,
    Provenance,
    RangeTableDetails,
    ReportDetails,
    SearchDetails,
    Sidecar,
    SimplifiedDetails,
    TypedDetails,
)

_TEMPORARY_SUFFIX = ".edge-inception.partial"
_OWNER = re.compile(r"\.(\d{1,9})\.[0-9a-f]{8}" + re.escape(_TEMPORARY_SUFFIX))
_BLOCK_BYTES = 1 << 20
_DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_CANNOT_WRITE = frozenset(
    (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
) | {errno.ENAMETOOLONG, errno.ELOOP, errno.EIO}


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file with its sidecar; each kind is a subclass, so that a stage can ask for one kind."""

    kind: ClassVar[str] = "artifact"

    path: Path
    sha256: str
    provenance: Provenance
    counts: Mapping[str, int]
    details: Details


class Graph(Artifact):
    """An ONNX graph as it was exported or imported, before simplification."""

    kind = "graph"
    details: GraphDetails


class SimplifiedGraph(Artifact):
    """An ONNX graph after onnxsim and this project's passes."""

    kind = "simplified graph"
    details: SimplifiedDetails


class TypedGraph(Artifact):
    """An ONNX graph with an explicit precision for every tensor; the only input of compile."""

    kind = "typed graph"
    details: TypedDetails


class RangeTable(Artifact):
    """A JSON file: tensor name -> amax, the largest magnitude that the tensor's int8 represents."""

    kind = "range table"
    details: RangeTableDetails


class SearchResult(Artifact):
    """A JSON file: the groups that an int8 graph keeps in float, and all sets that were scored.

    A group is the tensors that share a scale, with the layers that read them.
    """

    kind = "precision search"
    details: SearchDetails


class CalibrationCache(Artifact):
    """A text file in TensorRT's format, tensor name -> scale, for graphs without Q/DQ nodes."""

    kind = "calibration cache"
    details: CacheDetails


class Baseline(Artifact):
    """An npz file: FP32 logits of the validation images, their labels and hashes."""

    kind = "baseline"
    details: BaselineDetails


class EngineFile(Artifact):
    """An engine, the serialized output of a backend."""

    kind = "engine"
    details: EngineDetails


class Report(Artifact):
    """A JSON file: the measurements and the verdict of one validation."""

    kind = "report"
    details: ReportDetails


A = TypeVar("A", bound=Artifact)
Content = bytes | memoryview | Callable[[Path], None]


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check the path") from error


def sidecar_path(path: Path) -> Path:
    """Path of an artifact's sidecar: ``model.onnx`` -> ``model.onnx.json``."""
    return path.with_name(path.name + ".json")


def publish(
    kind: type[A],
    path: Path,
    content: Content,
    *,
    provenance: Provenance,
    details: Details,
    counts: Mapping[str, int] | None = None,
) -> A:
    """Write an artifact and its sidecar, atomically, and return it; a missing folder is made.

    ``content`` is the bytes, or a function that writes them to the temporary path that it is given.
    The function must write with Python's own files, which report a full disk as OSError; the
    writers of vendors' libraries do not. ``counts`` is what the stage counted, such as
    ``{"conv_quantized": 149}``.

    Raises:
        InputError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    replace_file(path, content)
    record = {
        **records.plain(provenance),
        "schema": SCHEMA,
        "kind": kind.kind,
        "sha256": file_sha256(path),
        "counts": counts or {},
        "details": records.plain(details),
    }
    text = records.to_json(record)
    replace_file(sidecar_path(path), text)
    # parsed again, so that the details have the same types after a fresh run and after a reuse
    return _artifact(kind, path, _parsed(text, sidecar_path(path)))


def write_beside(path: Path, suffix: str, content: Callable[[Path], None]) -> dict[str, str]:
    """Write a second file of the artifact at ``path``, before the artifact itself is published.

    The artifact's old sidecar is deleted before the second file is renamed, so that a crash in
    between leaves nothing that looks complete. ``suffix``, such as ``.npz``, replaces that of the
    artifact in the name of the second file.

    Returns:
        The value of ``details.beside`` to publish the artifact with; ``load`` checks it.

    Raises:
        InputError: As ``publish``; a full disk leaves the old files as they are.
    """

    def write(temporary: Path) -> None:
        content(temporary)
        sidecar_path(path).unlink(missing_ok=True)

    replace_file(path.with_suffix(suffix), write)
    return {suffix: file_sha256(path.with_suffix(suffix))}


def load(kind: type[A], path: Path) -> A:
    """The artifact at ``path``, after its hash and those of the files beside it were checked.

    With ``Artifact`` as ``kind``, an artifact of any kind is loaded.

    Raises:
        InputError: The file or its sidecar is missing, unreadable, or of another kind or schema, or
            a hash differs.
    """
    try:
        if not path.is_file():
            raise InputError(f"{kind.kind} not found: {path}", hint="run the stage that writes it")
        record = _read_sidecar(kind, path, sidecar_path(path))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", hint="check its permissions"
        ) from error
    sha256 = file_sha256(path)
    if sha256 != record.sha256:
        raise InputError(
            f"{path} does not match its sidecar: sha256 {sha256[:12]}, recorded "
            f"{record.sha256[:12]}",
            hint=f"the file was changed after stage '{record.stage}' wrote it; run it again",
        )
    loaded = _artifact(kind, path, record)
    for suffix, wanted in loaded.details.beside.items():
        if file_sha256(path.with_suffix(suffix)) != wanted:
            raise InputError(
                f"{path.with_suffix(suffix)} was not written with {path}",
                hint=f"run stage '{record.stage}' again",
            )
    return loaded


def replace_file(path: Path, content: Content) -> None:
    """Write ``content`` to a temporary file next to ``path``, flush the file, and rename it.

    Raises:
        InputError: The disk or the quota is full, or ``path`` is read-only, a folder or forbidden;
            the old file stays as it was.
    """
    owner = f"{os.getpid()}.{secrets.token_hex(4)}"  # two threads may write the same file
    temporary = path.parent / f".{path.name}.{owner}{_TEMPORARY_SUFFIX}"
    with translate_disk_errors(path):
        try:
            if path.is_dir():  # renaming onto a folder fails too, but the error for `.` is unclear
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an input error that names ``path``, a file or a folder.

    Raises:
        InputError: The disk is full, or nothing can be written there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise InputError(
                f"disk full while writing {path}: {error.strerror}",
                hint="free space, raise the quota, or choose another --out",
            ) from error
        if error.errno in _CANNOT_WRITE:
            raise InputError(
                f"cannot write {path}: {error.strerror}", hint="choose another --out"
            ) from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that were killed; running processes keep theirs."""
    for leftover in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        owner = _OWNER.search(leftover.name)
        if owner and not _is_alive(int(owner[1])):
            leftover.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _read_sidecar(kind: type[A], path: Path, sidecar: Path) -> Sidecar:
    if not sidecar.is_file():
        raise InputError(
            f"{path} has no sidecar {sidecar.name}",
            hint=f"pass a {kind.kind} written by edge-inception, with its .json beside it",
        )
    record = _parsed(sidecar.read_bytes(), sidecar)
    if kind.kind not in {Artifact.kind, record.kind}:
        raise InputError(
            f"{path} is {_with_article(record.kind)}, wanted {_with_article(kind.kind)}",
            hint=f"it was written by stage '{record.stage}'",
        )
    return record


_REBUILD_HINT = "it was written by another version; run the stage again"


def _parsed(text: bytes, sidecar: Path) -> Sidecar:
    value = records.parse(text, where=str(sidecar), hint="run the stage again")
    where = f"{sidecar} is not a sidecar of schema {SCHEMA}"
    return records.convert(Sidecar, value, where=where, hint=_REBUILD_HINT)


def _artifact(kind: type[A], path: Path, record: Sidecar) -> A:
    """The artifact of a sidecar; where ``kind`` is ``Artifact``, the sidecar names the subclass."""
    named = {sub.kind: sub for sub in kind.__subclasses__()}.get(record.kind, kind)
    wanted: type[Details] = get_type_hints(named)["details"]
    where = f"{sidecar_path(path)}, details of {_with_article(named.kind)}"
    return named(
        path=path,
        sha256=record.sha256,
        provenance=Provenance(**{n: getattr(record, n) for n in Provenance.__struct_fields__}),
        counts=record.counts,
        details=records.convert(
            wanted.kind_of(record.details), record.details, where=where, hint=_REBUILD_HINT
        ),
    )
