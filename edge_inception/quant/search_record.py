"""``model.search.json``, ``schema`` 1: what a search for groups in float scored and chose.

A group is the tensors that share a scale, with the layers that read them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edge_inception import records
from edge_inception.records import Count, Record

SCHEMA: Final = 1

Number = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | float
"""An int or a float: a sum of no shares is the integer 0, and stays 0 when it is written again."""


class ScoredSet(Record, frozen=True, kw_only=True):
    """The scores of the graph that keeps the groups ``keep`` in float.

    ``drop_pp`` is the drop of the metric in percentage points. ``noise_to_signal`` is the power of
    the logits' error over the power of the logits; ``worst_tenth_noise_to_signal`` is its mean over
    the tenth of the images that suffers most. ``float_share_of_macs`` is the share of
    multiply-adds in float, 0..1.
    """

    keep: tuple[str, ...]
    drop_pp: Number
    noise_to_signal: Number
    worst_tenth_noise_to_signal: Number
    float_share_of_macs: Number


class RankedGroup(Record, frozen=True, kw_only=True):
    """A group with the layers that read it, its expected noise and its measured harm.

    With this group alone in int8, ``harm`` is the noise to signal of the logits of the images that
    plain int8 affects most, and ``lost_pp`` their top-1 drop in percentage points. Both are None if
    the group was not scored.
    """

    group: str
    layers: tuple[str, ...]
    free_noise_to_signal: Number
    harm: Number | None
    lost_pp: Number | None
    float_share_of_macs: Number


class SearchOutcome(Record, frozen=True, kw_only=True):
    """What a report tells of a search: the set of groups chosen on the calibration images, and why.

    ``kept`` maps each group in the chosen set to the layers that read it. ``front`` has the sets
    that are more accurate than every set that costs less. ``fp32_top1`` is a share, 0..1, or None
    for unlabelled images; ``allowed_pp`` is the budget in percentage points.
    """

    metric: str
    num_images: Count
    fp32_top1: Number | None
    max_drop_pp: Number
    drop_type: str
    allowed_pp: Number
    is_met: bool
    why: str
    chosen: ScoredSet
    kept: dict[str, tuple[str, ...]]
    front: tuple[ScoredSet, ...]


class SearchRecord(Record, frozen=True, kw_only=True):
    """Content of the file: the outcome, all scored sets, and the groups, most harmful first."""

    schema: Literal[1]
    outcome: SearchOutcome
    points: tuple[ScoredSet, ...]
    ranking: tuple[RankedGroup, ...]


def to_json(record: SearchRecord) -> bytes:
    """The content of the file as JSON; a figure may be infinite."""
    return json.dumps(records.plain(record), indent=1).encode() + b"\n"


def read(path: Path) -> SearchRecord:
    """The record in a file.

    Raises:
        InputError: The file cannot be read, or does not hold such a record.
    """
    return records.read(SearchRecord, path, hint="search again", allow_nan=True)
