"""Calibrators against closed forms and brute force over the raw values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from edge_inception.errors import InputError
from edge_inception.quant import calibrators
from edge_inception.quant.calibrators import NUM_BINS, Observation, bin_edges, calibrator

# One bin is 2^-8 of its octave: the finest answer a histogram can give, relative to the value.
BIN = 2.0**-8


def observe(values):
    """Histogram by comparison with the edges: no float16 bits involved."""
    magnitude = np.abs(values).astype(np.float32)
    edges = np.concatenate([bin_edges()[:-1], [3.4e38]])
    histogram, _ = np.histogram(magnitude, edges)
    return Observation(amax=float(magnitude.max()), histogram=histogram.astype(np.int64))


def raw_error(values, amax):
    """Mean squared error of symmetric INT8, value by value."""
    scale = amax / 127
    return np.square(np.clip(np.rint(values / scale), -127, 127) * scale - values).mean()


SHAPES = {
    "relu_gauss": np.maximum(np.random.default_rng(0).normal(0, 1, 60_000), 0),
    "gauss": np.random.default_rng(1).normal(0, 3, 60_000),
    "heavy": np.random.default_rng(2).standard_t(2.5, 60_000),
    "uniform": np.random.default_rng(3).uniform(-2, 2, 60_000),
    "outlier": np.append(np.random.default_rng(4).normal(0, 1, 60_000), 40.0),
}


def test_edges_ascend_and_halve_the_gap_between_float16_numbers():
    """Edges grow strictly from 0, and rounding to float16 never moves a value across one."""
    edges = bin_edges()
    assert edges.shape == (NUM_BINS + 1,)
    assert edges[0] == 0.0
    assert (np.diff(edges) > 0).all()
    inside = (edges[1:-2] * (1 + 1e-6)).astype(np.float64)
    rounded = inside.astype(np.float16).astype(np.float64)
    assert (
        np.searchsorted(edges, rounded, "right") == np.searchsorted(edges, inside, "right")
    ).all()


@pytest.mark.parametrize("name", SHAPES)
def test_max_is_the_largest_magnitude(name):
    """max clips nothing."""
    values = SHAPES[name]
    assert calibrator("max")(observe(values)) == np.abs(values).astype(np.float32).max()


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("name", ["gauss", "heavy", "uniform"])
def test_percentile_matches_numpy_over_all_values(name, percent):
    """percentile:P is numpy's percentile of the raw magnitudes, within one bin."""
    magnitude = np.abs(SHAPES[name])
    wanted = np.percentile(magnitude, percent, method="inverted_cdf")
    found = calibrator(f"percentile:{percent}")(observe(magnitude))
    assert found == pytest.approx(wanted, rel=BIN)


def test_percentile_counts_zeros():
    """With three quarters of zeros the 75th percentile is zero, not a positive value."""
    values = np.append(np.zeros(750), np.linspace(1, 2, 250))
    assert calibrator("percentile:75")(observe(values)) < 1e-6
    assert calibrator("percentile:76")(observe(values)) > 0.99


@pytest.mark.parametrize("name", SHAPES)
def test_mse_is_as_good_as_a_dense_search_over_the_raw_values(name):
    """No amax of 400 tried on the raw values beats the calibrator's by more than 0.5 %.

    The fine search steps by about 1 % of amax; a parabola that near its minimum is flat to 0.1 %.
    """
    values = SHAPES[name]
    largest = np.abs(values).max()
    best = min(raw_error(values, amax) for amax in np.linspace(0.03, 1, 400) * largest)
    assert raw_error(values, calibrator("mse")(observe(values))) <= best * 1.005


@pytest.mark.parametrize("name", SHAPES)
def test_mse_max_is_half_way_in_octaves(name):
    """Its square is the product of the other two."""
    low, middle, high = (
        calibrator(one)(observe(SHAPES[name])) for one in ("mse", "mse-max", "max")
    )
    assert middle**2 == pytest.approx(low * high, rel=1e-9)
    assert low <= middle <= high


