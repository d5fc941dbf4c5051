"""Reports with the artifacts and records that lie beside them in a build folder.

Files may come from other people and are not trusted: the readers are strict, the writers escape all
texts, and numbers may be NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edge_inception import artifact
from edge_inception.artifact import Artifact, RangeTable, Report
from edge_inception.errors import InputError
from edge_inception.quant import search_record
from edge_inception.quant.search_record import SearchRecord
from edge_inception.report import noise_record
from edge_inception.report.noise_record import NoiseRecord
from edge_inception.report.rooflines import Roofline
from edge_inception.validate import report_record
from edge_inception.validate.report_record import ReportRecord

if TYPE_CHECKING:
    from edge_inception.graph.topology import Topology
    from edge_inception.quant.clipping import Clipping

R = TypeVar("R")
REPORT = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A report with the artifacts and records beside it.

    Attributes:
        path: The report's file.
        report: Content of the file.
        artifacts: Files of the folder that match their sidecar (the ``.json`` file beside each),
            in the order of the build.
        ranges: Range table of the build.
        search: Record of the search for groups (tensors that share a scale, with the layers that
            read them) that stay in float.
        noise: Record of ``compare-layers``.
        network: Layers and blocks, read from the graphs.
        rooflines: Estimated speeds on targets.
        calibration: Clipping of each tensor, read from the range table.
        problems: Files that were left out, each with the reason.
        left_out: Parts of the page whose library is not installed.
    """

    path: Path
    report: ReportRecord
    artifacts: tuple[Artifact, ...] = ()
    ranges: RangeTable | None = None
    search: SearchRecord | None = None
    noise: NoiseRecord | None = None
    network: Topology | None = None
    rooflines: tuple[Roofline, ...] = ()
    calibration: Clipping | None = None
    problems: tuple[str, ...] = field(default=())
    left_out: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        return self.path.parent


def read_source(path: Path) -> Source:
    """The report at ``path``, a file or a build folder, with the artifacts and records beside it.

    Raises:
        InputError: There is no report, or it is damaged or does not match its sidecar.
    """
    if path.is_dir():
        path /= REPORT
    if not path.is_file():
        raise InputError(f"report not found: {path}", hint="name a report.json or a build folder")
    record = report_record.read(path)
    if not artifact.sidecar_path(path).is_file():  # copied here without its build
        return Source(path=path, report=record, problems=(f"{path.name} has no sidecar",))
    artifact.load(Report, path)
    artifacts, problems = _artifacts(path.parent)
    ranges = path.with_name("model.ranges.json")
    return Source(
        path=path,
        report=record,
        artifacts=artifacts,
        ranges=artifact.load(RangeTable, ranges) if ranges in {a.path for a in artifacts} else None,
        search=_optional(search_record.read, path.with_name("model.search.json")),
        noise=_optional(noise_record.read, path.with_name("model.noise.json")),
        problems=problems,
    )


def read_sources(paths: Iterable[Path]) -> list[Source]:
    """The reports at the paths; a path may also be a ``compare-layers`` record of their graphs.

    Raises:
        InputError: A path is neither a report nor such a record, or a record fits no report or
            more than one.
    """
    noise_records: dict[Path, NoiseRecord] = {}
    sources: list[Source] = []
    for path in paths:
        if path.is_file() and noise_record.is_noise_record(path):
            noise_records[path] = noise_record.read(path)
        else:
            sources.append(read_source(path))
    for path, noise in noise_records.items():
        folders = {Path(one).resolve().parent for one in noise.graphs}
        matches = [i for i, one in enumerate(sources) if one.folder.resolve() in folders]
        matches = matches or ([0] if len(sources) == 1 else [])
        if len(matches) != 1:
            raise InputError(
                f"{path} is of graphs in {', '.join(map(str, sorted(folders)))}, where "
                f"{len(matches)} of the reports lie, wanted one",
                hint="name the build folder that compare-layers was given",
            )
        sources[matches[0]] = replace(sources[matches[0]], noise=noise)
    return sources


def _artifacts(folder: Path) -> tuple[tuple[Artifact, ...], tuple[str, ...]]:
    """Files that match their sidecar, oldest first, and the problems of the others."""
    artifacts: list[Artifact] = []
    problems: list[str] = []
    for sidecar in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        path = sidecar.with_name(sidecar.name.removesuffix(".json"))
        if not path.is_file():
            continue
        try:
            artifacts.append(artifact.load(Artifact, path))
        except InputError as error:
            problems.append(str(error))
    return tuple(artifacts), tuple(problems)


def _optional(read: Callable[[Path], R], path: Path) -> R | None:
    """The record in a file; None where there is no such file."""
    return read(path) if path.is_file() else None


def newest_first(sources: Sequence[Source]) -> list[Source]:
    """Sources from the newest report to the oldest; equally old reports keep their order."""
    return sorted(sources, key=lambda one: one.report.created_utc, reverse=True)
