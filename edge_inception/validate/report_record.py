"""The record of a validation, ``report.json``.

``schema`` is "edge-inception/report" and ``schema_version`` 1. Field names end in their units. An
estimate has bounds and a method. A figure that was not measured is null; an infinite SQNR is the
string "inf" or "-inf", since JSON has no infinity. ``search`` is the outcome of the search for the
layer groups to leave in float, or {} if there was no search. Reports from before 2026-11-26 lack
``changed``, and some lack fields that have a default below; such reports can still be read.
"""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from edge_inception import records
from edge_inception.errors import InputError, counted
from edge_inception.latency.machine import Machine
from edge_inception.latency.measure import Latency, LatencyOptions
from edge_inception.metrics.intervals import Estimate
from edge_inception.quant.search_record import Number, SearchOutcome
from edge_inception.records import Count, Record

SCHEMA: Final = "edge-inception/report"
SCHEMA_VERSION: Final = 1
_HINT = "run `edge-inception validate` again"
_SAMPLE_DIGITS = 4  # decimals of a time in ms: 0.1 us, about the time of a call of perf_counter_ns

if TYPE_CHECKING:
    Unbounded = float
else:  # JSON spells infinities as strings; the records' __post_init__ makes them numbers
    Unbounded = float | Literal["inf", "-inf"]

Cell = tuple[int, int, int]
"""(label, predicted class, count) of a confusion matrix; only non-zero cells are kept."""


class Role(Enum):
    """Role of a row in the report.

    ``BASELINE`` is the FP32 model, such as PyTorch's; agreement and SQNR compare the logits of each
    engine with those of this model. ``REFERENCE`` is the FP32 engine that speed-ups are relative
    to. ``SUBJECT`` is an engine that is judged. ``OTHER`` is an engine that is only shown.
    """

    BASELINE = "baseline"
    REFERENCE = "reference"
    SUBJECT = "subject"
    OTHER = "other"


class Status(Enum):
    """Outcome of one gate, or of all gates together."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    INCONCLUSIVE = "INCONCLUSIVE"


class LabelMetrics(Record, frozen=True, kw_only=True):
    """Quality of the logits of one model or engine against labels.

    ``top1`` is a share with Wilson's interval. ``recall`` has a value for each class, None if the
    class has no images; ``balanced_accuracy`` is the mean recall of the classes that have images.
    ``auroc`` takes class 1 as positive; None unless there are two classes and both have images.
    """

    top1: Estimate
    balanced_accuracy: float
    recall: tuple[float | None, ...]
    confusion: tuple[Cell, ...]
    auroc: float | None


class LabelledAccuracy(Record, frozen=True, kw_only=True):
    """Quality of baseline and engine against the labels of the same images.

    ``drop_pp`` is the top-1 drop in percentage points, positive when the engine is worse; each
    bound is a one-sided 95 % confidence bound. ``confusion_change`` has the cells of the engine's
    confusion matrix minus those of the baseline's.
    """

    num_images: Count
    baseline: LabelMetrics
    engine: LabelMetrics
    num_right_to_wrong: Count
    num_wrong_to_right: Count
    drop_pp: Estimate
    confusion_change: tuple[Cell, ...]


class ChangedImage(Record, frozen=True, kw_only=True):
    """An image whose class the engine changed.

    ``image`` is the image's path, or its index in the validation set if the path is unknown.
    ``label`` is None for an unlabelled image. ``before`` is the baseline's class, ``after`` the
    engine's. The scores are the probabilities, 0..1, of these two classes in that order.
    """

    image: str
    sha256: str
    label: Count | None
    before: Count
    after: Count
    baseline_scores: tuple[float, float]
    engine_scores: tuple[float, float]


class Accuracy(Record, frozen=True, kw_only=True):
    """One engine against the baseline.

    ``agreement`` is the share of images with the same top-1, or for embeddings with the same
    nearest other image; each bound is a one-sided 95 % confidence bound. ``sqnr_db`` is infinite if
    the values that it compares are equal; ``sqnr_of`` names these values, such as ``centred
    logits``. ``labelled`` is None if no image has a label. ``changed`` lists at most 50 images
    whose class the engine changed, sorted by the baseline's probability of its own class minus that
    of the engine's class, largest first; it is empty for embeddings and None in older reports.
    """

    num_images: Count
    num_classes: Count
    agreement: Estimate
    sqnr_db: Unbounded
    labelled: LabelledAccuracy | None
    sqnr_of: str = msgspec.field(default="", name="terms")
    changed: tuple[ChangedImage, ...] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "sqnr_db", float(self.sqnr_db))


class Row(Record, frozen=True, kw_only=True):
    """One row of the report: a model or an engine, and its measured figures.

    ``precision`` is the precision of the typed graph (an ONNX graph in which the precision of every
    tensor is explicit), ``float_precision`` that of the arithmetic in its float part. ``speedup``
    is the reference's latency over the row's. ``executed_layers`` counts layers by ``"<type>
    <precision>"``, in the library's words. ``note`` says why accuracy or latency is missing.

    Raises:
        ValueError: Accuracy or latency is missing, and ``note`` is empty.
    """

    name: str
    role: Role
    backend: str
    precision: str
    float_precision: str
    accuracy: Accuracy | None
    latency: Latency | None
    speedup: Estimate | None
    size_bytes: Count | None
    weight_bytes: Count | None
    executed_layers: dict[str, Count]
    note: str

    def __post_init__(self) -> None:
        if (self.accuracy is None or self.latency is None) and not self.note:
            raise ValueError(f"row '{self.name}' lacks a measurement and the note that says why")

    @property
    def is_subject(self) -> bool:
        """Whether the row's engine is judged."""
        return self.role is Role.SUBJECT

    @property
    def labelled(self) -> LabelledAccuracy | None:
        """Accuracy against labels; None if the engine was not executed or no image has a label."""
        return self.accuracy.labelled if self.accuracy else None


