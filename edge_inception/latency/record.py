"""The record of ``bench`` and ``compare``: its schema, and what earlier versions wrote.

A record is a JSON object with ``schema`` "edge-inception/bench", ``schema_version`` 2 and:

- ``kind``: "single" (bench), "ab" (compare A B) or "aa" (compare --self, and stored baselines);
- ``created_utc``, ``tool``, ``model`` (name, input shape);
- ``engines`` by arm (side of the comparison), "A" and "B": path, sha256, bytes, backend, precision,
  float_precision, typed, batch, dla_core, tied_to, graph_sha256;
- ``device``: the machine with its load, and the engine's libraries;
- ``protocol``: every option, with its default resolved;
- ``runs``, one for each process: arm (its side), pair, t0, n (number of calls), their median, mean,
  p90, p95 and p99 in ms (p99 is null below 100 calls), cov (standard deviation over mean),
  throughput in images/s, open_s, first_ms, peak_mib, compute_median in ms (null if it is not
  measured), temp_c, cpu_mhz, gpu_mhz_min, power_mw, throttled, unavailable {figure: reason},
  foreign_cores, warnings, blocks (number of calls of each block), samples_ms;
- ``fingerprint``: hash of device and protocol;
- ``layers``, of bench --layers only: name, kind, kernel and mean ms of each executed layer;
- ``against``, where A was read from an earlier record: file, created_utc;
- ``result``, of "ab" and "aa" only: ratio of B over A, ci95, method, delta, k (number of pairs),
  verdict, reasons, sentence; with --self also spread and pairs_needed;
- ``accuracy``, where labelled images were given: verdict, sentence, drop_pp, num_images;
- ``bundle``, where a device measured: name, version.

``bench`` with several batch sizes writes a list of records. A figure in a file may be NaN or
infinite.

``device.py bench`` writes version 1 on a device: a "single" record without the description of the
images, threads, pair, p95, throughput, first_ms, peak_mib, cpu_mhz, power_mw, throttled,
foreign_cores and blocks. Version 1 is read as version 2: what follows from the samples is computed,
and the rest is null. Fields that only a device records are optional, and kept.

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
"""The two sides of a comparison; an engine that is timed alone is side A."""

_DEVICE_VERSION = measure.SCHEMA_VERSION
_HINT = "measure again: edge-inception bench or compare, with --out"


class Verdict(Enum):
    """Verdict of a comparison on B against A."""

    PASS = "pass"  # noqa: S105 -- no password
    FAIL = "fail"
    IMPROVED = "improved"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class RunRecord(Record, frozen=True, kw_only=True):
    """Figures of one process, times in ms; only a device records ``block`` and what follows it."""

    side: str = msgspec.field(name="arm")
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
    """Result of a comparison, ``regression.Result``; only --self adds the last two fields."""

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
    """Top-1 drop from A to B in percentage points, with both bounds."""

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
    """The earlier record that side A was taken from."""

    file: str
    created_utc: str


class Bundle(Record, frozen=True, kw_only=True):
    """The bundle that a device ran."""

    name: str
    version: str


class BenchRecord(SparseRecord, frozen=True, kw_only=True):
    """One record of ``bench`` or ``compare``; the module's docstring describes its fields."""

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
        """The engine of side A."""
        return self.engines[BASELINE]

    def runs_of(self, side: str) -> tuple[RunRecord, ...]:
        """The runs of one side in the order of the record."""
        return tuple(run for run in self.runs if run.side == side)


def to_json(record: BenchRecord | Sequence[BenchRecord]) -> bytes:
    """JSON content of a file with one record, or with a list of records."""
    return json.dumps(records.plain(record), indent=1).encode() + b"\n"


def read_record(path: Path) -> BenchRecord:
    """The record in a file of ``bench``, ``compare`` or ``device.py bench``, as version 2.

    Raises:
        InputError: The file cannot be read, is damaged, or holds anything but one record.
    """
    several = read_records(path)
    if len(several) != 1:
        raise InputError(
            f"{path} holds {len(several)} records, wanted one",
            hint="write one: edge-inception bench ENGINE --out FILE, with one --batch",
        )
    return several[0]


def read_records(path: Path) -> list[BenchRecord]:
    """All records in a file, one for each batch size, as version 2.

    Raises:
        InputError: The file cannot be read, is damaged, or holds anything but records.
    """
    value = records.read_json(path, hint="give a record of bench", allow_nan=True)
    if isinstance(value, list) and len(value) > 1:
        return [_to_record(one, f"{path}, record {index}") for index, one in enumerate(value)]
    return [_to_record(_first_of(value), str(path))]


