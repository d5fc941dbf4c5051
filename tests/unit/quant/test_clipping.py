"""What calibration saw."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper

from edge_inception import records
from edge_inception.quant import clipping
from edge_inception.quant.calibrators import Observation
from edge_inception.quant.observe import calibrate


def test_shares_and_clipping_are_those_of_the_histogram():
    """Shares of all bins add up to 1, and half of evenly spread values lie above half of amax."""
    from edge_inception.quant import calibrators

    edges = calibrators._EDGES
    counts = np.zeros(len(edges) - 1, np.int64)
    values = np.linspace(0.5, 1.0, 100_001)[1:-1]
    counts += np.histogram(values, edges)[0]
    observed = Observation(amax=1.0, histogram=counts)
    assert clipping._share_above(observed, 0.75) == pytest.approx(
        0.5, abs=0.01
    )  # a bin is 1 % or less
    assert clipping._share_above(observed, 1.0) == pytest.approx(0.0, abs=1e-9)
    row = clipping.ClippedTensor(name="a", observed=1.0, amax=1.0, ratio=1.0, clipped=None)
    bins = clipping._add_histogram(row, observed)
    value = json.loads(records.to_json(bins))
    assert records.convert(clipping.ClippedTensor, value, where="", hint="") == bins
    assert sum(bins.shares) == pytest.approx(1.0)
    assert sum(bins.shares[:31]) == pytest.approx(0.0, abs=0.01)  # nothing below 0.48


def test_a_dead_tensor_is_clipped_nowhere(model, save, photos, options, tmp_path):
    """Its values are all zero, which the histogram counts: no share of them, and none drawn."""
    for tensor in model.graph.initializer:
        if tensor.name in {"last.w", "last.b"}:
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    table = calibrate(save(model), photos, options, tmp_path / "r.json")
    found = clipping.describe(table)
    dead = [row for row in found.rows if row.observed == 0.0]
    assert dead
    assert {row.clipped for row in dead} == {None}
    assert not any(row.observed == 0.0 for row in found.drawn)
