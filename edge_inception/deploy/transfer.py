"""A resumable copy: only files that differ are sent, and a cut-off file is sent from its end on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_inception.deploy import agent
from edge_inception.deploy.connection import Connection
from edge_inception.deploy.payload import Item
from edge_inception.deploy.ssh import ConnectionLost
from edge_inception.errors import DeployFailed

_SPARE_BYTES = 32 << 20  # kept free, since a device with a full disk cannot even write a log
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Files to send; ``starts`` maps a file to the offset of the first byte that is missing."""

    folder: str
    starts: Mapping[Item, int]
    free_bytes: int

    @property
    def bytes(self) -> int:
        """Number of bytes to send."""
        return sum(item.bytes - start for item, start in self.starts.items())


def plan(connection: Connection, folder: str, items: Sequence[Item]) -> Plan:
    """What to send so that ``folder`` on the device has ``items``, by size and sha256.

    Raises:
        DeployFailed: The disk has too little free space.
    """
    answer = connection.ask(agent.survey, folder=folder, names=[item.name for item in items])
    starts = {}
    for item in items:
        whole, part = answer.files.get(item.name, (None, None))
        if whole != agent.Facts(item.bytes, item.sha256):
            starts[item] = _resume_offset(item, part)
    plan = Plan(folder=folder, starts=starts, free_bytes=answer.free_bytes)
    if plan.bytes and plan.bytes + _SPARE_BYTES > plan.free_bytes:
        raise DeployFailed(
            f"disk full: {folder} needs {_mib(plan.bytes + _SPARE_BYTES)}, "
            f"{_mib(plan.free_bytes)} are free",
            hint="remove old versions there, or give a --remote-dir on a larger disk",
        )
    return plan


def copy(connection: Connection, plan: Plan, sent: Callable[[int], None]) -> None:
    """Send the files of the plan; each gets its name only once its sha256 is right on the device.

    Raises:
        ConnectionLost: The connection broke, or a file arrived damaged; a new plan can resume.
        DeployFailed: The device refuses.
    """
    for item, start in plan.starts.items():
        arrived = connection.ask(
            agent.receive,
            body=_blocks(item, start, sent),
            path=f"{plan.folder}/{item.name}",
            start=start,
            size=item.bytes - start,
            sha256=item.sha256,
        )
        if arrived != agent.Facts(item.bytes, item.sha256):
            raise ConnectionLost(
                f"{item.name} arrived with sha256 {arrived.sha256[:12]}, "
                f"sent was {item.sha256[:12]}",
                hint="run the same command again; if it stays, test the device's disk and memory",
            )


def _blocks(item: Item, start: int, sent: Callable[[int], None]) -> Iterator[bytes]:
    """The file's bytes from ``start`` on; ``sent`` gets the length of each block once it went."""
    with item.path.open("rb") as source:
        source.seek(start)
        for left in range(item.bytes - start, 0, -_BLOCK_BYTES):
            block = source.read(min(left, _BLOCK_BYTES))
            if len(block) < min(left, _BLOCK_BYTES):
                raise DeployFailed(f"{item.path} became shorter while it was sent")
            yield block
            sent(len(block))


def _resume_offset(item: Item, part: agent.Facts | None) -> int:
    """Size of an unfinished copy if its bytes are the start of the file, else 0."""
    if part is None or part.bytes > item.bytes:
        return 0
    return part.bytes if _prefix_sha256(item.path, part.bytes) == part.sha256 else 0


def _prefix_sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while size > 0 and (block := stream.read(min(size, _BLOCK_BYTES))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
