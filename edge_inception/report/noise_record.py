"""What ``compare-layers --json`` prints, and a report shows beside the layers; JSON, no version."""

from __future__ import annotations

from pathlib import Path

from edge_inception import records
from edge_inception.records import Record

_HINT = "run `edge-inception compare-layers --json` again"


class NoisyLayer(Record, frozen=True, kw_only=True):
    """A layer of the float graph and the SQNR in dB of what the typed graph makes of it.

    Of its result ``tensor``, of the noisiest tensor it reads as that was made, and of that as it is
    read. ``is_jump``: much of the error arises here; ``is_scale_to_blame``: before it computes.
    """

    name: str
    op: str
    tensor: str
    sqnr_db: float
    input_sqnr_db: float
    read_sqnr_db: float
    noisiest_input: str
    is_jump: bool
    is_scale_to_blame: bool
    worst_image: str


class NoiseRecord(Record, frozen=True, kw_only=True):
    """Paths of both graphs and of the images, the layers, and the first of them that jumps."""

    graphs: tuple[str, ...]
    images: tuple[str, ...]
    layers: tuple[NoisyLayer, ...]
    left_out: tuple[str, ...]
    jump: NoisyLayer | None


def read(path: Path) -> NoiseRecord:
    """The record in a file.

    Raises:
        InputError: It cannot be read, or is none.
    """
    return records.read(NoiseRecord, path, hint=_HINT)


def is_noise(path: Path) -> bool:
    """Whether a file of JSON, whole or damaged, is of compare-layers.

    Raises:
        InputError: It is no JSON.
    """
    value = records.read_json(path, hint="name a report.json", allow_nan=True)
    return isinstance(value, dict) and value.keys() >= {"graphs", "images", "layers"}
