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
class TransferState:
    """Bytes sent to one device over all connections, and bytes left at the last comparison."""

    total: int = 0
    left: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
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
    sent: TransferState = field(default_factory=TransferState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
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


def plan(machine: Machine, job: Job) -> Deployment:
    """Say what a deploy would send, and change nothing on the device."""
    releases = _releases(machine, job)
    plans = _plans(releases, job)
    transfer.require_room(machine, *plans)
    to_send = sum(each.bytes for each in plans)
    num_files = sum(len(each.starts) for each in plans)
    job.say(
        f"{plans[0].machine}, Python {plans[0].python}, {plans[0].free_bytes / _MIB:.0f} MiB free"
    )
    job.say(f"would send {num_files} files, {to_send / _MIB:.1f} MiB, to {plans[0].folder}")
    return _describe_deployment(releases, job, releases.current(), job.python)


def plan_rollback(machine: Machine, job: Job) -> Deployment:
    """Say which version a rollback would make current, and change nothing on the device.

    Raises:
        DeployFailed: There is no previous version.
    """
    releases = _deployed_releases(machine, job)
    version, before = releases.rollback_versions()
    job.say(f"would switch back from {before} to {version}, and send nothing")
    return _rolled_back(releases, job, version, before)


def rollback(machine: Machine, job: Job) -> Deployment:
    """Switch to the previous version.

    Raises:
        DeployFailed: There is no previous version.
    """
    releases = _deployed_releases(machine, job)
    with releases.locked(job.python):
        version, before = releases.rollback()
    return _rolled_back(releases, job, version, before)


def _deployed_releases(machine: Machine, job: Job) -> Releases:
    releases = _releases(machine, job)
    if not machine.names(releases.folder):
        raise DeployFailed(
            f"{machine.address}: nothing was deployed to {releases.folder}",
            hint="deploy first, or give the --remote-dir and the bundle that were deployed",
        )
    return releases


def _rolled_back(releases: Releases, job: Job, version: str, before: str) -> Deployment:
    return Deployment(
        folder=releases.folder,
        version=version,
        before=before,
        num_kept=len(releases.versions()) - 1,
        bytes_sent=0,
        python=job.python,
    )


def deploy(machine: Machine, job: Job) -> Deployment:
    """Copy the bundle, run its steps, switch to it, and fetch its records.

    Raises:
        DeployFailed: A step fails; the current version stays current.
    """
    releases = _releases(machine, job)
    machine.make_folders(releases.folder)
    with releases.locked(job.python):
        _copy(releases, job)
        python = _prepare_python(releases, job)
        fetched = _run_steps(releases, job, python)
        before = releases.current()
        machine.ask(job.python, agent.Flush(releases.folder), agent.Flush)
        releases.switch(job.payload.version)
        _write_deployment_record(releases, job, python)
        return _describe_deployment(releases, job, before, python, fetched)


def _releases(machine: Machine, job: Job) -> Releases:
    folder = f"{absolute(machine, job.remote_dir)}/{job.payload.name}"
    return Releases(machine=machine, folder=folder)


def _plans(releases: Releases, job: Job) -> list[transfer.Plan]:
    folders = {releases.path(job.payload.version): job.payload.items}
    if job.wheels:
        folders[releases.path(f"wheels-{job.wheels.key}")] = job.wheels.items
    return [
        transfer.plan(releases.machine, job.python, folder, items)
        for folder, items in folders.items()
    ]


def _copy(releases: Releases, job: Job) -> None:
    plans = _plans(releases, job)
    transfer.require_room(releases.machine, *plans)
    total = sum(each.bytes for each in plans)
    num_files = sum(len(each.starts) for each in plans)
    num_same = sum(each.num_same for each in plans)
    job.say(f"copy: {num_files} files, {total / _MIB:.1f} MiB; {num_same} are there already")
    job.sent.left = total
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        job.sent.total += count
        job.progress(done, total)

    for each in plans:
        if each.starts:
            transfer.copy(releases.machine, job.python, each, sent)


def _prepare_python(releases: Releases, job: Job) -> str:
    """The Python that runs the bundle: the device's own, or one of an environment with the wheels.

    Raises:
        DeployFailed: A virtual environment cannot be made, or a wheel does not fit the device.
    """
    if job.wheels is None:
        return job.python
    machine, key = releases.machine, job.wheels.key
    venv, wheels = releases.path(f"venv-{key}"), releases.path(f"wheels-{key}")
    python = f"{venv}/bin/python"
    if _COMPLETE in machine.names(venv):
        return python
    job.say(f"venv: {', '.join(job.wheels.packages)}")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--no-index")
    commands = (
        ((job.python, "-m", *_VENV.split(), venv), "on the device: sudo apt install python3-venv"),
        (
            (*pip, "--find-links", wheels, *job.wheels.packages),
            "the wheelhouse must hold every dependency, for the device's Python and processor",
        ),
    )
    for words, hint in commands:
        outcome = machine.run(job.python, words, releases.folder, job.say)
        if outcome.code:
            raise DeployFailed(
                f"{machine.address}: {' '.join(words[1:4])} failed: {_failure_reason(outcome)}",
                hint=hint,
            )
    machine.write(f"{venv}/{_COMPLETE}", b"")
    return python


def _run_steps(releases: Releases, job: Job, python: str) -> dict[str, bytes]:
    """Run every step and return their records by path, which are fetched even if a step fails.

    Raises:
        DeployFailed: A step fails.
    """
    for name, *_ in _STEPS:  # an old record would pass for a new one
        releases.machine.remove(f"{releases.path(job.payload.version)}/{_RESULTS}/{name}.json")
    try:
        for step in _STEPS:
            _run_step(releases, job, python, step)
    except ConnectionLost:
        raise
    except DeployFailed:
        with suppress(DeployFailed):
            _fetch_records(releases, job)
        raise
    return _fetch_records(releases, job)


def _run_step(releases: Releases, job: Job, python: str, step: Sequence[str]) -> None:
    """Run a command of device.py in the new version's folder.

    Raises:
        DeployFailed: The command fails; the hint is the fix that its output names.
    """
    name, folder = step[0], releases.path(job.payload.version)
    outcome = releases.machine.run(
        job.python,
        [python, "-u", "device.py", *step],
        folder,
        lambda line: job.say(f"{name}: {line}"),
    )
    if outcome.code:
        raise DeployFailed(
            f"{releases.machine.address}: {name} failed with exit code {outcome.code}: "
            f"{_failure_reason(outcome)}",
            hint=_last_text_after(outcome, "fix: ")
            or f"see its lines above; there: cd {folder} && {python} device.py {name}",
        )


def _failure_reason(outcome: Outcome) -> str:
    return (
        _last_text_after(outcome, "error: ")
        or _last_text_after(outcome, "FAILED: ")
        or next((line for line in reversed(outcome.lines) if line.strip()), "it printed nothing")
    )


def _last_text_after(outcome: Outcome, lead: str) -> str:
    """The rest of the last line that begins with ``lead``; empty where there is no such line."""
    lines = [line.strip() for line in outcome.lines if line.strip().startswith(lead)]
    return lines[-1].removeprefix(lead) if lines else ""


def _fetch_records(releases: Releases, job: Job) -> dict[str, bytes]:
    """Fetch the records of verify, bench and the engine to the local folder; content by path."""
    machine, version = releases.machine, job.payload.version
    records_by_path = {}
    for folder in (_RESULTS, manifest.ENGINES):
        for name, is_folder in machine.names(f"{releases.path(version)}/{folder}").items():
            if name.endswith(".json") and not is_folder:
                inside = f"{folder}/{name}"
                records_by_path[inside] = machine.read(f"{releases.path(version)}/{inside}")
    for inside, content in records_by_path.items():
        path = _results_folder(job) / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        artifact.replace_file(path, content)
    return records_by_path


def _results_folder(job: Job) -> Path:
    return job.out / job.payload.name / job.payload.version


def _write_deployment_record(releases: Releases, job: Job, python: str) -> None:
    """Write ``deployed.json`` on the device, with the version, its Python and the time in UTC."""
    record = {
        "version": job.payload.version,
        "python": python,
        "deployed_utc": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    releases.machine.write(
        f"{releases.path(job.payload.version)}/{_RESULTS}/deployed.json", text.encode()
    )


def _describe_deployment(
    releases: Releases,
    job: Job,
    before: str | None,
    python: str,
    fetched: dict[str, bytes] | None = None,
) -> Deployment:
    others = [name for name in releases.versions() if name != job.payload.version]
    return Deployment(
        folder=releases.folder,
        version=job.payload.version,
        before=before,
        num_kept=len(others),
        bytes_sent=job.sent.total,
        python=python,
        results=_results_folder(job) if fetched else None,
        p50_ms=_read_p50_ms(fetched or {}),
    )


def _read_p50_ms(fetched: dict[str, bytes]) -> float | None:
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
