"""How much calibration clips: observed and chosen amax of every tensor, and histograms to draw."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from edge_inception.artifact import RangeTable
from edge_inception.quant.calibrators import Observation
from edge_inception.quant.ranges import read_histograms, read_table
from edge_inception.records import Record

_MAX_HISTOGRAMS = 6  # largest number of tensors that are drawn
_NUM_BINS = 64  # bins of a drawn histogram


class ClippedTensor(Record, frozen=True, kw_only=True):
    """A tensor with a scale of its own: the observed and the chosen amax, in the tensor's units.

    ``ratio`` is ``amax`` / ``observed``. ``clipped`` is the share of values above ``amax``, 0..1;
    None if it is not known. For a drawn tensor ``shares`` [B] are the shares of its values in bins
    of equal width with the edges ``edges`` [B + 1]; both are empty for other tensors.
    """

    name: str
    observed: float
    amax: float
    ratio: float
    clipped: float | None
    edges: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()


class Clipping(Record, frozen=True, kw_only=True):
    """The calibration in words (``set``), all tensors (``rows``), and the most clipped to draw."""

    set: str
    rows: tuple[ClippedTensor, ...]
    drawn: tuple[ClippedTensor, ...]


def describe(ranges: RangeTable) -> Clipping:
    """The tensors with a scale of their own, and the histograms of the six most clipped of them.

    Raises:
        InputError: The table cannot be read, or the histograms are not those written with it.
    """
    table, histograms = read_table(ranges), read_histograms(ranges)
    # a tensor with amax 0 holds only zeros
    observed = {name: seen for name, seen in histograms.items() if seen.amax > 0.0}
    rows = tuple(
        ClippedTensor(
            name=name,
            observed=tensor.observed_amax,
            amax=tensor.amax,
            ratio=tensor.amax / tensor.observed_amax if tensor.observed_amax else 1.0,
            clipped=_share_above(observed[name], tensor.amax) if name in observed else None,
        )
        for name, tensor in table.tensors.items()
        if tensor.scale_of == name
    )
    clipped = sorted((row for row in rows if row.name in observed), key=lambda row: row.ratio)
    return Clipping(
        set=f"{table.num_images} images of {table.set}, calibrator {table.calibrator}",
        rows=rows,
        drawn=tuple(_add_histogram(row, observed[row.name]) for row in clipped[:_MAX_HISTOGRAMS]),
    )


def _share_above(seen: Observation, amax: float) -> float:
    """Share of the values above ``amax``, 0..1, if values lie evenly within a bin."""
    edges, count = seen.trimmed_histogram()
    above = np.clip((edges[1:] - amax) / np.diff(edges), 0.0, 1.0)
    return float(count @ above) / float(count.sum())


def _add_histogram(row: ClippedTensor, seen: Observation) -> ClippedTensor:
    edges, count = seen.trimmed_histogram()
    even = np.linspace(0.0, float(edges[-1]), _NUM_BINS + 1)
    total = np.interp(even, edges, np.concatenate(([0.0], np.cumsum(count))))
    shares = np.diff(total) / float(total[-1])
    return replace(row, edges=tuple(even.tolist()), shares=tuple(shares.tolist()))
