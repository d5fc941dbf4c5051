"""``model.search.json``, ``schema`` 1: what a search for groups in float scored and chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edge_inception import records
from edge_inception.records import Count, Record

SCHEMA: Final = 1

Number = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | float
"""A sum of no shares is written as 0, not as 0.0, and stays as it is written."""


class ScoredSet(Record, frozen=True, kw_only=True):
    """A graph that keeps some groups in float.

    ``drop_pp`` is the metric's drop in percentage points, ``noise_to_signal`` is in power of the
    logits, ``worst_tenth_noise_to_signal`` of the tenth of the images that suffers most;
    ``float_share_of_macs`` is 0..1.
    """

    keep: tuple[str, ...]
    drop_pp: Number
    noise_to_signal: Number
    worst_tenth_noise_to_signal: Number
    float_share_of_macs: Number


class RankedGroup(Record, frozen=True, kw_only=True):
    """A group with the layers that read it; ``harm`` and ``lost_pp`` None where not scored."""

    group: str
    layers: tuple[str, ...]
    free_noise_to_signal: Number
    harm: Number | None
    lost_pp: Number | None
    float_share_of_macs: Number


class SearchOutcome(Record, frozen=True, kw_only=True):
    """What a report tells of a search: the set that was chosen on the calibration images, and why.

    ``kept`` has the layers of each group in it; ``front`` is what no other set beats. ``fp32_top1``
    is a share, None of unlabelled images; ``allowed_pp`` is the budget in percentage points.
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
    """The file: the outcome, every set that was scored, and the groups by the harm they do."""

    schema: Literal[1]
    outcome: SearchOutcome
    points: tuple[ScoredSet, ...]
    ranking: tuple[RankedGroup, ...]


def to_json(record: SearchRecord) -> bytes:
    """The text of the file; a figure may be infinite."""
    return json.dumps(records.plain(record), indent=1).encode() + b"\n"


def read(path: Path) -> SearchRecord:
    """The record in a file.

    Raises:
        InputError: It cannot be read, or is none.
    """
    return records.read(SearchRecord, path, hint="search again", allow_nan=True)
