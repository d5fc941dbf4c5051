from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_inception.metrics import intervals


def _binomial_at_most(count: int, total: int, share: Fraction) -> Fraction:
    """Exact tail in rational arithmetic: the slow second version."""
    terms = (math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(count + 1))
    return sum(terms, Fraction(0))


def test_wilson_matches_the_published_example():
    """Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662."""
    found = intervals.wilson(81, 263)
    # printed to four digits
    assert found.lower == pytest.approx(0.2553, abs=5e-5)
    assert found.upper == pytest.approx(0.3662, abs=5e-5)


def test_wilson_bounds_solve_the_score_equation():
    """At each bound p the distance |share - p| is z standard errors at p, which defines it."""
    z = 1.959963984540054
    for count, total in ((1, 20), (10, 20), (430, 525)):
        found = intervals.wilson(count, total)
        for bound in (found.lower, found.upper):
            error = math.sqrt(bound * (1 - bound) / total)
            assert abs(count / total - bound) == pytest.approx(z * error, rel=1e-9)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10)])
def test_wilson_keeps_an_extreme_share_inside(count, total):
    """A share of 0 or 1 is its own bound, and the other bound is strictly inside."""
    found = intervals.wilson(count, total)
    assert found.lower <= found.value <= found.upper
    assert 0 < found.upper - found.lower < 1


def test_no_flip_among_525_gives_the_bound_of_the_issue():
    """525 images without a flip bound the drop by 0.57 pp: exactly 1 - 0.05 ** (1 / 525)."""
    found = intervals.paired_drop(0, 0, 525)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 525), rel=1e-12)
    assert round(100 * found.upper, 2) == 0.57
    assert found.lower == -found.upper


@pytest.mark.parametrize(("count", "total"), [(1, 30), (7, 30), (29, 30), (3, 525)])
def test_exact_bounds_leave_five_percent_in_each_tail(count, total):
    """At the upper bound P(X <= count) is 5 %, at the lower P(X >= count) is: the definition."""
    found = intervals.exact_share(count, total)
    upper_tail = float(_binomial_at_most(count, total, Fraction(found.upper)))
    lower_tail = 1 - float(_binomial_at_most(count - 1, total, Fraction(found.lower)))
    # the bisection is good to a double; the tail's slope is below n = 525
    assert upper_tail == pytest.approx(0.05, rel=1e-9)
    assert lower_tail == pytest.approx(0.05, rel=1e-9)


def test_exact_share_holds_for_a_large_set():
    """ImageNet's 50,000 images do not overflow: bounds lie near the normal approximation's."""
    found = intervals.exact_share(40_000, 50_000)
    half = 1.6449 * math.sqrt(0.8 * 0.2 / 50_000)
    # the exact bound exceeds the normal one by O(1/n)
    assert found.upper - 0.8 == pytest.approx(half, abs=3e-5)
    assert 0.8 - found.lower == pytest.approx(half, abs=3e-5)


@given(total=st.integers(1, 300), data=st.data())
@settings(deadline=None, max_examples=50)
def test_paired_drop_is_antisymmetric(total, data):
    """Swapping baseline and engine turns the drop and its bounds around."""
    lost = data.draw(st.integers(0, total))
    gained = data.draw(st.integers(0, total - lost))
    one, other = (
        intervals.paired_drop(lost, gained, total),
        intervals.paired_drop(gained, lost, total),
    )
    assert one.value == -other.value == (lost / total - gained / total)
    assert one.lower == pytest.approx(-other.upper, abs=1e-12)
    assert -1 <= one.lower <= one.value <= one.upper <= 1


def test_paired_drop_approaches_the_normal_interval():
    """With many flips the bounds are those of the multinomial's normal approximation."""
    lost, gained, total = 5200, 4700, 50_000
    found = intervals.paired_drop(lost, gained, total)
    p, q = lost / total, gained / total
    half = 1.6449 * math.sqrt((p + q - (p - q) ** 2) / total)
    # exact limits exceed the normal ones by O(1/n) each
    assert found.upper - found.value == pytest.approx(half, abs=3e-5)
    assert found.value - found.lower == pytest.approx(half, abs=3e-5)


_paired_drop = functools.cache(intervals.paired_drop)


