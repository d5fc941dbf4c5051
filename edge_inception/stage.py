"""Decide whether a stage must run: same inputs, options, tools and source mean reuse.

One lock per output folder; the operating system drops it when a process dies.
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

from edge_inception import artifact
from edge_inception.artifact import Artifact, Provenance
from edge_inception.errors import InputError

_PACKAGE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step from one artifact to the next, as the room that owns it declares it.

    ``tools`` are the distributions and ``sources`` the files and folders of this package, relative
    to it, whose change makes what the stage wrote stale.
    """

    name: str
    tools: tuple[str, ...]
    sources: tuple[str, ...]


@functools.cache
def _digest(sources: tuple[str, ...]) -> str:
    """sha256 over the package's own files named in ``sources``, folders recursively."""
    total = hashlib.sha256()
    for source in sources:
        root = _PACKAGE / source
        assert root.exists(), source  # a misspelt source would never make a stage stale
        for file in [root] if root.is_file() else sorted(root.rglob("*.py")):
            total.update(file.relative_to(_PACKAGE).as_posix().encode())
            total.update(file.read_bytes())
    return total.hexdigest()


@functools.cache
def tool_version(distribution: str) -> str:
    """Installed version of a distribution, or ``"absent"``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def plain(value: Any) -> Any:
    """A record as JSON types, so that it compares equal to what a sidecar holds."""
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
        value = sorted(value, key=repr)  # a set has no order to record
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


Parents = Mapping[str, Artifact | str]
"""Role -> sha256 of an input, or the artifact itself where the stage reads its details or hands
them on: preprocessing and class names stand there, and in no graph."""


def provenance(stage: Stage, *, parents: Parents, options: Any) -> Provenance:
    """What a run of ``stage`` would be recorded as.

    Args:
        stage: The stage's own declaration.
        parents: Each input.
        options: The stage's frozen options record.
    """
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
    """The artifact at ``path`` if it was made from the same things, else None and why not."""
    if not path.exists():
        return None, "not built yet"
    try:
        found = artifact.load(kind, path)
    except InputError as error:
        return None, str(error)
    name, keys, _ = _difference(expected, found.provenance)
    return (None, f"{name} changed{': ' if keys else ''}{keys}") if name else (found, "")


def require_provenance(found: Artifact, expected: Provenance) -> None:
    """Check that an artifact was made from the same things.

    Raises:
        InputError: Names what differs, as it is and as it is wanted.
    """
    name, keys, values = _difference(expected, found.provenance)
    if name:
        raise InputError(
            f"{found.path} was made with other {name}{': ' if keys else ''}{keys}{values}",
            hint=f"run stage '{expected.stage}' again, or give what it was made with",
        )


def _difference(expected: Provenance, found: Provenance) -> tuple[str, str, str]:
    """First part of a provenance that differs, its keys, and the first key's values; or nothing."""
    wanted, have = json.loads(json.dumps(plain(expected))), plain(found)
    for name in ("stage", "parents", "options", "tools", "source"):
        theirs, ours = have[name], wanted[name]
        if ours == theirs:
            continue
        if not isinstance(ours, dict):
            return name, "", ""
        keys = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
        first = keys[0]
        return name, ", ".join(keys), f" (got {theirs.get(first)}, wanted {ours.get(first)})"
    return "", "", ""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; temporary files of killed builds are removed.

    Raises:
        InputError: Another build holds it, or the folder cannot be made.
    """
    descriptor = _acquire(folder)
    try:
        artifact.remove_leftovers(folder)
        yield
    finally:
        os.close(descriptor)


def _acquire(folder: Path) -> int:
    """Open and locked descriptor of the folder's lock file, which names this process."""
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
