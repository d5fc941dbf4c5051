"""CSV of reports, one line for each engine, and of latency records, one line for each run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edge_inception.latency.record import BenchRecord
from edge_inception.metrics.intervals import Estimate
from edge_inception.validate.report_record import Accuracy, ReportRecord

_REPORT_COLUMNS = (
    "report", "model", "created_utc", "status", "row", "role", "backend", "precision",
    "float_precision", "num_images", "top1", "top1_lower", "top1_upper", "drop_pp",
    "drop_pp_lower", "drop_pp_upper", "agreement", "agreement_lower", "agreement_upper", "sqnr_db",
    "p50_ms", "p90_ms", "p99_ms", "mean_ms", "num_calls", "batch", "threads", "speedup",
    "speedup_lower", "speedup_upper", "size_bytes", "note",
)  # fmt: skip
_RUN_COLUMNS = (
    "n", "median", "mean", "p90", "p95", "p99", "throughput", "open_s", "first_ms", "peak_mib",
    "power_mw", "throttled", "foreign_cores",
)  # fmt: skip
_BENCH_COLUMNS = (
    "record", "model", "created_utc", "verdict", "engine", "pair", "path", "backend", "precision",
    "bytes", "batch", "streams", "threads", "t0", *_RUN_COLUMNS,
)  # fmt: skip
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def to_csv(reports: Mapping[str, ReportRecord]) -> str:
    """CSV of the reports by name; shares are 0..1, and a cell that was not measured is empty.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    lines = (line for name, report in reports.items() for line in _report_lines(name, report))
    return _to_text(_REPORT_COLUMNS, lines)


def timings_to_csv(records: Mapping[str, Sequence[BenchRecord]]) -> str:
    """CSV of the runs of ``bench`` and ``compare``, from the records of each file by its name."""
    named = ((name, record) for name, several in records.items() for record in several)
    return _to_text(_BENCH_COLUMNS, (line for pair in named for line in _bench_lines(*pair)))


def _to_text(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _escape(value) for key, value in line.items()} for line in lines)
    return stream.getvalue()


def _bench_lines(name: str, record: BenchRecord) -> Iterator[dict[str, Any]]:
    result = record.result
    for run in record.runs:
        engine = record.engines[run.side]
        yield {
            "record": name,
            "model": record.model.name,
            "created_utc": record.created_utc,
            "verdict": result.verdict.value if result else None,
            **{key: getattr(engine, key) for key in ("path", "backend", "precision", "bytes")},
            **{key: getattr(record.protocol, key) for key in ("batch", "streams", "threads")},
            "engine": run.side,
            **{key: getattr(run, key) for key in ("pair", "t0", *_RUN_COLUMNS)},
        }


def _escape(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _report_lines(name: str, report: ReportRecord) -> Iterator[dict[str, Any]]:
    common = {
        "report": name,
        "model": report.model,
        "created_utc": report.created_utc,
        "status": report.status,
        "num_images": report.data.num_images,
    }
    of_row = ("backend", "precision", "float_precision", "size_bytes", "note")
    of_latency = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "num_calls", "batch", "threads")
    for row in report.rows:
        yield {
            **common,
            "row": row.name,
            "role": row.role.value,
            **{key: getattr(row, key) for key in of_row},
            **{key: getattr(row.latency, key, None) for key in of_latency},
            **_accuracy(row.accuracy),
            **_estimate("speedup", row.speedup),
        }


def _accuracy(accuracy: Accuracy | None) -> dict[str, Any]:
    if accuracy is None:
        return {}
    labelled = accuracy.labelled
    return {
        **_estimate("agreement", accuracy.agreement),
        "sqnr_db": accuracy.sqnr_db,
        **_estimate("top1", labelled.engine.top1 if labelled else None),
        **_estimate("drop_pp", labelled.drop_pp if labelled else None),
    }


def _estimate(name: str, figure: Estimate | None) -> dict[str, Any]:
    if figure is None:
        return {}
    return {name: figure.value, f"{name}_lower": figure.lower, f"{name}_upper": figure.upper}
