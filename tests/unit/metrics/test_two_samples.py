"""The distance of two samples against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_inception.metrics.two_samples import kolmogorov_smirnov


def test_separate_samples_are_as_far_apart_as_can_be():
    """5 values below 40 others: distance 1, significance 2 exp(-2 * 200 / 45)."""
    distance, significance = kolmogorov_smirnov(np.zeros(5), np.ones(40))
    assert distance == 1.0
    assert significance == pytest.approx(2 * math.exp(-400 / 45))


def test_equal_samples_do_not_differ():
    """In whatever order and however often each value occurs."""
    assert kolmogorov_smirnov(np.array([1.0, 2.0]), np.array([2.0, 1.0, 1.0, 2.0])) == (0.0, 1.0)


def test_a_half_that_is_shifted_is_a_distance_of_a_half():
    """Of 0, 0 and 0, 5: up to the threshold 0 the shares are 1 and 1/2."""
    assert kolmogorov_smirnov(np.zeros(8), np.array([0.0, 5.0]))[0] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_the_largest_over_all_thresholds(seed):
    """Counted for each threshold by itself, with ties."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 9, 17).astype(float), rng.integers(2, 9, 11).astype(float)
    wanted = max(abs(np.mean(first <= t) - np.mean(second <= t)) for t in range(10))
    assert kolmogorov_smirnov(first, second)[0] == pytest.approx(wanted)


def test_an_empty_sample_is_refused():
    """It has no distribution."""
    with pytest.raises(ValueError, match="none"):
        kolmogorov_smirnov(np.zeros(0), np.ones(3))
