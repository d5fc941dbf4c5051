"""Steps of a deploy on one device: copy, check, build, verify, bench, and only then the switch."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_inception import artifact
from edge_inception.deploy import agent, transfer
from edge_inception.deploy.address import Address
from edge_inception.deploy.connection import DISTRUST, Connection
from edge_inception.deploy.layout import DEFAULT_FOLDER, Releases, absolute
from edge_inception.deploy.payload import Item, Payload, Wheels
from edge_inception.deploy.ssh import Access, ConnectionLost
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
_RECORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\.json")
_MIB = 1 << 20


@dataclass(slots=True)
class TransferState:
    """Bytes sent to one device over all connections, and bytes left at the last comparison."""

    total: int = 0
    left: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """Options of one deploy.

    ``remote_dir`` begins with / or ~/; ``python`` is a command on the device; ``out`` is the local
    folder for the devices' results. ``is_rollback`` switches back to the previous version instead;
    ``is_dry`` reports what would be sent or switched, and changes nothing.
    """

    access: Access = field(default_factory=Access)
    remote_dir: str = DEFAULT_FOLDER
    python: str = "python3"
    out: Path = Path("deployed")
    is_rollback: bool = False
    is_dry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to deploy to one device, and callbacks for its output.

    ``copying`` shows the progress of a copy, in bytes, for as long as it is open.
    """

    address: Address
    payload: Payload
    wheels: Wheels | None
    options: DeployOptions
    say: Callable[[str], None]
    copying: Callable[[], AbstractContextManager[Progress]]
    sent: TransferState = field(default_factory=TransferState)

    @property
    def results(self) -> Path:
        """The local folder of this device's records of this version."""
        device = re.sub("[:%]", "_", re.sub(r"[\[\]]", "", str(self.address)))
        return self.options.out / device / self.payload.name / self.payload.version


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


def carry_out(connection: Connection, job: Job) -> Deployment:
    """Deploy or roll back, or in a dry run only say what that would do.

    Raises:
        DeployFailed: The device refuses or a step fails; the current version stays current.
    """
    releases = Releases(
        connection=connection,
        folder=f"{absolute(connection, job.options.remote_dir)}/{job.payload.name}",
    )
    if job.options.is_rollback:
        return _rollback(releases, job)
    return _plan(releases, job) if job.options.is_dry else _deploy(releases, job)


def _plan(releases: Releases, job: Job) -> Deployment:
    connection = releases.connection
    plan, device = transfer.plan(connection, releases.folder, _items(job)), connection.device
    num_files, folder = len(plan.starts), releases.path(job.payload.version)
    job.say(f"{device.machine}, Python {device.python}, {plan.free_bytes / _MIB:.0f} MiB free")
    job.say(f"would send {num_files} files, {plan.bytes / _MIB:.1f} MiB, to {folder}")
    return _describe_deployment(releases, job, releases.current())


def _rollback(releases: Releases, job: Job) -> Deployment:
    version, before = releases.rollback_versions()  # where it raises, not even a lock is made
    if job.options.is_dry:
        job.say(f"would switch back from {before} to {version}, and send nothing")
    else:
        releases.lock(job.say)
        version, before = releases.rollback()
    return _describe_deployment(releases, job, before, version=version)


def _deploy(releases: Releases, job: Job) -> Deployment:
    releases.lock(job.say)
    _copy(releases, job)
    python = _prepare_python(releases, job)
    fetched = _run_steps(releases, job, python)
    before = releases.switch(job.payload.version)
    _write_deployment_record(releases, job, python)
    return _describe_deployment(releases, job, before, python=python, fetched=fetched)


def _items(job: Job) -> list[Item]:
    """The files of the bundle and the wheels, named from the folder of all versions."""
    folders = {job.payload.version: job.payload.items}
    if job.wheels:
        folders[f"wheels-{job.wheels.key}"] = job.wheels.items
    return [
        replace(item, name=f"{folder}/{item.name}")
        for folder, items in folders.items()
        for item in items
    ]


def _copy(releases: Releases, job: Job) -> None:
    items = _items(job)
    plan = transfer.plan(releases.connection, releases.folder, items)
    num_files, total, done = len(plan.starts), plan.bytes, 0
    num_same = len(items) - num_files
    job.say(f"copy: {num_files} files, {total / _MIB:.1f} MiB; {num_same} are there already")
    job.sent.left = total
    with job.copying() as progress:

        def sent(count: int) -> None:
            nonlocal done
            done += count
            job.sent.total += count
            progress(done, total)

        transfer.copy(releases.connection, plan, sent)