class Choice(Record, frozen=True, kw_only=True):
    """The engine that was chosen to ship for a target, out of several that compete.

    ``row`` is the name of its row and ``sentence`` the reason for the choice. ``failed`` are the
    names of the rows whose engines competed and miss a gate.
    """

    target: str
    row: str
    sentence: str
    failed: tuple[str, ...] = ()


class Check(Record, frozen=True, kw_only=True):
    """Result of one gate: ``wanted`` is the limit, ``got`` the measured value.

    ``got`` is None if nothing was measured. ``lower`` and ``upper`` are its bounds; both are None
    for a figure without sampling error, such as SQNR, which describes exactly these images.
    """

    name: str
    wanted: Number
    got: Unbounded | None
    lower: float | None
    upper: float | None
    status: Status
    sentence: str

    def __post_init__(self) -> None:
        if self.got is not None:
            msgspec.structs.force_setattr(self, "got", float(self.got))


class Verdict(Record, frozen=True, kw_only=True):
    """Status of all gates together, the check of each gate, and a sentence with the reason.

    ``warnings`` are sentences on inputs that look wrong; no gate depends on them.
    """

    status: Status
    checks: tuple[Check, ...]
    sentence: str
    warnings: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """Status, reason and number of warnings in one line, which commands print last."""
        doubts = f" ({counted(len(self.warnings), 'warning')})" if self.warnings else ""
        return f"{self.status.value}: {self.sentence}{doubts}"


class ValidationSet(Record, frozen=True, kw_only=True):
    """The validation images.

    ``name`` and ``sha256`` identify the set. ``num_images`` counts the images that were used,
    ``num_left_out`` the unusable ones. ``classes`` are names by logit index.
    """

    name: str
    sha256: str
    num_images: Count
    num_left_out: Count = 0
    classes: tuple[str, ...]


class EngineFileRef(Record, frozen=True, kw_only=True):
    """Name of an engine's file in the folder of the report, and the hash of the file."""

    file: str
    sha256: str


class ReportFiles(Record, frozen=True, kw_only=True):
    """Hashes of the compared files: engines by the name of their row, and the baseline."""

    engines: dict[str, EngineFileRef]
    baseline_sha256: str


class ReportRecord(Record, frozen=True, kw_only=True):
    """The results of a validation.

    ``choices`` has the chosen engine of each target for which several competed. ``machine`` and
    ``latency_options`` are None if no latency was measured.

    Raises:
        ValueError: No row is judged.
    """

    schema: Literal["edge-inception/report"] = SCHEMA
    schema_version: Literal[1] = SCHEMA_VERSION
    model: str
    created_utc: str
    data: ValidationSet
    rows: tuple[Row, ...]
    verdict: Verdict
    choices: tuple[Choice, ...] = ()
    search: SearchOutcome | None = None
    machine: Machine | None
    latency_options: LatencyOptions | None
    context: ReportFiles

    def __post_init__(self) -> None:
        if not any(row.is_subject for row in self.rows):
            raise ValueError("a report needs a row that is judged, got none")

    @property
    def subjects(self) -> tuple[Row, ...]:
        """The rows that are judged, at least one."""
        return tuple(row for row in self.rows if row.is_subject)

    @property
    def status(self) -> Literal["PASSED", "FAILED", "INCONCLUSIVE"]:
        """The verdict in one word: PASSED, FAILED or INCONCLUSIVE."""
        return self.verdict.status.value

    def file_of(self, row: str) -> EngineFileRef:
        """The engine file of the row with the name ``row``.

        Raises:
            InputError: ``context`` has no file for this row.
        """
        file = self.context.engines.get(row)
        if file is None:
            raise InputError(f"report without the engine file of row '{row}'", hint=_HINT)
        return file


def read(path: Path) -> ReportRecord:
    """The report in the JSON file ``path``; its figures may be NaN.

    Raises:
        InputError: The file cannot be read, or is not a report of a known version.
    """
    value = records.read_json(path, hint="name a report.json", allow_nan=True)
    return convert(value, where=str(path))


def convert(value: Any, *, where: str) -> ReportRecord:
    """The report that a JSON value holds; ``where`` names the value in errors.

    Raises:
        InputError: The value is not a report of a known version.
    """
    if isinstance(value, dict):
        schema, version = value.get("schema"), value.get("schema_version")
        if (schema, version) != (SCHEMA, SCHEMA_VERSION):
            raise InputError(
                f"{where} is not a report: schema {schema!r:.60} version {version!r:.60}, "
                f"wanted {SCHEMA!r} version {SCHEMA_VERSION}",
                hint=_HINT,
            )
        if value.get("search") == {}:
            value = value | {"search": None}
    return records.convert(ReportRecord, value, where=where, hint=_HINT)


def to_json(report: ReportRecord) -> dict[str, Any]:
    """The report as JSON values; the module's docstring describes the schema."""
    rows = tuple(_round_samples(row) for row in report.rows)
    value: dict[str, Any] = _finite(records.plain(msgspec.structs.replace(report, rows=rows)))
    return value | {"search": value["search"] or {}}


def _round_samples(row: Row) -> Row:
    if row.latency is None:
        return row
    samples = tuple(round(sample, _SAMPLE_DIGITS) for sample in row.latency.samples_ms)
    latency = msgspec.structs.replace(row.latency, samples_ms=samples)
    return msgspec.structs.replace(row, latency=latency)


def _finite(value: Any) -> Any:
    """JSON values with infinities as the strings "inf" and "-inf"; NaN is left as it is."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
