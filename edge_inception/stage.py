"""Reuse of artifacts: a stage whose inputs, options, tools and source are unchanged does not run.

An output folder has a lock, which the operating system releases when the process dies.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_inception import artifact, records
from edge_inception.artifact import Artifact
from edge_inception.errors import InputError
from edge_inception.sidecar import Provenance

_PACKAGE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step from one artifact to the next, as the package that owns it declares it.

    An artifact is built again when one of its stage's ``tools`` (Python distributions) or
    ``sources`` (files and folders, relative to this package) has changed.
    """

    name: str
    tools: tuple[str, ...]
    sources: tuple[str, ...]


@functools.cache
def _digest(sources: tuple[str, ...]) -> str:
    """sha256 over the names and bytes of the files in ``sources``, of folders every ``*.py``."""
    total = hashlib.sha256()
    for source in sources:
        root = _PACKAGE / source
        assert root.exists(), source  # changes of a misspelt source would go unnoticed
        for file in [root] if root.is_file() else sorted(root.rglob("*.py")):
            total.update(file.relative_to(_PACKAGE).as_posix().encode())
            total.update(file.read_bytes())
    return total.hexdigest()


@functools.cache
def tool_version(distribution: str) -> str:
    """Installed version of a Python distribution, or ``"absent"``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def plain(value: Any) -> Any:
    """A record as JSON types, which compare equal to the values read from a sidecar."""
    if isinstance(value, msgspec.Struct):
        value = records.plain(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)  # so that equal sets are recorded alike
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


Parents = Mapping[str, Artifact | str]
"""Role -> sha256 of an input, or the artifact itself where the stage also uses its details, which
hold facts that are not in the file, such as preprocessing and class names."""


def provenance(stage: Stage, *, parents: Parents, options: Any) -> Provenance:
    """The provenance that a run of ``stage`` with these inputs and options records."""
    return Provenance(
        stage=stage.name,
        parents=dict(_hashes(parents)),
        options=plain(options),
        tools={name: tool_version(name) for name in stage.tools},
        source=_digest(stage.sources),
    )


def _hashes(parents: Parents) -> Iterator[tuple[str, str]]:
    for role, parent in parents.items():
        if isinstance(parent, str):
            yield role, parent
            continue
        yield role, parent.sha256
        details = json.dumps(plain(parent.details), sort_keys=True)
        yield f"details of {role}", hashlib.sha256(details.encode()).hexdigest()


A = TypeVar("A", bound=Artifact)


def reusable(kind: type[A], path: Path, expected: Provenance) -> tuple[A | None, str]:
    """The artifact at ``path`` if its provenance is as expected, else None and the reason."""
    if not path.exists():
        return None, "not built yet"
    try:
        loaded = artifact.load(kind, path)
    except InputError as error:
        return None, str(error)
    name, keys, _ = _difference(expected, loaded.provenance)
    return (None, f"{name} changed{': ' if keys else ''}{keys}") if name else (loaded, "")


def require_provenance(given: Artifact, expected: Provenance) -> None:
    """Check that an artifact has the expected provenance.

    Raises:
        InputError: The provenance differs; the message names the part that differs, got and wanted.
    """
    name, keys, values = _difference(expected, given.provenance)
    if name:
        raise InputError(
            f"{given.path} was made with other {name}{': ' if keys else ''}{keys}{values}",
            hint=f"run stage '{expected.stage}' again, or give what it was made with",
        )


def _difference(expected: Provenance, recorded: Provenance) -> tuple[str, str, str]:
    """The first part that differs, the keys in it that differ, and the values of the first key.

    All three are empty where nothing differs.
    """
    wanted_parts, got_parts = json.loads(json.dumps(plain(expected))), plain(recorded)
    for name in ("stage", "parents", "options", "tools", "source"):
        got, wanted = got_parts[name], wanted_parts[name]
        if wanted == got:
            continue
        if not isinstance(wanted, dict):
            return name, "", ""
        keys = sorted(key for key in wanted | got if wanted.get(key) != got.get(key))
        first = keys[0]
        return name, ", ".join(keys), f" (got {got.get(first)}, wanted {wanted.get(first)})"
    return "", "", ""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for this process, and remove the temporary files of killed builds.

    Raises:
        InputError: Another build holds the lock, or the folder cannot be made.
    """
    descriptor = _acquire(folder)
    try:
        artifact.remove_leftovers(folder)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that a library forked may hold it open
        os.close(descriptor)


def _acquire(folder: Path) -> int:
    """Locked descriptor of the folder's lock file, in which this process writes its process id."""
    descriptor = -1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode() or "unknown"
        os.close(descriptor)
        raise InputError(
            f"{folder} is in use by another build (process {holder})",
            hint="wait for it, or choose another --out",
        ) from error
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise InputError(
            f"cannot use output folder {folder}: {error.strerror}", hint="choose another --out"
        ) from error
    return descriptor
