"""Records that ``device.py`` wrote on a device, for people: of ``verify`` and of ``bench``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_inception.device import verify
from edge_inception.errors import InputError
from edge_inception.latency.record import BenchRecord
from edge_inception.report.table import milliseconds as _ms


def read_proof(path: Path) -> dict[str, Any] | None:
    """The record of ``verify`` in a file; None where the file is something else.

    Raises:
        InputError: A record of a later version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("schema") != verify.SCHEMA:
        return None
    if record.get("schema_version") != verify.SCHEMA_VERSION:
        raise InputError(
            f"{path} is a record of version {record.get('schema_version')}, this edge-inception "
            f"reads {verify.SCHEMA_VERSION}",
            hint="use the edge-inception that made the bundle",
        )
    return record


def to_text(record: Mapping[str, Any] | BenchRecord) -> str:
    """A record of ``verify``, or of ``bench`` on a device, in lines.

    The verdict is the last line of a verification.
    """
    lines = _bench_lines(record) if isinstance(record, BenchRecord) else _verify_lines(record)
    return "\n".join(lines)


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
    failed = [check["sentence"] for check in checks if check["status"] == verify.FAILED]
    reason = failed[0] if failed else "the device answers as it was validated"
    return [
        _head(record, record["board"], record["engine"]),
        *(f"{c['status']:<12} {c['name']:<18} {c['sentence']}" for c in checks),
        f"{record['status']}: {reason}",
    ]


def _bench_lines(record: BenchRecord) -> list[str]:
    bundle, device, engine, run = record.bundle, record.device, record.engine, record.runs[0]
    assert bundle is not None
    where = device.model or device.cpu or "unknown device"
    library = f" {engine.plan_trt}" if engine.plan_trt else ""
    lines = [
        (
            f"{bundle.name} {bundle.version} on {where}: {engine.precision} by "
            f"{engine.backend}{library}, {record.created_utc}"
        )
    ]
    if mode := device.power_mode:
        clocks = "locked" if device.clocks_locked else "not locked"
        if not isinstance(device.clocks_locked, bool):
            clocks = "unknown"
        lines.append(f"power mode {mode.name}, clocks {clocks}")
    lines.append(
        f"batch {record.protocol.batch}, {run.n} calls: p50 {_ms(run.median)} ms, "
        f"p90 {_ms(run.p90)} ms" + (f", p99 {_ms(run.p99)} ms" if run.p99 else "")
    )
    if run.compute_median is not None:
        lines.append(f"of that on the GPU, median: {_ms(run.compute_median)} ms")
    return [*lines, *(f"warning: {warning}" for warning in run.warnings)]
