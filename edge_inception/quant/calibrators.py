"""The closed list of calibrators: functions from a histogram of |values| to an amax.

An amax is the largest magnitude that int8 represents. A histogram counts magnitudes in bins that
are the same for all tensors: a bin is a float16 bit pattern without its last mantissa bits. Such
bins need no first pass to find a range, counts can be added in any order, and every octave has 256
bins, so that an amax is found to 0.4 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_inception.errors import InputError, unknown
from edge_inception.quant.options import AUTO
from edge_inception.quant.scales import LEVELS

DROPPED_BITS = 2
"""Number of lowest mantissa bits, of float16's ten, that a bin ignores."""

NUM_BINS = (0x7C00 >> DROPPED_BITS) + 1
"""Number of bins: the bins of finite float16 magnitudes, and one for larger magnitudes."""

_HALF_OVERFLOW = 65520.0  # half way from float16's largest, 65504, to 65536: rounds to infinity

# Candidates of ``mean_squared_error``: a coarse geometric series, then a fine linear one.
_COARSE_STEPS = 24
_COARSE_RATIO = 2.0**-0.25
_FINE_STEPS = 32

# TensorRT's figures for ``entropy``: bins of the linear histogram, levels of a magnitude.
_BINS_OF_KL = 2048
_LEVELS_OF_KL = 128


def bin_edges() -> NDArray[np.float64]:
    """Edges [NUM_BINS + 1] of the bins: bin i counts magnitudes in [edges[i], edges[i + 1]).

    A value is first rounded to the nearest float16, so an edge lies half way between two float16
    numbers.
    """
    codes = np.arange(NUM_BINS - 1, dtype=np.uint16) << DROPPED_BITS
    first = codes.view(np.float16).astype(np.float64)
    before = np.maximum(codes, 1) - np.uint16(1)
    edges = (first + before.view(np.float16).astype(np.float64)) / 2
    return np.concatenate([edges, [_HALF_OVERFLOW, np.inf]])


_EDGES = bin_edges()

