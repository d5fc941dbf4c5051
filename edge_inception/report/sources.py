"""What a page is made of: reports, what lies beside them in a build folder, and other records.

Files may come from elsewhere and are taken as hostile: their shape is checked before use, a text is
only ever text, and a number may be NaN.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_inception import artifact
from edge_inception.artifact import Artifact, RangeTable, Report
from edge_inception.errors import InputError
from edge_inception.latency.json_shape import NUMBER, first_mismatch
from edge_inception.report.table import SCHEMA, require_schema

REPORT = "report.json"
_ESTIMATE: Mapping[str, Any] = {"value": NUMBER, "lower": NUMBER, "upper": NUMBER}
_LATENCY: Mapping[str, Any] = {
    "p50_ms": NUMBER,
    "p90_ms": NUMBER,
    "p99_ms": (*NUMBER, None),
    "threads": (*NUMBER, None),
    "foreign_cores": (*NUMBER, None),
}
_SCORES: Mapping[str, Any] = {"top1": _ESTIMATE, "recall": [(*NUMBER, None)]}
_LABELLED: Mapping[str, Any] = {"engine": _SCORES, "baseline": _SCORES, "drop_pp": _ESTIMATE}
_ROW: Mapping[str, Any] = {
    "name": (str,),
    "role": (str,),
    "precision": (str,),
    "float_precision": (str, None),
    "accuracy": (
        {"agreement": _ESTIMATE, "sqnr_db": (*NUMBER, str), "labelled": (_LABELLED, None)},
        None,
    ),
    "latency": (_LATENCY, None),
    "speedup": (_ESTIMATE, None),
    "size_bytes": (*NUMBER, None),
    "weight_bytes": (*NUMBER, None),
    "executed_layers": (dict, None),
    "note": (str,),
}
_SHAPE: Mapping[str, Any] = {
    "model": (str,),
    "created_utc": (str,),
    "data": {"name": (str,), "num_images": NUMBER, "classes": [(str,)]},
    "rows": [_ROW],
    "verdict": {"status": (str,), "sentence": (str,), "checks": [{"sentence": (str,)}]},
    "machine": (dict, None),
    "latency_options": (dict, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One report and what was found beside it.

    ``artifacts`` are those whose hash fits their sidecar, in the order of the build, ``problems``
    what was left out and why. ``search`` is the record of a search, ``noise`` that of
    compare-layers, ``layers`` that of ``graph.topology``; None where there is none. ``rooflines``
    are estimates of targets, ``calibration`` is the record of ``quant.seen``. ``left_out`` says
    what files beside it would tell, were a library installed.
    """

    path: Path
    report: Mapping[str, Any]
    artifacts: tuple[Artifact, ...] = ()
    ranges: RangeTable | None = None
    search: Mapping[str, Any] | None = None
    noise: Mapping[str, Any] | None = None
    layers: Mapping[str, Any] | None = None
    rooflines: tuple[Mapping[str, Any], ...] = ()
    calibration: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = field(default=())
    left_out: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the report lies."""
        return self.path.parent


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: It cannot be read, or is no JSON object.
    """
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON", hint="name a report.json") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} holds no JSON object", hint="name a report.json")
    return record


def read_source(path: Path) -> Source:
    """The report in ``path``, a file or a build folder, with what lies beside it.

    Raises:
        InputError: There is no report, it does not match its sidecar, or it is damaged.
    """
    if path.is_dir():
        path /= REPORT
    if not path.is_file():
        raise InputError(f"report not found: {path}", hint="name a report.json or a build folder")
    record = read_json(path)
    require_report(record, path)
    if not artifact.sidecar_path(path).is_file():  # copied here without its build
        return Source(path=path, report=record, problems=(f"{path.name} has no sidecar",))
    artifact.load(Report, path)
    made, problems = _artifacts(path.parent)
    ranges = path.with_name("model.ranges.json")
    return Source(
        path=path,
        report=record,
        artifacts=made,
        ranges=_ranges(ranges) if any(one.path == ranges for one in made) else None,
        search=_optional(path.with_name("model.search.json"), "points"),
        noise=_optional(path.with_name("model.noise.json"), "layers"),
        problems=problems,
    )


def with_noise(paths: Iterable[Path]) -> list[Source]:
    """The reports among the paths, each with the record of compare-layers that is of its graphs.

    Raises:
        InputError: A path is neither, or a record belongs to no report or to several.
    """
    noises: dict[Path, dict[str, Any]] = {}
    sources: list[Source] = []
    for path in paths:
        record = read_json(path) if path.is_file() else {}
        if record.keys() >= {"graphs", "images", "layers"}:
            noises[path] = record
        else:
            sources.append(read_source(path))
    for path, noise in noises.items():
        folders = {Path(str(one)).resolve().parent for one in noise["graphs"]}
        fits = [i for i, one in enumerate(sources) if one.folder.resolve() in folders]
        fits = fits or ([0] if len(sources) == 1 else [])
        if len(fits) != 1:
            raise InputError(
                f"{path} is of graphs in {', '.join(map(str, sorted(folders)))}, where "
                f"{len(fits)} of the reports lie, wanted one",
                hint="name the build folder that compare-layers was given",
            )
        sources[fits[0]] = replace(sources[fits[0]], noise=noise)
    return sources


def require_report(record: Mapping[str, Any], path: Path) -> None:
    """Check that a record is a whole report.

    Raises:
        InputError: Another schema or version, or a key that is missing or of another type.
    """
    require_schema(record)
    wrong = first_mismatch(record, _SHAPE, SCHEMA)
    if wrong is None and record["verdict"]["status"] not in {"PASSED", "FAILED", "INCONCLUSIVE"}:
        wrong = "verdict.status"
    if wrong is not None:
        raise InputError(
            f"{path} is not a whole report: {wrong} is missing or of another type",
            hint="run `edge-inception validate` again",
        )


def _artifacts(folder: Path) -> tuple[tuple[Artifact, ...], tuple[str, ...]]:
    """All files with a sidecar, in the order they were written, and what does not fit."""
    found: list[Artifact] = []
    problems: list[str] = []
    for sidecar in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        path = sidecar.with_name(sidecar.name.removesuffix(".json"))
        if not path.is_file():
            continue
        try:
            kind = str(read_json(sidecar).get("kind"))
            found.append(artifact.load(_KINDS.get(kind, Artifact), path))
        except InputError as error:
            problems.append(str(error))
    return tuple(found), tuple(problems)


_KINDS: Mapping[str, type[Artifact]] = {kind.kind: kind for kind in Artifact.__subclasses__()}


def _ranges(path: Path) -> RangeTable:
    return artifact.load(RangeTable, path)


def _optional(path: Path, key: str) -> dict[str, Any] | None:
    """The record in a file that need not be there; one without a list at ``key`` is none."""
    if not path.is_file():
        return None
    record = read_json(path)
    return record if isinstance(record.get(key), list) else None


def newest_first(sources: Sequence[Source]) -> list[Source]:
    """By the time of their reports; equals in the order given."""
    return sorted(sources, key=lambda one: str(one.report["created_utc"]), reverse=True)
