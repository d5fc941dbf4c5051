"""The range table as a file: readable JSON, and the histograms it was derived from beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inception.artifact import RangeTable, file_sha256
from edge_inception.errors import InputError
from edge_inception.quant.calibrators import Observation

SCHEMA = 1
_KEYS = frozenset(
    ("schema", "graph", "set", "set_sha256", "num_images", "calibrator", "preprocess", "tensors")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """One tensor: the amax its scale is made from, and the exact amax that was observed.

    ``scale_of`` names the tensor whose amax it shares; its own name unless it is a MaxPool output.
    """

    amax: float
    observed_amax: float
    scale_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Content of a range table; ``graph`` and ``set_sha256`` are the hashes it belongs to."""

    graph: str
    set: str
    set_sha256: str
    num_images: int
    calibrator: str
    preprocess: Mapping[str, Any]
    tensors: Mapping[str, TensorRange]


def table_text(table: Table) -> str:
    """The table as JSON, tensors in graph order."""
    record = {
        "schema": SCHEMA,
        "graph": table.graph,
        "set": table.set,
        "set_sha256": table.set_sha256,
        "num_images": table.num_images,
        "calibrator": table.calibrator,
        "preprocess": dict(table.preprocess),
        "tensors": {
            name: {
                "amax": tensor.amax,
                "observed_amax": tensor.observed_amax,
                "scale_of": tensor.scale_of,
            }
            for name, tensor in table.tensors.items()
        },
    }
    return json.dumps(record, indent=1) + "\n"


def read_table(ranges: RangeTable) -> Table:
    """The table in the file of ``ranges``.

    Raises:
        InputError: Not readable, of another schema, or an amax that is not a finite number >= 0.
    """
    try:
        record: Any = json.loads(ranges.path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"range table {ranges.path} is not readable JSON", hint="run calibrate again"
        ) from error
    if not isinstance(record, dict) or set(record) != _KEYS or record["schema"] != SCHEMA:
        raise InputError(
            f"{ranges.path} is not a range table of schema {SCHEMA}", hint="run calibrate again"
        )
    tensors = {name: _tensor(ranges.path, name, entry) for name, entry in record["tensors"].items()}
    plain = {key: record[key] for key in _KEYS - {"schema", "tensors"}}
    return Table(tensors=tensors, **plain)


def _tensor(path: Path, name: str, entry: Mapping[str, Any]) -> TensorRange:
    found = TensorRange(**entry)
    if not (np.isfinite(found.amax) and found.amax >= 0.0):
        raise InputError(
            f"{path}: tensor '{name}' has amax {found.amax}, wanted a finite number >= 0",
            hint="run calibrate again",
        )
    return found


def histogram_path(path: Path) -> Path:
    """``ranges.json`` -> ``ranges.npz``."""
    return path.with_suffix(".npz")


def write_histograms(path: Path, seen: Mapping[str, Observation]) -> None:
    """Names, exact amax and histograms of all tensors; the same content gives the same bytes."""
    with path.open("wb") as stream:
        np.savez_compressed(
            stream,
            names=np.array(list(seen), dtype=np.str_),
            amax=np.array([one.amax for one in seen.values()], dtype=np.float64),
            histograms=np.stack([one.histogram for one in seen.values()]),
        )


def read_histograms(ranges: RangeTable) -> dict[str, Observation]:
    """What was observed, by tensor name.

    Raises:
        InputError: The file is missing or is not the one written with this range table.
    """
    path = histogram_path(ranges.path)
    if file_sha256(path) != ranges.details["histograms_sha256"]:
        raise InputError(f"{path} was not written with {ranges.path}", hint="run calibrate again")
    with np.load(path, allow_pickle=False) as content:
        counts: NDArray[np.int64] = content["histograms"]
        rows = zip(content["names"], content["amax"], counts, strict=True)
        return {str(name): Observation(amax=float(amax), histogram=row) for name, amax, row in rows}