_NARROWEST = 2.0**-12
"""Least width of the last filled bin, relative to its lower edge; a cut at the exact amax could
leave it no width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The statistics of one tensor over the calibration images.

    ``amax`` is the exact largest |value| of all elements. ``histogram`` int64 [NUM_BINS] counts the
    |values| of all elements, or of a sample of positions, in the bins of ``bin_edges``.
    """

    amax: float
    histogram: NDArray[np.int64]

    def trimmed_histogram(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges [B + 1] and counts [B] of the bins from the first to the last non-empty bin.

        The last edge is the exact amax, or slightly more if the last bin would have no width.
        """
        filled = np.flatnonzero(self.histogram)
        first, end = int(filled[0]), int(filled[-1]) + 1
        edges = np.minimum(_EDGES[first : end + 1], self.amax)
        edges[-1] = max(edges[-1], edges[-2] * (1 + _NARROWEST))
        return edges, self.histogram[first:end].astype(np.float64)


Calibrator = Callable[[Observation], float]
"""A function from the statistics of a tensor to an amax, 0 <= result <= observed amax."""


def maximum(observed: Observation) -> float:
    """The exact amax: nothing is clipped."""
    return observed.amax


def percentile(observed: Observation, percent: float) -> float:
    """The magnitude that ``percent``, 0 < percent <= 100, of all elements do not exceed.

    Zeros count as elements: if a ReLU makes half of a tensor zero, ``percentile:99`` clips 2 % of
    the positive values.
    """
    if percent >= 100.0 or observed.amax == 0.0:  # noqa: PLR2004 -- all of them
        return observed.amax
    edges, count = observed.trimmed_histogram()
    below = np.cumsum(count)
    wanted = below[-1] * percent / 100.0
    index = int(np.searchsorted(below, wanted))
    inside = (wanted - (below[index] - count[index])) / count[index]
    magnitude = edges[index] + inside * (edges[index + 1] - edges[index])
    return min(float(magnitude), observed.amax)


def mean_squared_error(observed: Observation) -> float:
    """The amax with which INT8 rounding and clipping change the values least, in mean square.

    It minimises the sum over bins of count * mean((v - Q(v))^2), with values spread evenly inside a
    bin. The candidates are observed amax * 2^(-k/4), k = 0..24, then 32 equal steps between the two
    neighbours of the best of these.
    """
    if observed.amax == 0.0:
        return 0.0
    edges, count = observed.trimmed_histogram()
    # A value below half a step of the smallest candidate becomes 0 with every candidate.
    floor = observed.amax * _COARSE_RATIO ** (_COARSE_STEPS + 1) / LEVELS / 2
    start = max(0, int(np.searchsorted(edges, floor)) - 1)
    bins = edges[start:], count[start:]
    coarse = [observed.amax * _COARSE_RATIO**k for k in range(_COARSE_STEPS + 1)]
    best = min(coarse, key=lambda amax: squared_error(amax, *bins))  # the largest of equal ones
    top, bottom = min(best / _COARSE_RATIO, observed.amax), best * _COARSE_RATIO
    fine = [top + (bottom - top) * k / _FINE_STEPS for k in range(_FINE_STEPS + 1)]
    return min(fine, key=lambda amax: squared_error(amax, *bins))


def mse_max(observed: Observation) -> float:
    """The geometric mean of the amax of ``mean_squared_error`` and the exact amax.

    A rare large value hardly affects the mean square error, but clipping it may spoil the whole
    image that holds it: on a trained Inception-v4 three photos of 105 made 65 % of the error of the
    logits. Residual networks do not suffer from this, and a larger amax only costs them resolution,
    so ``auto`` tries both calibrators.
    """
    return float(np.sqrt(mean_squared_error(observed) * observed.amax))


def squared_error(amax: float, edges: NDArray[np.float64], count: NDArray[np.float64]) -> float:
    """Sum of (v - Q(v))^2 for symmetric INT8 with scale amax / 127, amax above 0.

    The values v are spread evenly in bins with the counts [B] and the ascending edges [B + 1].
    """
    step = amax / LEVELS
    steps = edges / step
    mean = np.diff(_error_area(steps)) / np.diff(steps)
    return float(count @ mean) * step * step


def _error_area(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of (t - Q(t))^2 from 0 to ``steps``: n/12 + (t - n)^3 / 3, n = Q(t) in 0..127."""
    nearest = np.minimum(np.rint(steps), LEVELS)
    rest = steps - nearest
    return np.asarray(nearest / 12 + rest * rest * rest / 3)  # ** 3 is ten times slower


def entropy(observed: Observation) -> float:
    """The amax at which 128 levels lose least information: TensorRT's entropy calibrator 2.

    The candidates are i / 2048 of the exact amax, i = 128..2048. The result is the candidate with
    the least Kullback-Leibler divergence between the clipped distribution and its 128 levels, the
    largest if several are equal. The zeros of a ReLU have no weight, since the first of the 2048
    bins gets the count of the second. If outliers are so far out that only the exact amax itself is
    possible, the range is halved until its 2048 bins give another candidate.

    The calibrator minimises the loss of information, not the error, and clips rare large values. So
    it suits plain Inceptions, and harms residual networks, whose large values matter: on a trained
    Inception-ResNet-v1 the SQNR of the logits is 8.6 dB with it and 15.7 dB with ``mse``.

    Source: GTC 2017 S7310 (Migacz); ``calib/histogram.py``, tools/pytorch-quantization,
    NVIDIA/TensorRT.
    """
    reach, best = observed.amax, (np.inf, observed.amax)
    while reach > 0.0:
        count, above = linear_histogram(observed, reach)
        count[0] = count[1]
        if not count.any():
            break
        loss = divergence(count, above)
        last = loss.size - 1 - int(np.argmin(loss[::-1]))
        best = min(best, (float(loss[last]), reach * (last + _LEVELS_OF_KL) / count.size))
        if np.isfinite(loss[:-1]).any():
            break
        reach /= 2
    return best[1]


def linear_histogram(observed: Observation, reach: float) -> tuple[NDArray[np.float64], float]:
    """Counts [2048] in bins of equal width from 0 to ``reach``, and the count of larger values.

    Values are assumed to lie evenly inside a bin of the observation. The cumulative counts are
    rounded to whole numbers, so that a single value stays in one bin: the divergence depends on
    which bins are empty.
    """
    edges, count = observed.trimmed_histogram()
    total = np.concatenate([[0.0], np.cumsum(count)])
    below = np.rint(np.interp(np.linspace(0.0, reach, _BINS_OF_KL + 1), edges, total))
    if reach >= observed.amax:
        below[-1] = total[-1]
    return np.diff(below), float(total[-1] - below[-1])


def divergence(count: NDArray[np.float64], above: float) -> NDArray[np.float64]:
    """KL(P_i || Q_i) of every candidate i = 128..B, infinite if Q_i is 0 in a bin where P_i is not.

    The counts [B] are not all zero, B >= 128; ``above`` is the count beyond the last bin.

    P_i has the counts of the first i bins, with all counts beyond added to the last of them. Q_i
    divides the same i bins into 128 equal parts and spreads the count of each part evenly over the
    non-empty bins of the part. Let S_k be the count and n_k the number of non-empty bins in the
    part of bin k, N the sum of all counts and R the sum of the counts beyond i. The divergence is
    ``sum(P log P) / N - log N - sum_k P_k log(S_k / n_k) / N + log(N - R)``.
    All sums are differences of cumulative sums, so a candidate costs 128 operations, not i.
    """
    candidates = np.arange(_LEVELS_OF_KL, count.size + 1)
    # Part j of candidate i begins at bin j * i / 128, rounded up.
    first = -(-np.arange(_LEVELS_OF_KL + 1) * candidates[:, None] // _LEVELS_OF_KL)
    mass, filled = (
        np.diff(np.concatenate([[0.0], np.cumsum(values)])[first], axis=1)
        for values in (count, count > 0)
    )
    level = np.log(np.divide(mass, filled, out=np.ones_like(mass), where=filled > 0))
    whole = count.sum() + above
    beyond = whole - mass.sum(axis=1)
    edge = count[candidates - 1]
    reference = np.cumsum(_x_log_x(count))[candidates - 1] - _x_log_x(edge)
    reference += _x_log_x(edge + beyond)
    spread = (mass * level).sum(axis=1) + beyond * level[:, -1]
    misses = (beyond == whole) | ((edge == 0) & (beyond > 0))
    inside = np.log(np.where(misses, 1.0, whole - beyond))
    loss = (reference - spread) / whole - np.log(whole) + inside
    return np.where(misses, np.inf, loss)


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values * np.log(np.where(values > 0, values, 1.0)))


_PLAIN: Mapping[str, Calibrator] = {
    "max": maximum,
    "mse": mean_squared_error,
    "mse-max": mse_max,
    "entropy": entropy,
}
_NAMES = (*_PLAIN, "percentile:P", AUTO)


def require_known(name: str) -> None:
    """Check that a calibrator has this name, or that it is ``auto``; else raise an InputError."""
    if name != AUTO:
        calibrator(name)


def calibrator(name: str) -> Calibrator:
    """The calibrator called ``max``, ``mse``, ``mse-max``, ``entropy`` or ``percentile:P``.

    Raises:
        InputError: No such calibrator, or P is not a number above 0 and at most 100.
    """
    kind, _, argument = name.partition(":")
    if kind in _PLAIN and not argument:
        return _PLAIN[kind]
    if kind != "percentile":
        raise unknown("calibrator", name, _NAMES)
    try:
        percent = float(argument)
    except ValueError:
        percent = 0.0
    if not 0.0 < percent <= 100.0:  # noqa: PLR2004 -- percent
        raise InputError(
            f"calibrator '{name}': got '{argument}', wanted a percentage above 0 and at most 100",
            hint="for example percentile:99.99",
        )
    return lambda observed: percentile(observed, percent)