def _prepare_python(releases: Releases, job: Job) -> str:
    """The Python that runs the bundle: the device's own, or one of an environment with the wheels.

    Raises:
        DeployFailed: A virtual environment cannot be made, or a wheel does not fit the device.
    """
    if job.wheels is None:
        return job.options.python
    connection, key = releases.connection, job.wheels.key
    venv, wheels = releases.path(f"venv-{key}"), releases.path(f"wheels-{key}")
    python = f"{venv}/bin/python"
    answer = connection.ask(agent.survey, folder=venv, names=[_COMPLETE])
    if any(answer.files.get(_COMPLETE, ())):
        return python
    job.say(f"venv: {', '.join(job.wheels.packages)}")
    venv_words = (job.options.python, "-m", *_VENV.split(), venv)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--no-index")
    pip_words = (*pip, "--find-links", wheels, *job.wheels.packages)
    for words, hint in (
        (venv_words, "on the device: sudo apt install python3-venv"),
        (pip_words, "the wheelhouse must hold every dependency, for its Python and processor"),
    ):
        code, lines = connection.run(words, releases.folder, job.say)
        if code:
            failed = f"{' '.join(words[1:4])} failed: {_failure_reason(lines)}"
            raise DeployFailed(failed, hint=hint)
    connection.ask(agent.write, path=f"{venv}/{_COMPLETE}", text="")
    return python


def _run_steps(releases: Releases, job: Job, python: str) -> dict[str, bytes]:
    """Run every step and return their records by path, which are fetched even if a step fails."""
    folder = f"{releases.path(job.payload.version)}/{_RESULTS}"
    old = [f"{name}.json" for name, *_ in _STEPS]  # they would pass for new ones
    releases.connection.ask(agent.remove, folder=folder, names=old)
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
    """Run a command of device.py in the new version's folder; its own fix is the error's hint."""
    name, folder = step[0], releases.path(job.payload.version)
    words = (python, "-u", "device.py", *step)
    code, lines = releases.connection.run(words, folder, lambda line: job.say(f"{name}: {line}"))
    if code:
        raise DeployFailed(
            f"{name} failed with exit code {code}: {_failure_reason(lines)}",
            hint=_last_text_after(lines, "fix: ")
            or f"see its lines above; there: cd {folder} && {python} device.py {name}",
        )


def _failure_reason(lines: Sequence[str]) -> str:
    return (
        _last_text_after(lines, "error: ")
        or _last_text_after(lines, "FAILED: ")
        or next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    )


def _last_text_after(lines: Sequence[str], lead: str) -> str:
    """The rest of the last line that begins with ``lead``; empty where there is no such line."""
    found = [line.strip() for line in lines if line.strip().startswith(lead)]
    return found[-1].removeprefix(lead) if found else ""


def _fetch_records(releases: Releases, job: Job) -> dict[str, bytes]:
    """Fetch the records of verify, bench and the engine to the local folder; content by path."""
    folders, version = (_RESULTS, manifest.ENGINES), job.payload.version
    fetched = releases.connection.ask(agent.fetch, folder=releases.path(version), names=folders)
    records_by_path = {}
    for inside, text in fetched.items():
        folder, _, name = inside.partition("/")
        if folder not in folders or not _RECORD.fullmatch(name):
            raise DeployFailed(
                f"it says that {releases.path(version)} holds {inside!r}, no record's name",
                hint=DISTRUST,
            )
        records_by_path[inside] = text.encode()
    for inside, content in records_by_path.items():
        path = job.results / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        artifact.replace_file(path, content)
    return records_by_path


def _write_deployment_record(releases: Releases, job: Job, python: str) -> None:
    """Write ``deployed.json`` on the device, with the version, its Python and the time in UTC."""
    record = {
        "version": job.payload.version,
        "python": python,
        "deployed_utc": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    path = f"{releases.path(job.payload.version)}/{_RESULTS}/deployed.json"
    releases.connection.ask(agent.write, path=path, text=text)


def _describe_deployment(
    releases: Releases,
    job: Job,
    before: str | None,
    *,
    version: str = "",
    python: str = "",
    fetched: dict[str, bytes] | None = None,
) -> Deployment:
    version = version or job.payload.version
    return Deployment(
        folder=releases.folder,
        version=version,
        before=before,
        num_kept=len(set(releases.versions()) - {version}),
        bytes_sent=job.sent.total,
        python=python or job.options.python,
        results=job.results if fetched else None,
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
