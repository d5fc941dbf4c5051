"""Small reports for tests: what is not named was not measured."""

from __future__ import annotations

from typing import Any

from edge_inception.validate.report_record import (
    Check,
    EngineFileRef,
    ReportFiles,
    ReportRecord,
    Role,
    Row,
    Status,
    ValidationSet,
    Verdict,
)

_ROW = {
    "role": Role.SUBJECT,
    "backend": "openvino",
    "precision": "int8",
    "float_precision": "f32",
    "accuracy": None,
    "latency": None,
    "speedup": None,
    "size_bytes": None,
    "weight_bytes": None,
    "executed_layers": {},
    "note": "not measured here",
}


def row(name: str, **changes: Any) -> Row:
    return Row(name=name, **_ROW | changes)


def check(name: str, status: Status = Status.PASSED) -> Check:
    return Check(
        name=name, wanted=10.0, got=None, lower=None, upper=None, status=status, sentence=name
    )


def report(
    *rows: Row,
    checks: tuple[Check, ...] = (),
    status: Status = Status.PASSED,
    engines: dict[str, EngineFileRef] | None = None,
    baseline_sha256: str = "",
) -> ReportRecord:
    return ReportRecord(
        model="tiny",
        created_utc="2026-11-26T07:00:00Z",
        data=ValidationSet(name="photos", sha256="ab" * 32, num_images=1, classes=()),
        rows=rows,
        verdict=Verdict(status=status, checks=checks, sentence="as the test says"),
        machine=None,
        latency_options=None,
        context=ReportFiles(engines=engines or {}, baseline_sha256=baseline_sha256 or "cd" * 32),
    )
