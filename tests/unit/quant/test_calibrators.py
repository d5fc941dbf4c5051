"""Calibrators against closed forms and brute force over the raw values."""

from __future__ import annotations

import itertools

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


@pytest.mark.parametrize("name", ["max", "mse", "percentile:99.9"])
def test_a_tensor_of_zeros_has_amax_zero(name):
    """A dead tensor is not an error; its scale is the smallest usable one."""
    assert calibrator(name)(observe(np.zeros(100))) == 0.0


def test_mse_keeps_amax_when_the_sample_missed_everything():
    """Only zeros sampled, but a positive exact amax: nothing says that clipping is free."""
    histogram = np.zeros(NUM_BINS, np.int64)
    histogram[0] = 50
    assert calibrator("mse")(Observation(amax=3.0, histogram=histogram)) == 3.0


def test_values_beyond_float16_stay_between_overflow_and_amax():
    """Counts of the overflow bin lie between 65520 and the exact amax."""
    values = np.full(100, 1e6)
    assert 65520 <= calibrator("percentile:50")(observe(values)) <= 1e6


@pytest.mark.parametrize("name", ["maks", "mse:3", "entropie", "percentil:99"])
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
