"""Range tables of shards -> the range table of all images, as if one run had seen them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_inception import stage
from edge_inception.artifact import RangeTable, SimplifiedGraph
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.quant import observe
from edge_inception.quant.calibrators import Observation
from edge_inception.quant.observe import Record
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
    """The table that ``calibrate`` makes of the whole set, bit by bit, from that of every shard.

    Counts add up and the largest amax stays. The means for bias correction are of few images, and
    their scales are known only now, so that pass is made here.

    Args:
        graph: From simplify, as the shards had it.
        images: The whole calibration set.
        options: As the shards had them, less the shard.
        parts: The table of every shard, in any order.
        out: Path of the .json table.
        progress: Called with images done and images in all of the second pass.

    Raises:
        InputError: A shard is missing, given twice, or was made of or with something else, such as
            another number of threads.
    """
    tables = [read_table(part) for part in parts]
    shards = [table.shard for table in tables]
    _require_all(shards)
    for part, shard in zip(parts, shards, strict=True):
        one = dataclasses.replace(options, shard=shard)
        stage.require_provenance(part, calibrate_provenance(graph, images, one))
    _require_one_engine(parts)
    record = Record(
        seen=_sum([read_histograms(part) for part in parts]),
        num_images=sum(table.num_images for table in tables),
        counts={name: parts[0].counts[name] for name in observe.PER_IMAGE},
        engine=_engine(parts[0]),
    )
    whole = dataclasses.replace(options, shard=WHOLE)
    return observe.publish(observe.subject_of(graph), images, whole, record, out, progress=progress)


def _require_all(shards: Sequence[tuple[int, int]]) -> None:
    """Every shard once, all of one sharing."""
    sharings = sorted({of for _, of in shards})
    if len(sharings) != 1:
        raise InputError(
            f"the tables are shards of {', '.join(map(str, sharings))}, wanted one sharing",
            hint="calibrate every shard with the same N in --shard I/N",
        )
    given = sorted(number for number, _ in shards)
    wanted = list(range(1, sharings[0] + 1))
    if given != wanted:
        raise InputError(
            f"got shards {', '.join(map(str, given))} of {sharings[0]}, wanted each of them once",
            hint="name the table of every shard in --merge",
        )


def _require_one_engine(parts: Sequence[RangeTable]) -> None:
    """One number of threads: "all usable" differs between machines, and then sums may differ."""
    first, *others = parts
    for other in others:
        ours, theirs = _engine(other), _engine(first)
        if ours != theirs:
            raise InputError(
                f"{other.path} was made with {ours.threads} threads, "
                f"{first.path} with {theirs.threads}",
                hint="calibrate every shard with the same --threads",
            )


def _engine(part: RangeTable) -> StreamEngine:
    assert part.details.engine is not None, "calibrate tells it"
    return part.details.engine


def _sum(parts: Sequence[Mapping[str, Observation]]) -> dict[str, Observation]:
    return {
        name: Observation(
            amax=max(part[name].amax for part in parts),
            histogram=sum(part[name].histogram for part in parts[1:]) + parts[0][name].histogram,
        )
        for name in parts[0]
    }