def direct_divergence(count, i, above=0.0):
    """KL of candidate ``i`` bin by bin, as the reference describes it: no prefix sums."""
    reference = count[:i].copy()
    reference[-1] += count[i:].sum() + above
    levels = np.zeros(i)
    for low, high in itertools.pairwise(math.ceil(edge) for edge in np.linspace(0, i, 129)):
        part = count[low:high]
        if part.any():
            levels[low:high] = np.where(part > 0, part.sum() / np.count_nonzero(part), 0.0)
    if not levels.any():
        return np.inf
    p, q = reference / reference.sum(), levels / levels.sum()
    if (q[p > 0] == 0).any():
        return np.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def kl_histogram(values, reach=None):
    """What the reference starts from: 2048 counts, the first as the second, and those beyond."""
    seen = observe(values)
    count, above = calibrators.linear_histogram(seen, reach or seen.amax)
    count[0] = count[1]
    return count, above


KL_SHAPES = SHAPES | {
    "sparse": np.random.default_rng(6).exponential(1, 300),
    "two_values": np.repeat([1.0, 8.0], [900, 100]),
    "gap": np.append(np.random.default_rng(7).normal(0, 1, 5_000), np.linspace(30, 31, 50)),
}


@pytest.mark.parametrize("name", ["relu_gauss", "heavy", "outlier", "sparse", "gap"])
def test_entropy_picks_the_last_least_candidate_of_a_direct_search(name):
    """All 1921 candidates, one by one, agree, and the last of the least is the calibrator's.

    1e-11: sums of up to 2048 terms near one, of which the formula takes differences.
    """
    count, above = kl_histogram(KL_SHAPES[name])
    wanted = np.array([direct_divergence(count, i) for i in range(128, 2049)])
    assert above == 0.0
    np.testing.assert_allclose(calibrators.divergence(count, 0.0), wanted, rtol=0, atol=1e-11)
    last = np.flatnonzero(wanted <= wanted.min() + 1e-12)[-1]
    amax = float(np.abs(KL_SHAPES[name]).astype(np.float32).max())
    found = calibrator("entropy")(observe(KL_SHAPES[name]))
    assert found == pytest.approx((128 + last) * amax / 2048)


def test_counts_beyond_the_last_bin_are_clipped_mass():
    """A histogram of half the range agrees with the direct form too."""
    values = SHAPES["heavy"]
    count, above = kl_histogram(values, np.abs(values).max() / 4)
    assert above > 0
    wanted = [direct_divergence(count, i, above) for i in range(128, 2049, 7)]
    found = calibrators.divergence(count, above)[::7]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11)


def test_the_last_of_equal_minima_wins():
    """Two values leave many candidates without any loss; the widest keeps both values."""
    assert calibrator("entropy")(observe(KL_SHAPES["two_values"])) == 8.0


def test_entropy_is_no_maximum_in_disguise():
    """A few outliers, whenever they come, do not set the range: 200 000 values, 3 far out.

    quantize_static of onnxruntime answers 100 here, its only candidate: the first batch's maximum.
    All three at 100, no candidate of the plain 2048 bins can clip them.
    """
    values = np.append(np.maximum(np.random.default_rng(0).normal(0, 1, 200_000), 0), [100.0] * 3)
    assert 3.0 < calibrator("entropy")(observe(values)) < 10.0


def test_what_most_values_are_is_no_outlier():
    """Nine of ten values far out, at one point: clipping them would lose more than it gains."""
    values = np.append(np.random.default_rng(0).uniform(0, 1, 10_000), [100.0] * 90_000)
    assert calibrator("entropy")(observe(values)) == 100.0


def test_a_tensor_of_one_value_keeps_it():
    """Nothing lies below it that could be told apart better."""
    assert calibrator("entropy")(observe(np.full(100, 3.0))) == 3.0


