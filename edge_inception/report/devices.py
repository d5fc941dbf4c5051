"""Records that ``device.py`` wrote on a device, for people: of ``verify`` and of ``bench``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_inception.device import measure, proof
from edge_inception.errors import InputError

_SCHEMAS: Mapping[str, int] = {
    measure.SCHEMA: measure.SCHEMA_VERSION,
    proof.SCHEMA: proof.SCHEMA_VERSION,
}


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file; None where the file is something else, a report for instance.

    Raises:
        InputError: A record of a later version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    schema = str(record.get("schema")) if isinstance(record, dict) else ""
    if schema not in _SCHEMAS:
        return None
    if record.get("schema_version") != _SCHEMAS[schema]:
        raise InputError(
            f"{path} is a record of version {record.get('schema_version')}, this edge-inception "
            f"reads {_SCHEMAS[schema]}",
            hint="use the edge-inception that made the bundle",
        )
    return dict(record)


def to_text(record: Mapping[str, Any]) -> str:
    """The record in lines; the verdict is the last one of a verification."""
    is_bench = record["schema"] == measure.SCHEMA
    return "\n".join(_bench_lines(record) if is_bench else _verify_lines(record))


def _head(record: Mapping[str, Any], device: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    bundle = record["bundle"]
    where = device.get("model") or device.get("cpu") or "unknown device"
    library = engine.get("tensorrt") or engine.get("plan_trt") or engine.get("openvino")
    return (
        f"{bundle['name']} {bundle['version']} on {where}: {engine['precision']} by "
        f"{engine['backend']}{f' {library}' if library else ''}, {record['created_utc']}"
    )


def _verify_lines(record: Mapping[str, Any]) -> list[str]:
    checks = record["checks"]
    failed = [check["sentence"] for check in checks if check["status"] == proof.FAILED]
    reason = failed[0] if failed else "the device answers as it was validated"
    return [
        _head(record, record["board"], record["engine"]),
        *(f"{c['status']:<12} {c['name']:<18} {c['sentence']}" for c in checks),
        f"{record['status']}: {reason}",
    ]


def _bench_lines(record: Mapping[str, Any]) -> list[str]:
    device, (run,) = record["device"], record["runs"]
    lines = [_head(record, device, record["engines"]["A"])]
    mode = device.get("power_mode")
    if mode:
        clocks = {True: "locked", False: "not locked", None: "unknown"}[device["clocks_locked"]]
        lines.append(f"power mode {mode['name']}, clocks {clocks}")
    lines.append(
        f"batch {record['protocol']['batch']}, {run['n']} calls: p50 {run['median']:.2f} ms, "
        f"p90 {run['p90']:.2f} ms, p99 {run['p99']:.2f} ms"
    )
    if run["gpu_median"] is not None:
        lines.append(f"of that on the GPU, median: {run['gpu_median']:.2f} ms")
    return [*lines, *(f"warning: {warning}" for warning in run["warnings"])]
