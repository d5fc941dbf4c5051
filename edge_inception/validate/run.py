"""The stage ``validate``: accuracy and latency of engines, and the verdict on a precision."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import structs

from edge_inception import artifact, inference
from edge_inception.artifact import Baseline, Report
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet
from edge_inception.engines import _registry as backends
from edge_inception.errors import InputError
from edge_inception.latency import machine, measure
from edge_inception.latency.contender import preprocessed_photos
from edge_inception.latency.measure import Contender, Latency, LatencyOptions
from edge_inception.metrics.intervals import Estimate
from edge_inception.sidecar import BlobDetails, EngineDetails, PlanDetails, ReportDetails
from edge_inception.spec import Head, Preprocess, Progress, no_progress
from edge_inception.validate import accuracy, gate, plausibility
from edge_inception.validate.accuracy import BaselineArrays
from edge_inception.validate.choice import Candidate, choose
from edge_inception.validate.options import (
    EngineEntry,
    TimedBaseline,
    ValidateOptions,
    require_gates,
    validate_provenance,
)
from edge_inception.validate.report_record import (
    Accuracy,
    Choice,
    EngineFileRef,
    ReportFiles,
    ReportRecord,
    Role,
    Row,
    Status,
    ValidationSet,
    Verdict,
    to_json,
)

_SCORE_BATCH = 16
_BLOCK_WEIGHT = 10  # number of images that are scored in about the time of one timed block


def validate(
    baseline: Baseline,
    entries: Sequence[EngineEntry],
    image_set: ImageSet,
    options: ValidateOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Report:
    """Accuracy and latency of every engine that this machine can execute, and the verdict.

    The baseline must have been recorded on the images of ``image_set`` in the same order. An
    engine whose backend cannot execute here is listed, not measured. ``progress`` counts images; a
    block of timed calls counts as the number of images that are scored in about the same time.

    Raises:
        InputError: No engine has the precision to judge, an engine or the baseline does not fit, or
            a logit is NaN or infinite.
        Inconclusive: Latency could not be measured.
    """
    if not any(entry.is_subject for entry in entries):
        raise InputError(
            "there is no engine to judge", hint="compile one in the precision to validate"
        )
    head = entries[0].engine.details.head
    require_gates(options.gates, head, options.model)
    arrays = accuracy.load_baseline(baseline)
    running = [
        entry
        for entry in entries
        if backends.backend(entry.engine.details.backend).availability().can_execute
    ]
    scores: dict[str, Accuracy] = {}
    scored = len(running) * len(image_set.items)
    blocks = options.rounds * (len(running) + 1) if running else 0  # PyTorch is timed as well
    total = scored + blocks * _BLOCK_WEIGHT
    for index, entry in enumerate(running):
        before = index * len(image_set.items)
        on_score: Progress = lambda done, _, before=before: progress(before + done, total)  # type: ignore[misc] # noqa: E731
        scores[name_of(entry)] = _score(entry, arrays, image_set, options, on_score)
    on_block: Progress = lambda done, _: progress(scored + done * _BLOCK_WEIGHT, total)  # noqa: E731
    timed = _measure_latency(running, image_set, options, on_block)
    baseline_row = _baseline_row(arrays, timed, head, options.baseline)
    rows = with_speedups((baseline_row, *_engine_rows(entries, scores, timed)))
    choices: tuple[Choice, ...] = ()
    if options.engines_compete:
        rows, choices, verdicts = _choose(rows, entries, options)
    else:
        verdicts = _verdicts(rows, entries, options)
    warnings = plausibility.warnings(
        arrays,
        image_set,
        options.calibration,
        options.preprocess,
        has_classes=head.kind != "embedding",
    )
    record = ReportRecord(
        model=options.model,
        created_utc=dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        data=_validation_set(image_set),
        rows=rows,
        verdict=structs.replace(gate.joint(verdicts), warnings=warnings),
        choices=choices,
        search=options.search,
        machine=machine.describe(),
        latency_options=_latency_options(options),
        context=_context(entries, baseline),
    )
    text = json.dumps(to_json(record), indent=1) + "\n"
    return artifact.publish(
        Report,
        out,
        text.encode(),
        provenance=validate_provenance(baseline, entries, image_set, options),
        counts={"num_images": len(image_set.items), "num_engines": len(running)},
        details=ReportDetails(status=record.status),
    )


def _validation_set(image_set: ImageSet) -> ValidationSet:
    return ValidationSet(
        name=image_set.name,
        sha256=image_set.sha256,
        num_images=len(image_set.items),
        num_left_out=image_set.num_left_out,
        classes=tuple(image_set.classes),
    )


def _context(entries: Sequence[EngineEntry], baseline: Baseline) -> ReportFiles:
    engines = {
        name_of(entry): EngineFileRef(file=entry.engine.path.name, sha256=entry.engine.sha256)
        for entry in entries
    }
    return ReportFiles(engines=engines, baseline_sha256=baseline.sha256)


def with_speedups(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows with their ``speedup``, the latency of the reference row over the row's own.

    The speed-up stays None for a row without latency. If no reference row has a latency, it stays
    None for all rows.
    """
    timed = [row.latency for row in rows if row.role is Role.REFERENCE and row.latency]
    if not timed:
        return rows
    return tuple(
        structs.replace(row, speedup=measure.ratio(timed[0], row.latency)) if row.latency else row
        for row in rows
    )


