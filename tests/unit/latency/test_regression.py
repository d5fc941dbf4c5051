from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inception.latency import regression
from edge_inception.latency.regression import Gate, Verdict, judge, log_ratio, sequential


def _logs(change, spread, count, seed=0):
    noise = np.random.default_rng(seed).normal(0, spread, count)
    return list(math.log(1 + change) + noise - noise.mean())


@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (0.0, Verdict.PASS),
        (0.02, Verdict.PASS),
        (0.05, Verdict.FAIL),
        (-0.02, Verdict.PASS),
        (-0.10, Verdict.IMPROVED),
        (0.03, Verdict.INCONCLUSIVE),
    ],
)
def test_the_whole_interval_decides(change, verdict, count):
    """With pairs that spread by 0.5 % a limit of 3 % is decided by the side the interval is on."""
    assert judge(_logs(change, 0.005, count), 0.03).verdict is verdict


def test_noise_is_no_verdict():
    """The same 5 % behind pairs that spread by 15 % is not claimed."""
    assert judge(_logs(0.05, 0.15, 10), 0.03).verdict is Verdict.INCONCLUSIVE


def test_t_interval_by_hand():
    """Three pairs of log 0.01, 0.02, 0.03: mean 0.02, half width 4.303 * 0.01 / sqrt 3."""
    found = regression.ratio_interval([0.01, 0.02, 0.03])
    half = 4.30265 * 0.01 / math.sqrt(3)
    assert found.value == pytest.approx(math.exp(0.02), rel=1e-6)
    assert found.lower == pytest.approx(math.exp(0.02 - half), rel=1e-4)
    assert found.upper == pytest.approx(math.exp(0.02 + half), rel=1e-4)


def test_one_wild_pair_moves_a_bootstrap_little():
    """One pair of eleven is tripled by something else: the interval stays below 3 %."""
    logs = [*_logs(0.0, 0.004, 10), math.log(3)]
    assert judge(logs, 0.03).verdict is Verdict.PASS


@given(
    st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=30),
    st.floats(0.005, 0.2),
    st.floats(0.01, 0.3),
)
def test_slower_is_never_judged_better(logs, delta, more):
    """Adding the same slow-down to every pair never improves the verdict."""
    order = [Verdict.IMPROVED, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]
    before = judge(logs, delta).verdict
    after = judge([value + more for value in logs], delta).verdict
    assert order.index(after) >= order.index(before)


def test_a_drift_that_meets_both_cancels():
    """Blocks that warm up by 30 % over the sitting: the turns still say + 4 %."""
    drift = np.linspace(1.0, 1.3, 10)
    assert log_ratio(list(8 * drift), list(8.32 * drift)) == pytest.approx(math.log(1.04))


def test_turns_must_match():
    """Runs with another number of blocks are no pair."""
    with pytest.raises(ValueError, match="no turns"):
        log_ratio([1.0, 1.0], [1.0])


def test_pairs_are_added_until_it_is_decided():
    """Undecided at four pairs, decided later: no pair is measured twice or in vain."""
    noisy = [0.2, -0.2, 0.2, -0.2]
    asked = []

    def figure(index):
        asked.append(index)
        return noisy[index] if index < 4 else 0.0

    result, logs = sequential(figure, Gate(delta=0.03, pairs=4, max_pairs=30, step=2))
    assert result.verdict is Verdict.PASS
    assert asked == list(range(len(logs)))
    assert 4 < len(logs) < 30


def test_no_more_than_the_most():
    """Never decided: it stops at the limit and says so."""
    result, logs = sequential(
        lambda index: 0.3 if index % 2 else -0.3, Gate(pairs=4, max_pairs=9, step=2)
    )
    assert result.verdict is Verdict.INCONCLUSIVE
    assert len(logs) == result.num_pairs == 9


def test_another_day_by_welch():
    """Equal spreads and sizes: Welch is Student's two-sample t, 2 * 4 - 2 degrees of freedom."""
    first, second = np.exp([0.0, 0.01, 0.02, 0.03]), np.exp([0.10, 0.11, 0.12, 0.13])
    found = regression.compare_with_stored(first, second, 0.03)
    error = math.sqrt(2 * np.var([0.0, 0.01, 0.02, 0.03], ddof=1) / 4)
    assert found.verdict is Verdict.FAIL
    assert found.ratio.value == pytest.approx(math.exp(0.1))
    # 6 degrees of freedom less what rounding takes: t is 2.447 to 2.571
    half = math.log(found.ratio.upper) - 0.1
    assert 2.44 * error < half < 2.58 * error


def test_pairs_needed_grows_with_the_square_of_the_noise():
    """Twice the spread needs four times the pairs, and a change within the limit is refused."""
    gate = Gate(delta=0.03)
    few = regression.pairs_needed(_logs(0, 0.02, 50), gate)
    many = regression.pairs_needed(_logs(0, 0.04, 50), gate)
    assert many == pytest.approx(4 * few, rel=0.1)
    with pytest.raises(ValueError, match="within the limit"):
        regression.pairs_needed(_logs(0, 0.02, 5), gate, true_change=0.03)


def test_sentence_has_the_figures():
    """People read the change, its interval, the pairs and the limit."""
    sentence = judge(_logs(0.05, 0.001, 6), 0.03).sentence
    assert sentence.startswith("B is 5.0 % slower than A")
    assert "6 pairs" in sentence
    assert "limit +3 %" in sentence
