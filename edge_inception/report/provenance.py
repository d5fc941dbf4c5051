"""Facts of a report that are told as they are: provenance, hashes, versions, classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edge_inception.artifact import Artifact
from edge_inception.report.sources import Source
from edge_inception.report.vega import finite

MOST_CLASSES = 20
_HASH_DIGITS = 12


def provenance(source: Source) -> dict[str, Any]:
    """Where the report comes from, its machine and protocol, and every file of the build."""
    report = source.report
    return {
        "facts": list(_facts(source)),
        "machine": pairs(report["machine"]),
        "protocol": pairs(report["latency_options"]),
        "files": [_file(one) for one in source.artifacts],
    }


def _facts(source: Source) -> Iterator[tuple[str, str]]:
    data = source.report["data"]
    yield "report", str(source.path)
    yield "validated", str(source.report["created_utc"])
    yield "images", f"{data['num_images']} of {data['name']}"
    if data.get("sha256"):
        yield "sha256 of the images", str(data["sha256"])
    baseline = (source.report.get("context") or {}).get("baseline_sha256")
    if baseline:
        yield "sha256 of the baseline", str(baseline)


def pairs(record: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Names and values of a record as texts, what is None left out."""
    return [
        (str(key).replace("_", " "), _text(value))
        for key, value in (record or {}).items()
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


def _file(one: Artifact) -> dict[str, Any]:
    made = one.provenance
    return {
        "name": one.path.name,
        "kind": one.kind,
        "stage": made.stage,
        "sha256": one.sha256,
        "short": one.sha256[:_HASH_DIGITS],
        "tools": ", ".join(f"{name} {version}" for name, version in made.tools.items()),
        "parents": [(role, digest[:_HASH_DIGITS]) for role, digest in made.parents.items()],
        "options": json.dumps(made.options, indent=1, sort_keys=True),
        "counts": ", ".join(
            f"{name.replace('_', ' ')} {_text(value)}" for name, value in one.counts.items()
        ),
    }


def engine_sha256(report: Mapping[str, Any], name: str) -> str:
    """Hash of a row's engine file; empty of a baseline, or where the report does not have it."""
    context = report.get("context")
    engines = context.get("engines") if isinstance(context, dict) else None
    found = engines.get(name) if isinstance(engines, dict) else None
    return str(found.get("sha256", "")) if isinstance(found, dict) else ""


def classes(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Recall of the subject's classes beside the baseline's, those that changed most first.

    At most ``MOST_CLASSES``; None where nothing is labelled.
    """
    subject = next((row for row in report["rows"] if row["role"] == "subject"), None)
    labelled = subject["accuracy"]["labelled"] if subject and subject["accuracy"] else None
    if not labelled:
        return None
    names = report["data"]["classes"]
    both = zip(labelled["baseline"]["recall"], labelled["engine"]["recall"], strict=False)
    known = [
        (after - before, index, before, after)
        for index, pair in enumerate(both)
        if (before := finite(pair[0])) is not None and (after := finite(pair[1])) is not None
    ]
    known.sort(key=lambda one: -abs(one[0]))
    rows = [
        {
            "name": names[index] if index < len(names) else f"class {index}",
            "before": before,
            "after": after,
            "change": change,
        }
        for change, index, before, after in known[:MOST_CLASSES]
    ]
    return {"rows": rows, "num_classes": len(known)}
