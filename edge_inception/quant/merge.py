"""Range tables of shards -> the range table of all images, as if one run had seen them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_inception import stage
from edge_inception.artifact import RangeTable, SimplifiedGraph
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError, counted
from edge_inception.quant import observe
from edge_inception.quant.calibrators import Observation
from edge_inception.quant.options import WHOLE, CalibrateOptions, calibrate_provenance
from edge_inception.quant.ranges import read_histograms, read_table
from edge_inception.sidecar import StreamEngine
from edge_inception.spec import Progress, no_progress


def merge(
    graph: SimplifiedGraph,
    images: ImageSet,
    options: CalibrateOptions,
    parts: Sequence[RangeTable],
    out: Path,
    *,
    progress: Progress = no_progress,
) -> RangeTable:
    """The table that ``calibrate`` would make of the whole set, bit-identical, from shards' tables.

    Histograms are added, and the largest amax of a tensor is taken. The channel means for bias
    correction are measured here, on a few images, since they need the scales of the whole set.

    ``images`` is the whole calibration set and ``parts`` the table of every shard, in any order;
    the ``shard`` of ``options`` is ignored.

    Raises:
        InputError: A shard is missing or given twice, or was made with other inputs, options or
            float precision, or with another number of threads.
    """
    tables = [read_table(part) for part in parts]
    shards = [table.shard for table in tables]
    _require_each_shard(shards)
    for part, shard in zip(parts, shards, strict=True):
        one = dataclasses.replace(options, shard=shard)
        stage.require_provenance(part, calibrate_provenance(graph, images, one))
    _require_equal_engines(parts)
    observations = observe.Observations(
        tensors=_add_observations([read_histograms(part) for part in parts]),
        num_images=sum(table.num_images for table in tables),
        counts={name: parts[0].counts[name] for name in observe.PER_IMAGE},
        engine=_engine(parts[0]),
    )
    whole = dataclasses.replace(options, shard=WHOLE)
    watched = observe.find_watched_tensors(graph)
    return observe.publish(watched, images, whole, observations, out, progress=progress)


def _require_each_shard(shards: Sequence[tuple[int, int]]) -> None:
    """Check that all shards (i, n) have the same n, and that every i from 1 to n occurs once."""
    totals = sorted({total for _, total in shards})
    if len(totals) != 1:
        raise InputError(
            f"the tables are shards of {', '.join(map(str, totals))}, wanted one sharing",
            hint="calibrate every shard with the same N in --shard I/N",
        )
    numbers = sorted(number for number, _ in shards)
    if numbers != list(range(1, totals[0] + 1)):
        raise InputError(
            f"got shards {', '.join(map(str, numbers))} of {totals[0]}, wanted each of them once",
            hint="name the table of every shard in --merge",
        )


def _require_equal_engines(parts: Sequence[RangeTable]) -> None:
    """Check that all shards were computed with the same number of threads and float precision.

    Sums depend on both. The option 0 threads (all usable) gives other numbers on other machines.
    """
    first, *others = parts
    for other in others:
        engine, wanted = _engine(other), _engine(first)
        if engine != wanted:
            raise InputError(
                f"{other.path} was made with {_described(engine)}, "
                f"{first.path} with {_described(wanted)}",
                hint="calibrate every shard with the same --threads, on CPUs of one kind",
            )


def _described(engine: StreamEngine) -> str:
    return f"{counted(engine.threads, 'thread')} in {engine.precision}"


def _engine(part: RangeTable) -> StreamEngine:
    assert part.details.engine is not None, "calibrate records it"
    return part.details.engine


def _add_observations(parts: Sequence[Mapping[str, Observation]]) -> dict[str, Observation]:
    return {
        name: Observation(
            amax=max(part[name].amax for part in parts),
            histogram=sum(part[name].histogram for part in parts[1:]) + parts[0][name].histogram,
        )
        for name in parts[0]
    }
