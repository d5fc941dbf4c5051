"""Confidence intervals in closed form: shares, paired differences, paired latency ratios.

Shares follow two conventions, and every estimate's ``method`` names its own:

- an interval that is only shown is Wilson's score interval, two-sided 95 %;
- an interval for a gate on accuracy has one-sided bounds, each with 95 % confidence, since "is the
  drop at most 2 pp" asks about one side. If none of n images flips (changes between right and
  wrong), the upper bound is exactly ``1 - 0.05 ** (1 / n)``: 0.57 pp for 525 images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev

import numpy as np

from edge_inception.records import Record

CONFIDENCE = 0.95
_BISECTIONS = 100  # halvings of the interval that holds the solution
_LARGEST_T = 1e6


class Estimate(Record, frozen=True, kw_only=True):
    """A measured value and the bounds of its interval, in the unit of the value."""

    value: float
    lower: float
    upper: float
    method: str


def wilson(count: int, total: int) -> Estimate:
    """Share ``count / total`` with Wilson's two-sided 95 % score interval.

    Raises:
        ValueError: Not 0 <= count <= total, or total is 0.

    Source:
        Wilson, JASA 22 (1927) 209-212.
    """
    _check_count(count, total)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    share = count / total
    shrunk = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return Estimate(
        value=share,
        # at a share of 0 or 1 the bound is the share exactly, which rounding could miss
        lower=0.0 if count == 0 else max(0.0, centre - half),
        upper=1.0 if count == total else min(1.0, centre + half),
        method="wilson-95",
    )


def exact_share(count: int, total: int) -> Estimate:
    """Share ``count / total`` with exact bounds, each one-sided 95 %.

    Raises:
        ValueError: Not 0 <= count <= total, or total is 0.

    Source:
        Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    _check_count(count, total)
    tail = 1 - CONFIDENCE
    # a count of 0 or of all has a closed form: 0 of n gives the upper bound 1 - 0.05 ** (1 / n)
    if count == 0:
        lower, upper = 0.0, -math.expm1(math.log(tail) / total)
    elif count == total:
        lower, upper = math.exp(math.log(tail) / total), 1.0
    else:
        lower = _bisect(lambda p: _binomial_at_most(count - 1, total, p) > 1 - tail, 0.0, 1.0)
        upper = _bisect(lambda p: _binomial_at_most(count, total, p) > tail, 0.0, 1.0)
    return Estimate(
        value=count / total, lower=lower, upper=upper, method="clopper-pearson-one-sided-95"
    )


def binomial_at_least(count: int, total: int, share: float) -> float:
    """P(X >= count) for X ~ Binomial(total, share): the chance to be right so often by luck.

    Raises:
        ValueError: Not 0 <= count <= total, or total is 0.
    """
    _check_count(count, total)
    return _binomial_at_most(total - count, total, 1 - share)


def paired_drop(lost: int, gained: int, total: int) -> Estimate:
    """Drop between two accuracies on the same images, ``(lost - gained) / total``.

    Square-and-add combines the exact bounds of two shares, that of lost and that of gained images,
    with the correlation of two cells of one multinomial. Each bound is one-sided 95 %.

    Args:
        lost: Images right before and wrong after.
        gained: Images wrong before and right after.
        total: All images.

    Returns:
        Shares in -1..1, not percentage points.

    Raises:
        ValueError: A count is negative or lost + gained exceeds total.

    Source:
        Newcombe, Stat. Med. 17 (1998) 2635-2650, method 10 (square-and-add); Zou and Donner,
        Stat. Med. 27 (2008) 1693-1702 (square-and-add of any limits). Newcombe's method combines
        Wilson's limits of the shares of right images; this function combines exact limits of the
        shares of changed images. Quantized engines usually change at most five images, where
        Wilson's and Tango's bounds are too small.
    """
    if lost + gained > total:
        raise ValueError(f"{lost} + {gained} flips among {total} images")
    down, up = exact_share(lost, total), exact_share(gained, total)
    drop = down.value - up.value
    correlation = _cell_correlation(down.value, up.value)
    below = _square_and_add(down.value - down.lower, up.upper - up.value, correlation)
    above = _square_and_add(down.upper - down.value, up.value - up.lower, correlation)
    return Estimate(
        value=drop,
        lower=max(-1.0, drop - below),
        upper=min(1.0, drop + above),
        method="paired-exact-square-and-add-one-sided-95",
    )


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """``geometric_mean`` of the ratios of two values above 0 that were measured in each round.

    Raises:
        ValueError: Lengths differ, fewer than two rounds, or a value is not positive.

    Source:
        Student, Biometrika 6 (1908) 1-25, on log ratios.
    """
    if len(numerator) != len(denominator) or len(numerator) < 2:  # noqa: PLR2004 -- a variance
        raise ValueError(f"need two or more pairs, got {len(numerator)} and {len(denominator)}")
    if min(*numerator, *denominator) <= 0:
        raise ValueError(f"a ratio needs values above 0, got {min(*numerator, *denominator)}")
    return geometric_mean([math.log(a / b) for a, b in zip(numerator, denominator, strict=True)])


def geometric_mean(logs: Sequence[float]) -> Estimate:
    """Geometric mean of ratios with a two-sided 95 % Student interval of their two or more logs."""
    centre = fmean(logs)
    half = student_quantile(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Estimate(
        value=math.exp(centre),
        lower=math.exp(centre - half),
        upper=math.exp(centre + half),
        method="paired-t-log-95",
    )


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t for which P(-t < T < t) = ``confidence`` at ``freedom`` >= 1 degrees of freedom."""
    if freedom < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {freedom}")
    return _bisect(lambda t: _student_within(t, freedom) < confidence, 0.0, _LARGEST_T)


def _student_within(t: float, freedom: int) -> float:
    """P(-t < T < t) by the series of Abramowitz and Stegun, 26.7.3 (odd freedom), 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2 == 1
    term = cosine if is_odd else 1.0
    series = 0.0
    for k in range(2 if is_odd else 1, freedom, 2):
        series += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * series) if is_odd else sine * series


def _check_count(count: int, total: int) -> None:
    if not 0 <= count <= total or total == 0:
        raise ValueError(f"count {count} of {total}")


def _cell_correlation(first: float, second: float) -> float:
    """Correlation of two cell counts of one multinomial; 0 when a cell is empty or full."""
    if first in {0.0, 1.0} or second in {0.0, 1.0}:
        return 0.0
    return -math.sqrt(first * second / ((1 - first) * (1 - second)))


def _square_and_add(first: float, second: float, correlation: float) -> float:
    return math.sqrt(first * first - 2 * correlation * first * second + second * second)


def _binomial_at_most(count: int, total: int, share: float) -> float:
    """P(X <= count) for X ~ Binomial(total, share), summed in logarithms."""
    if share <= 0.0 or share >= 1.0:
        return 1.0 if share <= 0.0 else float(count >= total)
    k = np.arange(count + 1, dtype=np.float64)
    # log C(total, k) as a running sum of log((total - k + 1) / k)
    steps = np.log((total - k[1:] + 1) / k[1:])
    log_choose = np.concatenate((np.zeros(1), np.cumsum(steps)))
    log_terms = log_choose + k * math.log(share) + (total - k) * math.log1p(-share)
    top = float(log_terms.max())
    return min(1.0, math.exp(top) * float(np.exp(log_terms - top).sum()))


def _bisect(is_low: Callable[[float], bool], low: float, high: float) -> float:
    """The point in [low, high] at which ``is_low`` changes from True to False."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if is_low(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2
