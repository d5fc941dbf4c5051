"""Second-order rounding against a slow Optimal Brain Quantizer that updates the whole inverse."""

from __future__ import annotations

import numpy as np
import pytest

from edge_inception.quant.scales import quantize_weight
from edge_inception.quant.second_order import output_error, round_second_order


def correlated(rng, size, count):
    """Patches [count, size] whose inputs depend on each other, as those of images do."""
    mix = rng.normal(0, 1, (size, size)) / np.sqrt(size)
    return (rng.normal(0, 1, (count, size)) @ (np.eye(size) + 2 * mix)).astype(np.float32)


def slow(weight, scale, gram):
    """Optimal Brain Compression, one column after the other by falling diagonal.

    The inverse of H is updated by Gaussian elimination for every column that is fixed.
    """
    gram = gram.astype(np.float64)
    order = np.argsort(-np.diag(gram), kind="stable")
    damped = gram + 0.01 * np.trace(gram) / len(gram) * np.eye(len(gram))
    inverse = np.linalg.inv(damped)
    rest, steps = weight.astype(np.float64), np.zeros(weight.shape, np.int8)
    for column in order:
        level = np.clip(np.rint(rest[:, column] / scale), -127, 127)
        steps[:, column] = level
        error = (rest[:, column] - level * scale) / inverse[column, column]
        rest -= np.outer(error, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return steps


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 9), (8, 40), (3, 150)])
def test_it_is_optimal_brain_quantization(outputs, inputs):
    """150 inputs are more than one block of columns."""
    rng = np.random.default_rng(inputs)
    patches = correlated(rng, inputs, 4 * inputs)
    weight = rng.normal(0, 1, (outputs, inputs)).astype(np.float32)
    nearest, scale = quantize_weight(weight, axis=0)
    gram = patches.T @ patches
    found = round_second_order(weight, scale, gram)
    wanted = slow(weight, scale.astype(np.float64), gram)
    assert np.mean(found == wanted) > 0.99  # a sum on the edge of a level may round the other way
    assert np.abs(found.astype(int)).max() <= 127
    error = [
        np.square(patches @ (weight - steps * scale[:, None]).T.astype(np.float64)).sum(axis=0)
        for steps in (found, nearest)
    ]
    assert error[0].sum() < 0.7 * error[1].sum()
    assert output_error(weight, found, scale, gram) == pytest.approx(error[0], rel=1e-3)


def test_without_correlation_it_is_rounding_to_nearest():
    weight = np.random.default_rng(1).normal(0, 1, (4, 12)).astype(np.float32)
    nearest, scale = quantize_weight(weight, axis=0)
    gram = np.diag(np.arange(1, 13)).astype(np.float32)
    assert np.array_equal(round_second_order(weight, scale, gram), nearest)


def test_inputs_that_are_always_zero_break_nothing():
    """Neither one dead input nor an input tensor of zeros alone."""
    rng = np.random.default_rng(2)
    patches = correlated(rng, 6, 50)
    patches[:, 2] = 0
    weight = rng.normal(0, 1, (3, 6)).astype(np.float32)
    nearest, scale = quantize_weight(weight, axis=0)
    steps = round_second_order(weight, scale, patches.T @ patches)
    assert np.array_equal(steps[:, 2], nearest[:, 2])
    none = round_second_order(weight, scale, np.zeros((6, 6), np.float32))
    assert np.array_equal(none, nearest)
