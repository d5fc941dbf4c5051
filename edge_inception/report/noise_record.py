"""The record that ``compare-layers --json`` prints; its JSON has no schema version."""

from __future__ import annotations

from pathlib import Path

from edge_inception import records
from edge_inception.records import Record

_HINT = "run `edge-inception compare-layers --json` again"


class NoisyLayer(Record, frozen=True, kw_only=True):
    """A layer of the float graph, and the SQNR in dB of the same layer in the typed graph.

    ``sqnr_db`` is the SQNR of the layer's output, ``tensor``. ``input_sqnr_db`` is that of its
    noisiest input before quantization, ``read_sqnr_db`` after it. ``is_jump``: much of the error
    arises in this layer. ``is_scale_to_blame``: that error arises when the input is quantized.
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
    """Result of ``compare-layers``; ``jump`` is the first layer whose ``is_jump`` is true."""

    graphs: tuple[str, ...]
    images: tuple[str, ...]
    layers: tuple[NoisyLayer, ...]
    left_out: tuple[str, ...]
    jump: NoisyLayer | None


def read(path: Path) -> NoiseRecord:
    """The record in a file.

    Raises:
        InputError: The file cannot be read or holds no such record.
    """
    return records.read(NoiseRecord, path, hint=_HINT)


def is_noise_record(path: Path) -> bool:
    """Whether a JSON file is a record of compare-layers, which may be damaged.

    Raises:
        InputError: The file is no JSON.
    """
    value = records.read_json(path, hint="name a report.json", allow_nan=True)
    return isinstance(value, dict) and value.keys() >= {"graphs", "images", "layers"}
