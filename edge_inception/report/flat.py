"""Reports as CSV: one line for each engine of each report."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

_COLUMNS = (
    "report", "model", "created_utc", "status", "row", "role", "backend", "precision",
    "float_precision", "num_images", "top1", "top1_lower", "top1_upper", "drop_pp",
    "drop_pp_lower", "drop_pp_upper", "agreement", "agreement_lower", "agreement_upper", "sqnr_db",
    "p50_ms", "p90_ms", "p99_ms", "mean_ms", "num_calls", "batch", "threads", "speedup",
    "speedup_lower", "speedup_upper", "size_bytes", "note",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The reports, each under its name, shares as 0..1; empty where nothing was measured.

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for name, report in reports.items():
        writer.writerows(
            {key: _safe(value) for key, value in line.items()} for line in _lines(name, report)
        )
    return stream.getvalue()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _lines(name: str, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    common = {
        "report": name,
        "model": report["model"],
        "created_utc": report["created_utc"],
        "status": report["verdict"]["status"],
        "num_images": report["data"]["num_images"],
    }
    taken = ("role", "backend", "precision", "float_precision", "size_bytes", "note")
    timed = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "num_calls", "batch", "threads")
    for row in report["rows"]:
        yield {
            **common,
            "row": row["name"],
            **{key: row.get(key) for key in taken},
            **{key: (row["latency"] or {}).get(key) for key in timed},
            **_accuracy(row["accuracy"]),
            **_estimate("speedup", row["speedup"]),
        }


def _accuracy(found: Mapping[str, Any] | None) -> dict[str, Any]:
    if not found:
        return {}
    labelled = found["labelled"] or {}
    return {
        **_estimate("agreement", found["agreement"]),
        "sqnr_db": found["sqnr_db"],
        **_estimate("top1", labelled["engine"]["top1"] if labelled else None),
        **_estimate("drop_pp", labelled.get("drop_pp")),
    }


def _estimate(name: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    if not found:
        return {}
    return {name: found["value"], f"{name}_lower": found["lower"], f"{name}_upper": found["upper"]}
