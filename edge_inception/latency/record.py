"""The record of ``bench`` and ``compare``: its schema, and what earlier versions wrote.

``schema`` "edge-inception/bench", ``schema_version`` 2; JSON, one object:

- ``kind``: "single" (bench), "ab" or "aa" (compare A B, compare --self and baselines);
- ``created_utc``, ``tool``, ``model`` (name, input shape);
- ``engines`` by arm, "A" and "B": path, sha256, bytes, backend, precision, float_precision, typed,
  batch, dla_core, tied_to, graph_sha256;
- ``device``: the machine, its libraries, and its load when it began;
- ``protocol``: every choice, as resolved;
- ``runs``, one for each process: arm, pair, t0, n calls, their median, mean, p90, p95 and p99 in ms
  (p99 null below 100 calls), cov, throughput in images/s, open_s, first_ms, peak_mib,
  compute_median in ms (null where the engine cannot tell), temp_c, cpu_mhz, gpu_mhz_min, power_mw,
  throttled, unavailable {what: why}, foreign_cores, warnings, blocks (calls of each), samples_ms;
- ``fingerprint``: of device and protocol;
- ``layers``, of bench --layers: name, kind, kernel and mean ms of each executed layer;
- ``against``, where A is of another day: file, created_utc;
- ``result``, of "ab" and "aa": ratio B over A, ci95, method, delta, k, verdict, reasons, sentence;
  of --self also spread and pairs_needed;
- ``accuracy``, where labelled images were given: verdict, sentence, drop_pp, num_images;
- ``bundle``, where a device measured: name, version.

Several batches of one ``bench`` are a list of records. Figures of a record from elsewhere may be
NaN or infinite.

Version 1 is what ``device.py bench`` writes on a device: "single", without what was fed, threads,
pair, p95, throughput, first_ms, peak_mib, cpu_mhz, power_mw, throttled, foreign_cores and blocks.
It is read as version 2: what follows from its samples is computed, the rest is null. What only a
device tells is kept, so those fields are optional.

Source: docs/latency.md, "Record".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from edge_inception import records
from edge_inception.device import measure
from edge_inception.errors import InputError
from edge_inception.latency.facts import DeviceFacts, EngineFacts, Model, UsedProtocol
from edge_inception.latency.measure import MIN_SAMPLES_P99
from edge_inception.latency.telemetry import Clocks, Temperatures
from edge_inception.records import Count, Record, SparseRecord

SCHEMA = measure.SCHEMA
SCHEMA_VERSION = 2
BASELINE, CANDIDATE = "A", "B"
"""The arms; an engine that is timed alone is the baseline."""

_FROM_DEVICES = measure.SCHEMA_VERSION
_HINT = "measure again: edge-inception bench or compare, with --out"


class Verdict(Enum):
    """What may be claimed of B against A."""

    PASS = "pass"  # noqa: S105 -- no password
    FAIL = "fail"
    IMPROVED = "improved"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class RunRecord(Record, frozen=True, kw_only=True):
    """One process; times in ms. What no run on a host has is at the end."""

    arm: str
    pair: Count
    t0: str | None
    n: Count
    median: float
    mean: float
    p90: float
    p99: float | None
    cov: float
    p95: float
    throughput: float
    open_s: float | None
    first_ms: float | None
    peak_mib: float | None
    compute_median: float | None
    temp_c: Temperatures
    cpu_mhz: Clocks
    gpu_mhz_min: int | None
    power_mw: float | None
    throttled: bool | None
    unavailable: dict[str, str]
    foreign_cores: float | None
    warnings: tuple[str, ...]
    blocks: tuple[Count, ...]
    samples_ms: tuple[float, ...]
    block: Count | UnsetType = UNSET
    slot: Count | UnsetType = UNSET
    gpu_median: float | UnsetType | None = UNSET
    cuda_graph: bool | UnsetType = UNSET
    runner: str | UnsetType = UNSET
    metric: str | UnsetType = UNSET
    spin_wait: bool | UnsetType = UNSET


class ResultRecord(Record, frozen=True, kw_only=True):
    """``regression.Result``, and its sentence; the last two are of an engine against itself."""

    ratio: float | None
    ci95: tuple[float, float] | None
    method: str | None
    delta: float
    k: Count
    verdict: Verdict
    reasons: tuple[str, ...]
    sentence: str
    spread: float | UnsetType = UNSET
    pairs_needed: Count | UnsetType = UNSET


class Drop(Record, frozen=True, kw_only=True):
    """Percentage points of top-1, with both bounds."""

    value: float
    lower: float
    upper: float


class AccuracyRecord(Record, frozen=True, kw_only=True):
    """The verdict on the top-1 drop from A to B."""

    verdict: Verdict
    sentence: str
    drop_pp: Drop
    num_images: Count


class Layer(Record, frozen=True, kw_only=True):
    """An executed layer with its mean time."""

    name: str
    kind: str
    kernel: str
    ms: float


class Against(Record, frozen=True, kw_only=True):
    """The record of another day that A was taken from."""

    file: str
    created_utc: str


class Bundle(Record, frozen=True, kw_only=True):
    """What the device ran."""

    name: str
    version: str


class BenchRecord(SparseRecord, frozen=True, kw_only=True):
    """One record, as the module says."""

    schema: str
    schema_version: int
    kind: Literal["single", "ab", "aa"]
    created_utc: str
    tool: dict[str, str]
    model: Model
    engines: dict[str, EngineFacts]
    device: DeviceFacts
    protocol: UsedProtocol
    runs: tuple[RunRecord, ...]
    fingerprint: str
    layers: tuple[Layer, ...] | None = None
    against: Against | None = None
    result: ResultRecord | None = None
    accuracy: AccuracyRecord | None = None
    bundle: Bundle | None = None

    @property
    def engine(self) -> EngineFacts:
        """That of arm A."""
        return self.engines[BASELINE]

    def runs_of(self, arm: str) -> tuple[RunRecord, ...]:
        """Those of one arm, in order."""
        return tuple(run for run in self.runs if run.arm == arm)


def to_json(record: BenchRecord | Sequence[BenchRecord]) -> bytes:
    """The text of a file: one record, or those of several batches."""
    return json.dumps(records.plain(record), indent=1).encode() + b"\n"


def read_record(path: Path) -> BenchRecord:
    """A record of ``bench``, ``compare`` or ``device.py bench``, whatever version wrote it.

    Raises:
        InputError: Not readable, something else, several records, or damaged.
    """
    found = read_records(path)
    if len(found) != 1:
        raise InputError(
            f"{path} holds {len(found)} records, wanted one",
            hint="write one: edge-inception bench ENGINE --out FILE, with one --batch",
        )
    return found[0]


def read_records(path: Path) -> list[BenchRecord]:
    """All records of a file, as version 2: one, or those of several batches.

    Raises:
        InputError: Not readable, something else, or damaged.
    """
    found = records.read_json(path, hint="give a record of bench", allow_nan=True)
    if isinstance(found, list) and len(found) > 1:
        return [_read(one, f"{path}, record {index}") for index, one in enumerate(found)]
    return [_read(found[0] if isinstance(found, list) and found else found, str(path))]


def is_record(path: Path) -> bool:
    """Does a file hold what calls itself a record, or a list of them, of whatever version?"""
    try:
        found = records.read_json(path, hint="", allow_nan=True)
    except InputError:
        return False
    first = found[0] if isinstance(found, list) and found else found
    return isinstance(first, dict) and first.get("schema") == SCHEMA


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    schema: str | None = None
    schema_version: Count | None = None


def _read(value: Any, where: str) -> BenchRecord:
    head = records.convert(_Head, value, where=where, hint=_HINT)
    if head.schema != SCHEMA:
        raise InputError(
            f"{where} holds schema {head.schema!r}, wanted {SCHEMA!r}",
            hint="write one: edge-inception bench ENGINE --out FILE",
        )
    if head.schema_version not in (_FROM_DEVICES, SCHEMA_VERSION):
        raise InputError(
            f"{where} is a record of version {head.schema_version}, this reads {_FROM_DEVICES} to "
            f"{SCHEMA_VERSION}",
            hint="update edge-inception",
        )
    is_old = head.schema_version == _FROM_DEVICES
    whole = _filled_from_v1(value) if is_old else value
    record = records.convert(BenchRecord, whole, where=where, hint=_HINT)
    if lack := (is_old and _lack_of_v1(record)) or _lack(record):
        raise InputError(f"{where}, at {lack}", hint=_HINT)
    return upgrade_from_v1(record) if is_old else record


def _lack(record: BenchRecord) -> str | None:
    """What the kind of a record needs and it does not have, and where; None where it is whole."""
    arms, timed = set(record.engines), {run.arm for run in record.runs}
    if record.kind != "single" and record.result is None:
        return "result: got none, wanted that of a comparison"
    wanted = {BASELINE, CANDIDATE} if record.kind == "ab" else {BASELINE}
    if not wanted <= arms <= {BASELINE, CANDIDATE}:
        return f"engines: got {_listed(arms)}, wanted {_listed(wanted)}"
    if timed != arms:
        return f"runs: got those of {_listed(timed)}, wanted those of {_listed(arms)}"
    return None


def _listed(arms: set[str]) -> str:
    return " and ".join(sorted(arms)) or "none"


_NOT_IN_V1 = ("open_s", "first_ms", "peak_mib", "compute_median", "power_mw", "throttled",
              "foreign_cores")  # fmt: skip
_RUN_OF_V1: Mapping[str, Any] = {
    **dict.fromkeys(_NOT_IN_V1),
    "pair": 0,
    "p95": 0.0,
    "throughput": 0.0,
    "blocks": [],
    "unavailable": {},
    "cpu_mhz": {"start": None, "end": None},
}
_ENGINE_OF_V1: Mapping[str, Any] = {"path": "", "float_precision": None, "tied_to": {}}


def _filled_from_v1(value: dict[str, Any]) -> dict[str, Any]:
    """The same with what version 1 lacks, of no value yet."""
    protocol = {"threads": None, "input": "golden images of the bundle"}
    engines, runs = value.get("engines"), value.get("runs")
    return {
        **value,
        "schema_version": SCHEMA_VERSION,
        "engines": {arm: _filled(one, _ENGINE_OF_V1) for arm, one in engines.items()}
        if isinstance(engines, dict)
        else engines,
        "protocol": _filled(value.get("protocol"), protocol),
        "runs": [_filled(run, _RUN_OF_V1) for run in runs] if isinstance(runs, list) else runs,
    }


def _filled(value: Any, defaults: Mapping[str, Any]) -> Any:
    return {**defaults, **value} if isinstance(value, dict) else value


def _lack_of_v1(record: BenchRecord) -> str | None:
    if record.bundle is None:
        return "bundle: got none, wanted that of the device"
    if record.device.power_mode is UNSET:
        return "device: object missing required field 'power_mode'"
    for index, run in enumerate(record.runs):
        if not run.samples_ms or not run.mean > 0:
            return f"runs[{index}]: got no call that took time, wanted one"
    return None


def upgrade_from_v1(old: BenchRecord) -> BenchRecord:
    """What ``device.py`` wrote, with what follows from it."""
    device, engine, bundle = old.device, old.engine, old.bundle
    assert bundle is not None
    path, library = f"{bundle.name} {bundle.version}", device.library
    return replace(
        old,
        device=replace(
            device,
            architecture=device.machine or None,
            libraries={engine.backend: library} if library else {},
        ),
        engines={arm: replace(one, path=path) for arm, one in old.engines.items()},
        runs=tuple(_upgraded_run(run, old.protocol.batch) for run in old.runs),
    )


def _upgraded_run(run: RunRecord, batch: int) -> RunRecord:
    with np.errstate(invalid="ignore"):  # infinite times
        p95 = float(np.percentile(run.samples_ms, 95))
    return replace(
        run,
        p95=p95,
        p99=run.p99 if run.n >= MIN_SAMPLES_P99 else None,
        throughput=1000 * batch / run.mean,
        compute_median=run.gpu_median or None,
        blocks=(run.n,),
    )