def name_of(entry: EngineEntry) -> str:
    """Name of an engine's row, such as ``INT8 (cpu)`` or ``engine bf16 (cpu)``."""
    if entry.precision == "fp32":
        return f"engine {entry.float_precision} ({entry.target})"
    return f"{entry.precision.upper()} ({entry.target})"


def _score(
    entry: EngineEntry,
    arrays: BaselineArrays,
    image_set: ImageSet,
    options: ValidateOptions,
    progress: Progress,
) -> Accuracy:
    with inference.open_engine(
        entry.engine.path, threads=options.threads, cuda_graph=options.cuda_graph
    ) as session:
        details = entry.engine.details
        batches = images.batches(image_set.items, details.preprocess, _SCORE_BATCH)
        return accuracy.score(session, arrays, batches, head=details.head, progress=progress)


def _measure_latency(
    running: Sequence[EngineEntry],
    image_set: ImageSet,
    options: ValidateOptions,
    progress: Progress,
) -> dict[str, Latency]:
    """Latency of the baseline and the ``running`` engines by row name, measured interleaved."""
    if not running:
        return {}
    floats = options.preprocess.normalised
    own = {name_of(entry): entry.engine.details.preprocess for entry in running}
    with _written_photos(image_set, options, {floats, *own.values()}) as photo_files:
        contenders = [
            Contender(
                name=options.baseline.name,
                factory=options.baseline.factory,
                arguments=options.baseline.arguments,
                images=photo_files[floats],
            )
        ]
        contenders += [
            Contender(
                name=name_of(entry),
                factory="edge_inception.inference:open_engine",
                arguments={"path": str(entry.engine.path), "cuda_graph": options.cuda_graph},
                images=photo_files[own[name_of(entry)]],
            )
            for entry in running
        ]
        return measure.measure(
            contenders, photo_files[floats], _latency_options(options), progress=progress
        )


@contextmanager
def _written_photos(
    image_set: ImageSet, options: ValidateOptions, preprocesses: set[Preprocess]
) -> Iterator[dict[Preprocess, Path]]:
    """For each preprocessing the .npy file of photos for timed calls, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
        paths = {}
        for index, preprocess in enumerate(preprocesses):
            paths[preprocess] = Path(folder) / f"images{index}.npy"
            np.save(paths[preprocess], preprocessed_photos(image_set, preprocess, options.batch))
        yield paths


def _latency_options(options: ValidateOptions) -> LatencyOptions:
    return LatencyOptions(
        threads=options.threads,
        batch=options.batch,
        rounds=options.rounds,
        calls_per_block=options.calls_per_block,
    )


def _baseline_row(
    arrays: BaselineArrays, timed: dict[str, Latency], head: Head, model: TimedBaseline
) -> Row:
    own = head if head.kind == "embedding" else Head()  # baselines hold logits or embeddings
    return Row(
        name=model.name,
        role=Role.BASELINE,
        backend=model.library,
        precision="fp32",
        float_precision="f32",
        accuracy=accuracy.compare(arrays.logits, arrays.labels, arrays.logits, head=own),
        latency=timed.get(model.name),
        speedup=None,
        size_bytes=None,
        weight_bytes=None,
        executed_layers={},
        note="" if timed else "no engine can be executed here, so nothing was timed",
    )


def _engine_rows(
    entries: Sequence[EngineEntry], scores: dict[str, Accuracy], timed: dict[str, Latency]
) -> Iterator[Row]:
    subjects = _subjects(entries, scores)
    reference = _reference(entries, subjects[0])
    for entry in entries:
        name, details = name_of(entry), entry.engine.details
        role = Role.OTHER
        if entry in subjects:
            role = Role.SUBJECT
        elif entry is reference:
            role = Role.REFERENCE
        yield Row(
            name=name,
            role=role,
            backend=details.backend,
            precision=entry.precision,
            float_precision=entry.float_precision,
            accuracy=scores.get(name),
            latency=timed.get(name),
            speedup=None,
            size_bytes=entry.engine.path.stat().st_size,
            weight_bytes=details.total_weight_bytes if isinstance(details, PlanDetails) else None,
            executed_layers=_executed_layers(details),
            note="" if name in scores else "compiled, not executed here",
        )


def _subjects(entries: Sequence[EngineEntry], scores: dict[str, Accuracy]) -> list[EngineEntry]:
    """Engines to judge, of the precision asked for: all executed ones, else only the first."""
    candidates = [entry for entry in entries if entry.is_subject]
    return [entry for entry in candidates if name_of(entry) in scores] or candidates[:1]


def _reference(entries: Sequence[EngineEntry], subject: EngineEntry) -> EngineEntry | None:
    """The FP32 engine for ``subject``'s target; None if there is none beside ``subject``."""
    for entry in entries:
        is_fp32 = (entry.precision, entry.float_precision) == ("fp32", "f32")
        if is_fp32 and entry.target == subject.target and entry is not subject:
            return entry
    return None


