"""Where a report comes from (files, hashes, versions), and the recall of its classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge_inception import records
from edge_inception.artifact import Artifact
from edge_inception.report.sources import Source
from edge_inception.report.table import finite
from edge_inception.validate.report_record import ReportRecord

MAX_CLASSES = 20
_HASH_DIGITS = 12


def provenance(source: Source) -> dict[str, Any]:
    """Facts about a report: path, hashes, machine and protocol, and every file of the build."""
    report = source.report
    return {
        "facts": list(_facts(source)),
        "machine": field_texts(records.plain(report.machine)),
        "protocol": field_texts(records.plain(report.latency_options)),
        "files": [_file_row(one) for one in source.artifacts],
    }


def _facts(source: Source) -> Iterator[tuple[str, str]]:
    data = source.report.data
    yield "report", str(source.path)
    yield "validated", source.report.created_utc
    yield "images", f"{data.num_images} of {data.name}"
    yield "sha256 of the images", data.sha256
    yield "sha256 of the baseline", source.report.context.baseline_sha256


def field_texts(fields: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Names and values of fields as texts, without the fields that are None."""
    return [
        (str(key).replace("_", " "), _text(value))
        for key, value in (fields or {}).items()
        if value is not None
    ]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(
        isinstance(item, (str, int, float)) for item in value
    ):
        return ", ".join(map(str, value))
    return json.dumps(value, sort_keys=True)


def _file_row(artifact: Artifact) -> dict[str, Any]:
    provenance = artifact.provenance
    return {
        "name": artifact.path.name,
        "kind": artifact.kind,
        "stage": provenance.stage,
        "sha256": artifact.sha256,
        "short": artifact.sha256[:_HASH_DIGITS],
        "tools": ", ".join(f"{name} {version}" for name, version in provenance.tools.items()),
        "parents": [(role, digest[:_HASH_DIGITS]) for role, digest in provenance.parents.items()],
        "options": json.dumps(provenance.options, indent=1, sort_keys=True),
        "counts": ", ".join(
            f"{name.replace('_', ' ')} {_text(value)}" for name, value in artifact.counts.items()
        ),
    }


def engine_sha256(report: ReportRecord, name: str) -> str:
    """sha256 of a row's engine file; an empty text where the report records none (the baseline)."""
    engine = report.context.engines.get(name)
    return engine.sha256 if engine else ""


def class_name(index: int, names: Sequence[str]) -> str:
    """Name of a class by its logit index, such as ``class 7`` where it has none."""
    return names[index] if index < len(names) else f"class {index}"


def class_recalls(report: ReportRecord) -> dict[str, Any] | None:
    """Recall of classes, 0..1, by the baseline and by the judged engine, largest changes first.

    At most ``MAX_CLASSES`` classes are listed; None where no image is labelled.
    """
    labelled = report.subjects[0].labelled
    if labelled is None:
        return None
    names = report.data.classes
    recalls = zip(labelled.baseline.recall, labelled.engine.recall, strict=False)
    changes = [
        (after - before, class_name(index, names), before, after)
        for index, pair in enumerate(recalls)
        if (before := finite(pair[0])) is not None and (after := finite(pair[1])) is not None
    ]
    changes.sort(key=lambda change: -abs(change[0]))
    keys = ("change", "name", "before", "after")
    rows = [dict(zip(keys, change, strict=True)) for change in changes[:MAX_CLASSES]]
    return {"rows": rows, "num_classes": len(changes)}
