"""A resumable copy: only files that differ are sent, and a cut-off file is sent from its end on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_inception.deploy import agent
from edge_inception.deploy.payload import Item
from edge_inception.deploy.remote import ConnectionLost, Machine
from edge_inception.errors import DeployFailed

PARTIAL = ".part"
_SPARE_BYTES = 32 << 20  # kept free, since a device with a full disk cannot even write a log
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Files to send, and facts about the device.

    ``starts`` maps a file to the offset of its first byte that the device lacks; ``num_same`` files
    are there already. ``machine`` is the processor, ``python`` the version of Python.
    """

    folder: str
    starts: Mapping[Item, int]
    num_same: int
    free_bytes: int
    machine: str
    python: str

    @property
    def bytes(self) -> int:
        """Number of bytes to send."""
        return sum(item.bytes - start for item, start in self.starts.items())


def plan(machine: Machine, python: str, folder: str, items: Sequence[Item]) -> Plan:
    """What to send so that ``folder`` on the device has ``items``, by size and sha256.

    Raises:
        DeployFailed: The device, or its Python, does not answer.
    """
    answer = _survey(machine, python, folder, items)
    starts = {}
    for item in items:
        whole, part = answer.files.get(item.name, (None, None))
        if whole != agent.Facts(item.bytes, item.sha256):
            starts[item] = _resume_offset(item, part)
    return Plan(
        folder=folder,
        starts=starts,
        num_same=len(items) - len(starts),
        free_bytes=answer.free_bytes,
        machine=answer.machine,
        python=answer.python,
    )


def require_room(machine: Machine, *plans: Plan) -> None:
    """Refuse a copy that does not fit on the device's disk.

    Raises:
        DeployFailed: The disk has too little free space.
    """
    needed = sum(each.bytes for each in plans)
    free = plans[0].free_bytes
    if needed and needed + _SPARE_BYTES > free:
        raise DeployFailed(
            f"{machine.address}: disk full: {plans[0].folder} needs {_mib(needed + _SPARE_BYTES)}, "
            f"{_mib(free)} are free",
            hint="remove old versions there, or give a --remote-dir on a larger disk",
        )


def copy(machine: Machine, python: str, plan: Plan, sent: Callable[[int], None]) -> None:
    """Send the files of the plan, check their sha256 on the device, and then give them their names.

    Raises:
        ConnectionLost: The connection broke, or a file arrived damaged; a new plan can resume.
        DeployFailed: The device refuses.
    """
    for folder in dict.fromkeys(_parent_folder(plan.folder, item) for item in plan.starts):
        machine.make_folders(folder)
    for item, start in plan.starts.items():
        machine.send(item.path, f"{plan.folder}/{item.name}{PARTIAL}", start=start, sent=sent)
    answer = _survey(machine, python, plan.folder, tuple(plan.starts))
    for item in plan.starts:
        path, sent_facts = f"{plan.folder}/{item.name}", agent.Facts(item.bytes, item.sha256)
        _, part = answer.files.get(item.name, (None, None))
        if part != sent_facts:
            machine.remove(path + PARTIAL)
            raise ConnectionLost(
                f"{machine.address}: {item.name} arrived with sha256 {_digest(part)}, sent was "
                f"{_digest(sent_facts)}",
                hint="run the same command again; if it stays, test the device's disk and memory",
            )
        machine.rename(path + PARTIAL, path)


def _survey(
    machine: Machine, python: str, folder: str, items: Sequence[Item]
) -> agent.SurveyResult:
    request = agent.Survey(folder, [item.name for item in items], PARTIAL)
    return machine.ask(python, request, agent.SurveyResult)


def _resume_offset(item: Item, part: agent.Facts | None) -> int:
    """Size of an unfinished copy if its bytes are the start of the file, else 0."""
    if part is None or part.bytes > item.bytes:
        return 0
    return part.bytes if _prefix_sha256(item.path, part.bytes) == part.sha256 else 0


def _prefix_sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while size and (block := stream.read(min(size, _BLOCK_BYTES))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def _parent_folder(folder: str, item: Item) -> str:
    return f"{folder}/{item.name}".rpartition("/")[0]


def _digest(facts: agent.Facts | None) -> str:
    return facts.sha256[:12] if facts else "none"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
