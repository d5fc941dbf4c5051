"""Steps of a deploy on one device: copy, check, build, verify, bench, and only then the switch."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge_inception import artifact
from edge_inception.deploy import agent, transfer
from edge_inception.deploy.address import Address
from edge_inception.deploy.layout import Releases, absolute
from edge_inception.deploy.payload import Payload, Wheels
from edge_inception.deploy.remote import ConnectionLost, Machine, Outcome
from edge_inception.device import manifest, measure, records
from edge_inception.device.errors import Refusal
from edge_inception.errors import DeployFailed
from edge_inception.spec import Progress

_RESULTS = "results"
_STEPS: tuple[tuple[str, ...], ...] = (
    ("check",),
    ("build",),
    ("verify", "--out", f"{_RESULTS}/verify.json"),
    ("bench", "--out", f"{_RESULTS}/bench.json"),
)
_COMPLETE = "complete"  # written last; a virtual environment without this file is made again
_VENV = "venv --system-site-packages"
_MIB = 1 << 20


@dataclass(slots=True)
class Sent:
    """Bytes sent to one device over all connections, and bytes left at the last comparison."""

    total: int = 0
    left: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to deploy to one device, and callbacks for its output.

    ``python`` is a command on the device; ``out`` is the local folder for its results.
    """

    payload: Payload
    wheels: Wheels | None
    remote_dir: str
    python: str
    out: Path
    say: Callable[[str], None]
    progress: Progress
    sent: Sent = field(default_factory=Sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """State of a device after a deploy.

    ``version`` is current now, ``before`` the version that was. ``num_kept`` counts the other
    versions on the device. ``results`` is the local folder of fetched records. ``p50_ms`` is the
    median latency in ms that bench measured on the device, at the opt batch of the profile.
    """

    folder: str
    version: str
    before: str | None
    num_kept: int
    bytes_sent: int
    python: str
    results: Path | None = None
    p50_ms: float | None = None


def folder_name(address: Address) -> str:
    """The address as the name of a local folder."""
    return str(address).replace(":", "_").replace("[", "").replace("]", "").replace("%", "_")


def plan(machine: Machine, work: Work) -> Done:
    """Say what a deploy would send, and change nothing on the device."""
    releases = _releases(machine, work)
    plans = _plans(releases, work)
    transfer.require_room(machine, *plans)
    to_send = sum(each.bytes for each in plans)
    num_files = sum(len(each.starts) for each in plans)
    work.say(
        f"{plans[0].machine}, Python {plans[0].python}, {plans[0].free_bytes / _MIB:.0f} MiB free"
    )
    work.say(f"would send {num_files} files, {to_send / _MIB:.1f} MiB, to {plans[0].folder}")
    return _done(releases, work, releases.current(), work.python)


def plan_rollback(machine: Machine, work: Work) -> Done:
    """Say which version a rollback would make current, and change nothing on the device.

    Raises:
        DeployFailed: There is no previous version.
    """
    releases = _deployed_releases(machine, work)
    version, before = releases.rollback_versions()
    work.say(f"would switch back from {before} to {version}, and send nothing")
    return _rolled_back(releases, work, version, before)


def rollback(machine: Machine, work: Work) -> Done:
    """Switch to the previous version.

    Raises:
        DeployFailed: There is no previous version.
    """
    releases = _deployed_releases(machine, work)
    with releases.locked(work.python):
        version, before = releases.rollback()
    return _rolled_back(releases, work, version, before)


def _deployed_releases(machine: Machine, work: Work) -> Releases:
    releases = _releases(machine, work)
    if not machine.names(releases.folder):
        raise DeployFailed(
            f"{machine.address}: nothing was deployed to {releases.folder}",
            hint="deploy first, or give the --remote-dir and the bundle that were deployed",
        )
    return releases


def _rolled_back(releases: Releases, work: Work, version: str, before: str) -> Done:
    return Done(
        folder=releases.folder,
        version=version,
        before=before,
        num_kept=len(releases.versions()) - 1,
        bytes_sent=0,
        python=work.python,
    )


def deploy(machine: Machine, work: Work) -> Done:
    """Copy the bundle, run its steps, switch to it, and fetch its records.

    Raises:
        DeployFailed: A step fails; the current version stays current.
    """
    releases = _releases(machine, work)
    machine.make_folders(releases.folder)
    with releases.locked(work.python):
        _copy(releases, work)
        python = _environment(releases, work)
        fetched = _run_steps(releases, work, python)
        before = releases.current()
        machine.ask(work.python, agent.Flush(releases.folder), agent.Flush)
        releases.switch(work.payload.version)
        _write_note(releases, work, python)
        return _done(releases, work, before, python, fetched)


def _releases(machine: Machine, work: Work) -> Releases:
    folder = f"{absolute(machine, work.remote_dir)}/{work.payload.name}"
    return Releases(machine=machine, folder=folder)


def _plans(releases: Releases, work: Work) -> list[transfer.Plan]:
    folders = {releases.path(work.payload.version): work.payload.items}
    if work.wheels:
        folders[releases.path(f"wheels-{work.wheels.key}")] = work.wheels.items
    return [
        transfer.plan(releases.machine, work.python, folder, items)
        for folder, items in folders.items()
    ]


def _copy(releases: Releases, work: Work) -> None:
    plans = _plans(releases, work)
    transfer.require_room(releases.machine, *plans)
    total = sum(each.bytes for each in plans)
    num_files = sum(len(each.starts) for each in plans)
    num_same = sum(each.num_same for each in plans)
    work.say(f"copy: {num_files} files, {total / _MIB:.1f} MiB; {num_same} are there already")
    work.sent.left = total
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        work.sent.total += count
        work.progress(done, total)

    for each in plans:
        if each.starts:
            transfer.copy(releases.machine, work.python, each, sent)


def _environment(releases: Releases, work: Work) -> str:
    """The Python that runs the bundle: the device's own, or one of an environment with the wheels.

    Raises:
        DeployFailed: A virtual environment cannot be made, or a wheel does not fit the device.
    """
    if work.wheels is None:
        return work.python
    machine, key = releases.machine, work.wheels.key
    venv, wheels = releases.path(f"venv-{key}"), releases.path(f"wheels-{key}")
    python = f"{venv}/bin/python"
    if _COMPLETE in machine.names(venv):
        return python
    work.say(f"venv: {', '.join(work.wheels.packages)}")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--no-index")
    commands = (
        ((work.python, "-m", *_VENV.split(), venv), "on the device: sudo apt install python3-venv"),
        (
            (*pip, "--find-links", wheels, *work.wheels.packages),
            "the wheelhouse must hold every dependency, for the device's Python and processor",
        ),
    )
    for words, hint in commands:
        ended = machine.run(work.python, words, releases.folder, work.say)
        if ended.code:
            raise DeployFailed(
                f"{machine.address}: {' '.join(words[1:4])} failed: {_reason(ended)}", hint=hint
            )
    machine.write(f"{venv}/{_COMPLETE}", b"")
    return python


def _run_steps(releases: Releases, work: Work, python: str) -> dict[str, bytes]:
    """Run every step and return their records by path, which are fetched even if a step fails.

    Raises:
        DeployFailed: A step fails.
    """
    for name, *_ in _STEPS:  # an old record would pass for a new one
        releases.machine.remove(f"{releases.path(work.payload.version)}/{_RESULTS}/{name}.json")
    try:
        for step in _STEPS:
            _run_step(releases, work, python, step)
    except ConnectionLost:
        raise
    except DeployFailed:
        with suppress(DeployFailed):
            _fetch(releases, work)
        raise
    return _fetch(releases, work)


def _run_step(releases: Releases, work: Work, python: str, step: Sequence[str]) -> None:
    """Run a command of device.py in the new version's folder.

    Raises:
        DeployFailed: The command fails; the hint is the fix that its output names.
    """
    name, folder = step[0], releases.path(work.payload.version)
    ended = releases.machine.run(
        work.python,
        [python, "-u", "device.py", *step],
        folder,
        lambda line: work.say(f"{name}: {line}"),
    )
    if ended.code:
        raise DeployFailed(
            f"{releases.machine.address}: {name} failed with exit code {ended.code}: "
            f"{_reason(ended)}",
            hint=_after(ended, "fix: ")
            or f"see its lines above; there: cd {folder} && {python} device.py {name}",
        )


def _reason(ended: Outcome) -> str:
    return (
        _after(ended, "error: ")
        or _after(ended, "FAILED: ")
        or next((line for line in reversed(ended.lines) if line.strip()), "it said nothing")
    )


def _after(ended: Outcome, lead: str) -> str:
    """The rest of the last line that begins with ``lead``; empty where there is no such line."""
    lines = [line.strip() for line in ended.lines if line.strip().startswith(lead)]
    return lines[-1].removeprefix(lead) if lines else ""


def _fetch(releases: Releases, work: Work) -> dict[str, bytes]:
    """Fetch the records of verify, bench and the engine to the local folder; content by path."""
    machine, version = releases.machine, work.payload.version
    records_by_path = {}
    for folder in (_RESULTS, manifest.ENGINES):
        for name, is_folder in machine.names(f"{releases.path(version)}/{folder}").items():
            if name.endswith(".json") and not is_folder:
                inside = f"{folder}/{name}"
                records_by_path[inside] = machine.read(f"{releases.path(version)}/{inside}")
    for inside, content in records_by_path.items():
        path = _results(work) / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        artifact.replace_file(path, content)
    return records_by_path


def _results(work: Work) -> Path:
    return work.out / work.payload.name / work.payload.version


def _write_note(releases: Releases, work: Work, python: str) -> None:
    """Write ``deployed.json`` on the device, with the version, its Python and the time in UTC."""
    record = {
        "version": work.payload.version,
        "python": python,
        "deployed_utc": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    releases.machine.write(
        f"{releases.path(work.payload.version)}/{_RESULTS}/deployed.json", text.encode()
    )


def _done(
    releases: Releases,
    work: Work,
    before: str | None,
    python: str,
    fetched: dict[str, bytes] | None = None,
) -> Done:
    others = [name for name in releases.versions() if name != work.payload.version]
    return Done(
        folder=releases.folder,
        version=work.payload.version,
        before=before,
        num_kept=len(others),
        bytes_sent=work.sent.total,
        python=python,
        results=_results(work) if fetched else None,
        p50_ms=_p50_ms(fetched or {}),
    )


def _p50_ms(fetched: dict[str, bytes]) -> float | None:
    """The median latency in ms that bench measured on the device; None without its record.

    Raises:
        DeployFailed: The file is not a record of bench.
    """
    name = f"{_RESULTS}/bench.json"
    if name not in fetched:
        return None
    hint = "see the file; the bundle may be of another edge-inception"
    try:
        (run,) = measure.read_bench(records.parse(fetched[name], name, hint), name, hint).runs
    except Refusal as error:
        raise DeployFailed(str(error), hint=error.fix) from error
    return run.median