def _coverage(total: int, down: float, up: float) -> tuple[float, float]:
    """Exact probability that each bound holds, over every possible outcome."""
    rest, upper, lower = 1 - down - up, 0.0, 0.0
    for lost in range(total + 1):
        for gained in range(total - lost + 1):
            chance = (
                math.comb(total, lost)
                * math.comb(total - lost, gained)
                * down**lost
                * up**gained
                * rest ** (total - lost - gained)
            )
            found = _paired_drop(lost, gained, total)
            upper += chance * (found.upper >= down - up - 1e-12)
            lower += chance * (found.lower <= down - up + 1e-12)
    return upper, lower


@pytest.mark.parametrize(("down", "up"), [(0.08, 0.0), (0.15, 0.05), (0.3, 0.3)])
def test_paired_bounds_hold_with_their_confidence(down, up):
    """Over all outcomes of 20 images each one-sided bound is right at least 95 % of the time."""
    upper, lower = _coverage(20, down, up)
    assert min(upper, lower) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("total", [12, 40])
def test_paired_bounds_hold_everywhere(total):
    """The same on a grid of flip shares, sparse ones included."""
    shares = [0.0, 0.003, 0.01, 0.03, 0.08, 0.15, 0.25, 0.4, 0.48]
    worst = min(min(_coverage(total, down, up)) for down in shares for up in shares)
    assert worst >= 0.95


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (2, 4.303), (7, 2.365), (10, 2.228), (120, 1.980)]
)
def test_student_quantile_matches_the_printed_table(freedom, expected):
    """Two-sided 95 % points of any printed t table."""
    assert intervals.student_quantile(freedom) == pytest.approx(expected, abs=5e-4)


def test_paired_ratio_in_closed_form():
    """Two pairs with log ratios a and b: centre (a + b) / 2, half width t_1 |a - b| / 2."""
    found = intervals.paired_ratio([2.0, 8.0], [1.0, 2.0])
    half = 12.7062047 * math.log(2) / 2
    assert found.value == pytest.approx(math.sqrt(8))
    assert found.upper == pytest.approx(math.sqrt(8) * math.exp(half), rel=1e-6)
    assert found.lower == pytest.approx(math.sqrt(8) * math.exp(-half), rel=1e-6)


def test_drift_common_to_both_cancels():
    """A machine that slows down by half over the rounds leaves a constant ratio alone."""
    drift = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    found = intervals.paired_ratio([3 * d for d in drift], drift)
    assert found.lower == pytest.approx(3, rel=1e-9)
    assert found.upper == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: intervals.wilson(3, 2),
        lambda: intervals.wilson(0, 0),
        lambda: intervals.exact_share(-1, 2),
        lambda: intervals.paired_drop(2, 1, 2),
        lambda: intervals.paired_drop(-1, 0, 2),
        lambda: intervals.paired_ratio([1.0], [1.0]),
        lambda: intervals.paired_ratio([1.0, 0.0], [1.0, 1.0]),
        lambda: intervals.student_quantile(0),
    ],
)
def test_impossible_counts_are_refused(call):
    """A count outside its total, or too few pairs, is a wrong call."""
    with pytest.raises(ValueError, match=r"\d"):
        call()


def test_the_ratio_interval_holds_with_its_confidence_under_drift():
    """Simulated rounds with 2 % noise and 8 % common drift: 95 % of intervals hold the truth."""
    generator, rounds, trials, truth = np.random.default_rng(0), 8, 2000, 1.05
    drift = np.linspace(1.0, 1.08, rounds)
    held = 0
    for _ in range(trials):
        slow, quick = np.exp(generator.normal(0, 0.02, (2, rounds))) * drift
        found = intervals.paired_ratio(list(truth * slow), list(quick))
        held += found.lower <= truth <= found.upper
    # three standard errors of a share of 0.95 among 2000
    assert held / trials == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("total", [1, 7, 300])
@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(1, 1000)])
def test_the_chance_to_be_right_so_often_is_the_upper_tail(total, share):
    """Against rational arithmetic; all right has the chance share ** total, none right 1."""
    for count in range(1, total + 1, 1 + total // 7):
        wanted = float(1 - _binomial_at_most(count - 1, total, share))
        got = intervals.binomial_at_least(count, total, float(share))
        assert got == pytest.approx(wanted, rel=1e-9)
    assert intervals.binomial_at_least(0, total, float(share)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="count"):
        intervals.binomial_at_least(total + 1, total, 0.5)