def is_record(path: Path) -> bool:
    """Whether a file holds a record, or a list of records, of any version, by its ``schema``."""
    try:
        first = _first_of(records.read_json(path, hint="", allow_nan=True))
    except InputError:
        return False
    return isinstance(first, dict) and first.get("schema") == SCHEMA


def _first_of(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    schema: str | None = None
    schema_version: Count | None = None


def _to_record(value: Any, where: str) -> BenchRecord:
    head = records.convert(_Head, value, where=where, hint=_HINT)
    if head.schema != SCHEMA:
        raise InputError(
            f"{where} holds schema {head.schema!r}, wanted {SCHEMA!r}",
            hint="write one: edge-inception bench ENGINE --out FILE",
        )
    if head.schema_version not in (_DEVICE_VERSION, SCHEMA_VERSION):
        raise InputError(
            f"{where} is a record of version {head.schema_version}, this reads "
            f"{_DEVICE_VERSION} to {SCHEMA_VERSION}",
            hint="update edge-inception",
        )
    is_old = head.schema_version == _DEVICE_VERSION
    complete = _fill_v1(value) if is_old else value
    record = records.convert(BenchRecord, complete, where=where, hint=_HINT)
    if problem := (is_old and _v1_problem(record)) or _problem(record):
        raise InputError(f"{where}, at {problem}", hint=_HINT)
    return upgrade_from_v1(record) if is_old else record


def _problem(record: BenchRecord) -> str | None:
    """Place of what a record of this kind lacks, got and wanted; None if it is complete."""
    sides, run_sides = set(record.engines), {run.side for run in record.runs}
    if record.kind != "single" and record.result is None:
        return "result: got none, wanted that of a comparison"
    wanted = {BASELINE, CANDIDATE} if record.kind == "ab" else {BASELINE}
    if not wanted <= sides <= {BASELINE, CANDIDATE}:
        return f"engines: got {_join_sides(sides)}, wanted {_join_sides(wanted)}"
    if run_sides != sides:
        return f"runs: got those of {_join_sides(run_sides)}, wanted those of {_join_sides(sides)}"
    return None


def _join_sides(sides: set[str]) -> str:
    return " and ".join(sorted(sides)) or "none"


_NOT_IN_V1 = ("open_s", "first_ms", "peak_mib", "compute_median", "power_mw", "throttled",
              "foreign_cores")  # fmt: skip
_V1_RUN_DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(_NOT_IN_V1),
    "pair": 0,
    "p95": 0.0,
    "throughput": 0.0,
    "blocks": [],
    "unavailable": {},
    "cpu_mhz": {"start": None, "end": None},
}
_V1_ENGINE_DEFAULTS: Mapping[str, Any] = {"path": "", "float_precision": None, "tied_to": {}}


def _fill_v1(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` with placeholders for the fields that version 1 lacks."""
    protocol = {"threads": None, "input": "golden images of the bundle"}
    engines, runs = value.get("engines"), value.get("runs")
    return {
        **value,
        "schema_version": SCHEMA_VERSION,
        "engines": {side: _with_defaults(one, _V1_ENGINE_DEFAULTS) for side, one in engines.items()}
        if isinstance(engines, dict)
        else engines,
        "protocol": _with_defaults(value.get("protocol"), protocol),
        "runs": [_with_defaults(run, _V1_RUN_DEFAULTS) for run in runs]
        if isinstance(runs, list)
        else runs,
    }


def _with_defaults(value: Any, defaults: Mapping[str, Any]) -> Any:
    return {**defaults, **value} if isinstance(value, dict) else value


def _v1_problem(record: BenchRecord) -> str | None:
    if record.bundle is None:
        return "bundle: got none, wanted that of the device"
    if record.device.power_mode is UNSET:
        return "device: object missing required field 'power_mode'"
    for index, run in enumerate(record.runs):
        if not run.samples_ms or not run.mean > 0:
            return f"runs[{index}]: got no call that took time, wanted one"
    return None


def upgrade_from_v1(old: BenchRecord) -> BenchRecord:
    """A record of version 1, in which every placeholder that its samples decide is computed."""
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
        engines={side: replace(one, path=path) for side, one in old.engines.items()},
        runs=tuple(_upgrade_run(run, old.protocol.batch) for run in old.runs),
    )


def _upgrade_run(run: RunRecord, batch: int) -> RunRecord:
    with np.errstate(invalid="ignore"):  # samples may be infinite
        p95 = float(np.percentile(run.samples_ms, 95))
    return replace(
        run,
        p95=p95,
        p99=run.p99 if run.n >= MIN_SAMPLES_P99 else None,
        throughput=1000 * batch / run.mean,
        compute_median=run.gpu_median or None,
        blocks=(run.n,),
    )
