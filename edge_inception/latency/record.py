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
- ``result``, of "ab" and "aa": ratio B over A, ci95, method, delta, k, verdict, reasons, sentence;
- ``accuracy``, where labelled images were given: verdict, sentence, drop_pp, num_images;
- ``layers``, of bench --layers: name, kind, kernel and mean ms of each executed layer;
- ``against``, where A is of another day: file, created_utc.

``SHAPE`` says the same to a program. Several batches of one ``bench`` are a list of records.

Version 1 is what ``device.py bench`` writes on a device: "single", without what was fed, threads,
pair, p95, throughput, first_ms, peak_mib, cpu_mhz, power_mw, throttled, foreign_cores and blocks.
It is read as version 2: what follows from its samples is computed, the rest is null.

Source: docs/latency.md, "Record".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_inception.device import measure
from edge_inception.errors import InputError
from edge_inception.latency.json_shape import NUMBER, first_mismatch
from edge_inception.latency.measure import MIN_SAMPLES_P99

SCHEMA = measure.SCHEMA
SCHEMA_VERSION = 2
_FROM_DEVICES = measure.SCHEMA_VERSION
_VERDICTS = {"pass", "fail", "improved", "inconclusive", "invalid"}
_TEXT, _MAYBE_TEXT, _WHOLE, _MAYBE_NUMBER = (str,), (str, None), (int,), (*NUMBER, None)

_ENGINE: Mapping[str, Any] = {
    "path": _TEXT,
    "sha256": _TEXT,
    "bytes": _WHOLE,
    "backend": _TEXT,
    "precision": _MAYBE_TEXT,
    "float_precision": _MAYBE_TEXT,
    "typed": _MAYBE_TEXT,
    "batch": (dict, *NUMBER),
    "dla_core": _MAYBE_NUMBER,
    "tied_to": (dict,),
    "graph_sha256": _MAYBE_TEXT,
}
_RUN: Mapping[str, Any] = {
    "arm": _TEXT,
    "pair": _WHOLE,
    "t0": _TEXT,
    "n": _WHOLE,
    "median": NUMBER,
    "mean": NUMBER,
    "p90": NUMBER,
    "p95": NUMBER,
    "p99": _MAYBE_NUMBER,
    "cov": NUMBER,
    "throughput": NUMBER,
    "open_s": NUMBER,
    "first_ms": _MAYBE_NUMBER,
    "peak_mib": _MAYBE_NUMBER,
    "compute_median": _MAYBE_NUMBER,
    "temp_c": {"start": (dict,), "end": (dict,)},
    "cpu_mhz": {"start": _MAYBE_NUMBER, "end": _MAYBE_NUMBER},
    "gpu_mhz_min": _MAYBE_NUMBER,
    "power_mw": _MAYBE_NUMBER,
    "throttled": (bool, None),
    "unavailable": (dict,),
    "foreign_cores": _MAYBE_NUMBER,
    "warnings": [_TEXT],
    "blocks": [_WHOLE],
    "samples_ms": [NUMBER],
}
_RESULT: Mapping[str, Any] = {
    "ratio": _MAYBE_NUMBER,
    "ci95": ([NUMBER], None),
    "method": _MAYBE_TEXT,
    "delta": NUMBER,
    "k": NUMBER,
    "verdict": _TEXT,
    "reasons": [_TEXT],
    "sentence": _TEXT,
}
_ACCURACY: Mapping[str, Any] = {
    "verdict": _TEXT,
    "sentence": _TEXT,
    "drop_pp": {"value": NUMBER, "lower": NUMBER, "upper": NUMBER},
    "num_images": NUMBER,
}
SHAPE: Mapping[str, Any] = {
    "schema": _TEXT,
    "schema_version": NUMBER,
    "kind": _TEXT,
    "created_utc": _TEXT,
    "tool": (dict,),
    "model": {"name": _MAYBE_TEXT, "input": (list, None)},
    "engines": {"A": _ENGINE},
    "device": (dict,),
    "protocol": {
        "threads": _MAYBE_NUMBER,
        "batch": NUMBER,
        "streams": NUMBER,
        "runner": _TEXT,
        "metric": _TEXT,
        "input": _TEXT,
        "input_sha256": _TEXT,
    },
    "runs": [_RUN],
    "fingerprint": _TEXT,
}
_LAYERS = [{"name": _TEXT, "kind": _TEXT, "kernel": _TEXT, "ms": NUMBER}]
_JUDGED: Mapping[str, Any] = {"engines": {"B": _ENGINE}, "result": _RESULT}


