"""Records of ``device.py verify`` and ``device.py bench`` as text."""

from __future__ import annotations

from pathlib import Path

from edge_inception.device import records, verify
from edge_inception.device.errors import Refusal
from edge_inception.errors import InputError
from edge_inception.latency.record import BenchRecord
from edge_inception.report.table import milliseconds as _ms

_HINT = "verify again on the device, with --out"


def read_verification(path: Path) -> verify.Verification | None:
    """The record of ``verify`` in a file; None where the file holds something else.

    Raises:
        InputError: The record is damaged or of a later version.
    """
    try:
        value = records.parse(path.read_bytes(), str(path), _HINT)
    except (OSError, Refusal):
        return None
    if not isinstance(value, dict) or value.get("schema") != verify.SCHEMA:
        return None
    try:
        return verify.read_verification(value, str(path), _HINT)
    except Refusal as error:
        raise InputError(str(error), hint=error.fix) from error


def to_text(record: verify.Verification | BenchRecord) -> str:
    """Lines of text for a record of ``verify``, which end in the verdict, or of ``bench``."""
    if isinstance(record, verify.Verification):
        return "\n".join(_verify_lines(record))
    return "\n".join(_bench_lines(record))


def _verify_lines(record: verify.Verification) -> list[str]:
    bundle, engine = record.bundle, record.engine
    device = record.board.model or record.board.cpu or "unknown device"
    library = engine.tensorrt or engine.openvino
    failed = [check.sentence for check in record.checks if check.status == verify.FAILED]
    reason = failed[0] if failed else "the device answers as it was validated"
    compiled = f"{engine.precision} by {engine.backend}{f' {library}' if library else ''}"
    return [
        f"{bundle.name} {bundle.version} on {device}: {compiled}, {record.created_utc}",
        *(f"{check.status:<12} {check.name:<18} {check.sentence}" for check in record.checks),
        f"{record.status}: {reason}",
    ]


def _bench_lines(record: BenchRecord) -> list[str]:
    bundle, device, engine, run = record.bundle, record.device, record.engine, record.runs[0]
    assert bundle is not None
    where = device.model or device.cpu or "unknown device"
    library = f" {engine.plan_trt}" if engine.plan_trt else ""
    compiled = f"{engine.precision} by {engine.backend}{library}"
    lines = [f"{bundle.name} {bundle.version} on {where}: {compiled}, {record.created_utc}"]
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