def test_zeros_of_a_relu_do_not_move_entropy():
    """A thousand or a million zeros more: the same amax."""
    values = SHAPES["relu_gauss"]
    more = np.append(values, np.zeros(1_000_000))
    assert calibrator("entropy")(observe(more)) == calibrator("entropy")(observe(values))


@pytest.mark.parametrize("name", KL_SHAPES)
def test_the_linear_histogram_is_that_of_the_values(name):
    """Whole counts, all of them, and running totals that differ by less than one bin's content."""
    magnitude = np.abs(KL_SHAPES[name]).astype(np.float32)
    seen = observe(magnitude)
    found, _ = calibrators.linear_histogram(seen, seen.amax)
    wanted, edges = np.histogram(magnitude, 2048, (0.0, seen.amax))
    assert (found == np.rint(found)).all()
    assert found.sum() == magnitude.size
    widest = np.searchsorted(bin_edges(), edges)
    content = np.append(seen.histogram, 0)[np.clip(widest - 1, 0, NUM_BINS)]
    drift = np.abs(np.cumsum(found) - np.cumsum(wanted))
    assert (drift <= content[1:] + 1).all()


@pytest.mark.parametrize("amax", [0.7, 1.3, 2.0])
def test_squared_error_of_an_even_spread_is_its_integral(amax):
    """The bin formula equals the mean over a dense grid of the bin, rounding and clipping."""
    edges = np.array([0.0, 0.05, 0.911, 0.917, 1.2, 1.9])
    count = np.array([3.0, 0.0, 2.0, 1.0, 5.0])
    grids = [np.linspace(a, b, 200_001) for a, b in itertools.pairwise(edges)]
    wanted = sum(n * raw_error(grid, amax) for n, grid in zip(count, grids, strict=True))
    found = calibrators.squared_error(amax, edges, count)
    assert found == pytest.approx(wanted, rel=1e-4)  # step of the grid


@pytest.mark.parametrize("name", ["mse", "percentile:99"])
def test_an_amax_on_a_bin_edge_is_found(name):
    """The exact amax can leave its own bin no width; a tensor of one value shows it."""
    edge = float(bin_edges()[5000])
    seen = observe(np.full(100, edge))
    assert calibrator(name)(seen) == pytest.approx(edge, rel=BIN)


@pytest.mark.parametrize("name", ["max", "mse", "mse-max", "entropy", "percentile:99.9"])
def test_a_tensor_of_zeros_has_amax_zero(name):
    """A dead tensor is not an error; its scale is the smallest usable one."""
    assert calibrator(name)(observe(np.zeros(100))) == 0.0


@pytest.mark.parametrize("name", ["mse", "entropy"])
def test_amax_is_kept_when_the_sample_missed_everything(name):
    """Only zeros sampled, but a positive exact amax: nothing says that clipping is free."""
    histogram = np.zeros(NUM_BINS, np.int64)
    histogram[0] = 50
    assert calibrator(name)(Observation(amax=3.0, histogram=histogram)) == 3.0


def test_values_beyond_float16_stay_between_overflow_and_amax():
    """Counts of the overflow bin lie between 65520 and the exact amax."""
    values = np.full(100, 1e6)
    assert 65520 <= calibrator("percentile:50")(observe(values)) <= 1e6


@pytest.mark.parametrize("name", ["maks", "mse:3", "entropy:8", "entropie", "percentil:99"])
def test_an_unknown_calibrator_is_refused_with_the_known_ones(name):
    """The hint lists the closed set."""
    with pytest.raises(InputError, match=f"no calibrator named '{name}'") as caught:
        calibrator(name)
    assert "percentile:P" in caught.value.hint


@pytest.mark.parametrize("percent", ["", "zero", "0", "-1", "100.5", "nan", "inf"])
def test_a_percentile_without_a_percentage_is_refused(percent):
    """P is above 0 and at most 100."""
    with pytest.raises(InputError, match="wanted a percentage"):
        calibrator(f"percentile:{percent}")