def read_record(path: Path) -> dict[str, Any]:
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


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file, as version 2: one, or those of several batches.

    Raises:
        InputError: Not readable, something else, or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON", hint="give a record of bench") from error
    whole = found if isinstance(found, list) and found else [found]
    return [_checked(one, path) for one in whole]


def is_record(path: Path) -> bool:
    """Does a file hold what calls itself a record, or a list of them, of whatever version?"""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    first = found[0] if isinstance(found, list) and found else found
    return isinstance(first, dict) and first.get("schema") == SCHEMA


def _checked(record: Any, path: Path) -> dict[str, Any]:
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path} holds schema {schema!r}, wanted {SCHEMA!r}",
            hint="write one: edge-inception bench ENGINE --out FILE",
        )
    version = record.get("schema_version")
    if version not in (_FROM_DEVICES, SCHEMA_VERSION):
        raise InputError(
            f"{path} is a record of version {version}, this reads {_FROM_DEVICES} to "
            f"{SCHEMA_VERSION}",
            hint="update edge-inception",
        )
    wrong = first_mismatch(record, _SHAPE_1, SCHEMA) if version == _FROM_DEVICES else None
    whole = upgrade_from_v1(record) if wrong is None and version == _FROM_DEVICES else record
    wrong = wrong or _damage(whole)
    if wrong:
        raise InputError(
            f"{path} is not a whole record: {wrong} is missing or of another type",
            hint="measure again: edge-inception bench or compare, with --out",
        )
    return dict(whole)


def _damage(record: Mapping[str, Any]) -> str | None:
    """Where a record of version 2 is not what it says; None where it is whole."""
    wrong = first_mismatch(record, SHAPE, SCHEMA)
    if wrong is None and {run["arm"] for run in record["runs"]} != record["engines"].keys():
        wrong = f"{SCHEMA}.runs of each engine"
    if wrong is None and record["kind"] != "single":
        judged = _JUDGED if record["kind"] == "ab" else {"result": _RESULT}
        wrong = first_mismatch(record, judged, SCHEMA)
        if wrong is None and record["result"]["verdict"] not in _VERDICTS:
            wrong = f"{SCHEMA}.result.verdict"
    if wrong is None and "layers" in record:
        wrong = first_mismatch(record["layers"], _LAYERS, f"{SCHEMA}.layers")
    if wrong is None and record.get("accuracy"):
        wrong = first_mismatch(record["accuracy"], _ACCURACY, f"{SCHEMA}.accuracy")
        if wrong is None and record["accuracy"]["verdict"] not in _VERDICTS:
            wrong = f"{SCHEMA}.accuracy.verdict"
    return wrong


_SHAPE_1: Mapping[str, Any] = {
    "bundle": {"name": _TEXT, "version": _TEXT},
    "engines": {"A": {"backend": _TEXT, "plan_trt": _MAYBE_TEXT}},
    "device": {"power_mode": ({"name": _TEXT}, None)},
    "protocol": {"batch": NUMBER},
    "runs": [{"mean": NUMBER, "n": _WHOLE, "p99": NUMBER, "samples_ms": [NUMBER]}],
}


def upgrade_from_v1(old: Mapping[str, Any]) -> dict[str, Any]:
    """What ``device.py`` wrote, as version 2 says it."""
    device, engine = old["device"], old["engines"]["A"]
    library = device.get("library")
    return {
        **old,
        "schema_version": SCHEMA_VERSION,
        "device": {
            **device,
            "architecture": device.get("machine"),
            "libraries": {engine["backend"]: library} if library else {},
        },
        "engines": {
            "A": {
                "path": f"{old['bundle']['name']} {old['bundle']['version']}",
                "float_precision": None,
                "tied_to": {},
                **engine,
            }
        },
        "protocol": {"threads": None, "input": "golden images of the bundle", **old["protocol"]},
        "runs": [_raised_run(run, old["protocol"]["batch"]) for run in old["runs"]],
    }


def _raised_run(run: Mapping[str, Any], batch: float) -> dict[str, Any]:
    samples = run["samples_ms"]
    found = {
        "pair": 0,
        "p95": float(np.percentile(samples, 95)) if samples else None,
        "throughput": 1000 * batch / run["mean"] if run["mean"] else None,
        "compute_median": run.get("gpu_median"),
        "cpu_mhz": {"start": None, "end": None},
        "unavailable": {},
        "blocks": [run["n"]],
    }
    missing = ("first_ms", "peak_mib", "power_mw", "throttled", "foreign_cores")
    p99 = run["p99"] if run["n"] >= MIN_SAMPLES_P99 else None
    return {**dict.fromkeys(missing), **found, **run, "p99": p99}
