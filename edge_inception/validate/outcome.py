"""One validation as a record, and that record as JSON.

The JSON, ``schema`` "edge-inception/report", ``schema_version`` 1 (units in the names; an estimate
is ``{value, lower, upper, method}``; what was not measured is null; infinite SQNR is the string
"inf" or "-inf", since JSON has no infinity):

- ``created_utc``, ``model``; ``data``: facts on the images, such as name, sha256, num_images,
  classes; ``context``: whatever else identifies the build (hashes, tool versions, paths);
- ``rows``: name, role ("baseline", "reference", "subject", "other"), backend, precision,
  float_precision, ``accuracy`` (Accuracy; reports before 2026-11-26 lack its ``changed``),
  ``latency`` (Latency), ``speedup`` over the reference,
  ``size_bytes``, ``weight_bytes``, ``executed_layers`` {type: count}, note;
- ``choices``: target, row, sentence of the engines that were chosen where several competed, and
  ``failed``, the rows among these that miss a gate;
- ``search``: of model.search.json what was chosen, why, and the front; {} without a search;
- ``verdict``: status, sentence, checks [{name, wanted, got, lower, upper, status, sentence}];
- ``machine`` (Machine) and ``latency_options`` (LatencyOptions), null without latencies.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from edge_inception.latency.machine import Machine
from edge_inception.latency.measure import Latency, LatencyOptions, ratio
from edge_inception.metrics.intervals import Estimate
from edge_inception.stage import plain
from edge_inception.validate.accuracy import Accuracy
from edge_inception.validate.gate import Verdict

SCHEMA = "edge-inception/report"
SCHEMA_VERSION = 1
_SAMPLE_DIGITS = 4  # of a ms: the clock of perf_counter_ns does not resolve more


class Role(Enum):
    """What a row is for: judged, compared with, or only shown.

    ``BASELINE`` is PyTorch, whose logits define agreement and SQNR; ``REFERENCE`` is the FP32
    engine that speed-ups are over; ``SUBJECT`` is the engine that is judged.
    """

    BASELINE = "baseline"
    REFERENCE = "reference"
    SUBJECT = "subject"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report: a model or an engine and what was measured on it.

    ``precision`` is of the typed graph, ``float_precision`` of the arithmetic in its float part.
    ``executed_layers`` counts layers by ``"<type> <precision>"`` as the library's runtime model
    names them. ``note`` says why a measurement is missing; a row without accuracy or latency must
    have one.
    """

    name: str
    role: Role
    backend: str
    precision: str
    float_precision: str
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    speedup: Estimate | None = None
    size_bytes: int | None = None
    weight_bytes: int | None = None
    executed_layers: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if (self.accuracy is None or self.latency is None) and not self.note:
            raise ValueError(f"row '{self.name}' lacks a measurement and the note that says why")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The engine of a target that ships when several compete: name of its row, and why.

    ``failed`` are the rows of those that competed and miss a gate.
    """

    target: str
    row: str
    sentence: str
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything one validation found; one row is a subject, or several spellings of it are."""

    model: str
    created_utc: str
    data: Mapping[str, Any]
    rows: tuple[Row, ...]
    verdict: Verdict
    choices: tuple[Choice, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    machine: Machine | None = None
    latency_options: LatencyOptions | None = None
    context: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_subjects = sum(row.role is Role.SUBJECT for row in self.rows)
        if not num_subjects:
            raise ValueError("a report judges a subject, got none")


def with_speedups(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows with ``speedup`` filled in: latency of the reference row over the row's own.

    A row without latency keeps None, and so do all when there is no reference with a latency.
    """
    timed = [row.latency for row in rows if row.role is Role.REFERENCE and row.latency]
    if not timed:
        return rows
    return tuple(
        dataclasses.replace(row, speedup=ratio(timed[0], row.latency)) if row.latency else row
        for row in rows
    )


def to_json(outcome: Outcome, *, with_samples: bool = True) -> dict[str, Any]:
    """The record as JSON values; see the module's docstring for the schema.

    Args:
        outcome: What was found.
        with_samples: Keep every single latency, for a later look at tails.
    """
    record: dict[str, Any] = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION}
    record |= _finite(plain(outcome))
    for row in record["rows"]:
        if row["latency"] is None:
            continue
        samples = row["latency"].pop("samples_ms")
        if with_samples:
            row["latency"]["samples_ms"] = [round(sample, _SAMPLE_DIGITS) for sample in samples]
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
