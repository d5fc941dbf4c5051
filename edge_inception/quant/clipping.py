"""What calibration saw of each tensor and which amax was chosen, as JSON to draw from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_inception.artifact import RangeTable
from edge_inception.quant.calibrators import Observation
from edge_inception.quant.ranges import read_histograms, read_table

_MOST_HISTOGRAMS = 6
_NUM_BINS = 64


def describe(ranges: RangeTable) -> dict[str, Any]:
    """All tensors with a scale of their own, and histograms of those that are clipped most.

    Returns:
        ``set`` in words; ``rows``: name, ``observed`` and chosen ``amax`` in the tensor's units,
        their ``ratio``, and ``clipped``, the share of values above amax, 0..1 or None; ``drawn``:
        the same with ``edges`` [B + 1] and ``shares`` [B] of even bins.

    Raises:
        InputError: The table cannot be read, or the histograms are not those written with it.
    """
    table, found = read_table(ranges), read_histograms(ranges)
    seen = {name: one for name, one in found.items() if one.amax > 0.0}  # all of a dead one is 0
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "observed": one.observed_amax,
            "amax": one.amax,
            "ratio": one.amax / one.observed_amax if one.observed_amax else 1.0,
            "clipped": _clipped(seen[name], one.amax) if name in seen else None,
        }
        for name, one in table.tensors.items()
        if one.scale_of == name
    ]
    clipped = sorted((row for row in rows if row["name"] in seen), key=lambda row: row["ratio"])
    return {
        "set": f"{table.num_images} images of {table.set}, calibrator {table.calibrator}",
        "rows": rows,
        "drawn": [{**row, **_bins(seen[row["name"]])} for row in clipped[:_MOST_HISTOGRAMS]],
    }


def _clipped(seen: Observation, amax: float) -> float:
    """Values within a bin are taken as spread evenly."""
    edges, count = seen.mass()
    above = np.clip((edges[1:] - amax) / np.diff(edges), 0.0, 1.0)
    return float(count @ above) / float(count.sum())


def _bins(seen: Observation) -> Mapping[str, list[float]]:
    edges, count = seen.mass()
    even = np.linspace(0.0, float(edges[-1]), _NUM_BINS + 1)
    total = np.interp(even, edges, np.concatenate(([0.0], np.cumsum(count))))
    shares = np.diff(total) / float(total[-1])
    return {"edges": even.tolist(), "shares": shares.tolist()}