def _executed_layers(details: EngineDetails) -> dict[str, int]:
    """Number of layers by type and precision, such as {"Convolution i8": 149}."""
    layers = details.executed_layers if isinstance(details, BlobDetails) else {}
    return {f"{kind} {p}": n for kind, counts in layers.items() for p, n in counts.items()}


def _choose(
    rows: tuple[Row, ...], entries: Sequence[EngineEntry], options: ValidateOptions
) -> tuple[tuple[Row, ...], tuple[Choice, ...], dict[str, Verdict]]:
    """Rows in which only chosen engines are subjects, the choices, and verdicts by row name.

    A chosen engine is judged if it was executed, or if no chosen engine was executed. A chosen
    engine that is known to fail is always judged, so that a target where all fail ships none.
    """
    competing: dict[str, list[Candidate]] = {}
    for entry in entries:
        if entry.is_subject:
            candidate = _candidate(entry, rows, entries, options)
            competing.setdefault(entry.target, []).append(candidate)
    choices = tuple(choose(target, candidates) for target, candidates in competing.items())
    verdicts = {one.row.name: one.verdict for some in competing.values() for one in some}
    chosen = {choice.row for choice in choices}
    judged = {row.name for row in rows if row.name in chosen and row.accuracy} or chosen
    judged |= {name for name in chosen if verdicts[name].status is Status.FAILED}
    others = set(verdicts) - judged
    rows = tuple(_with_role(row, judged, others) for row in rows)
    return rows, choices, {row.name: verdicts[row.name] for row in rows if row.name in judged}


def _candidate(
    entry: EngineEntry,
    rows: Sequence[Row],
    entries: Sequence[EngineEntry],
    options: ValidateOptions,
) -> Candidate:
    """An engine and its verdict; if it was not executed, its graph's accuracy elsewhere counts."""
    by_name = {row.name: row for row in rows}
    row, details = by_name[name_of(entry)], entry.engine.details
    same = [other for other in entries if _computes_alike(other, entry)]
    executed = next((other for other in same if by_name[name_of(other)].accuracy), None)
    if row.accuracy or executed is None:
        return Candidate(row=row, verdict=_judge(row, entry, rows, options), details=details)
    # The graph alone determines accuracy; a speed-up on another target says nothing about this one.
    accuracy = by_name[name_of(executed)].accuracy
    gates = replace(options.gates, min_speedup=None)
    row_elsewhere = structs.replace(row, accuracy=accuracy)
    verdict = _judge(row_elsewhere, entry, rows, replace(options, gates=gates))
    return Candidate(row=row, verdict=verdict, details=details, executed_on=executed.target)


def _computes_alike(one: EngineEntry, other: EngineEntry) -> bool:
    """Whether both engines have the same typed graph and the same arithmetic in its float part."""
    parents = one.engine.provenance.parents, other.engine.provenance.parents
    return parents[0] == parents[1] and one.float_precision == other.float_precision


def _with_role(row: Row, judged: AbstractSet[str], others: AbstractSet[str]) -> Row:
    if row.name in judged:
        return structs.replace(row, role=Role.SUBJECT)
    return structs.replace(row, role=Role.OTHER) if row.name in others else row


def _verdicts(
    rows: Sequence[Row], entries: Sequence[EngineEntry], options: ValidateOptions
) -> dict[str, Verdict]:
    """The verdict on every judged engine, by the name of its row."""
    by_name = {name_of(entry): entry for entry in entries}
    return {
        row.name: _judge(row, by_name[row.name], rows, options) for row in rows if row.is_subject
    }


def _judge(row: Row, entry: EngineEntry, rows: Sequence[Row], options: ValidateOptions) -> Verdict:
    gates = options.gates
    if (row.precision, row.float_precision) == ("fp32", "f32"):
        # speed-ups are relative to the FP32 engine itself
        gates = replace(gates, min_speedup=None)
    search = options.search if entry.is_searched else None
    return gate.judge(
        gates,
        accuracy=row.accuracy,
        speedup=_own_speedup(row, rows),
        search=search,
        is_speed_judged=row.precision == "int8" and not entry.is_stand_in,
    )


def _own_speedup(row: Row, rows: Sequence[Row]) -> Estimate | None:
    """Speed-up over the same library at f32; that of the row is over one reference for all rows."""
    floats = [
        other.latency
        for other in rows
        if (other.precision, other.float_precision) == ("fp32", "f32")
        and (other.backend, other.role is Role.BASELINE) == (row.backend, False)
    ]
    if not floats or not floats[0] or not row.latency:
        return None
    return measure.ratio(floats[0], row.latency)
