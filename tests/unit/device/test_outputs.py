"""The device's figures are those of ``edge_inception.validate`` and of the backends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_inception.data import batches
from edge_inception.device import outputs
from edge_inception.spec import Head
from edge_inception.validate import accuracy

RNG = np.random.default_rng(2)
LOGITS = RNG.normal(0, 3, (7, 6)).astype(np.float32)
NOISY = (LOGITS + RNG.normal(0, 0.2, LOGITS.shape)).astype(np.float32)


def softmax(logits):
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exps / exps.sum(axis=1, keepdims=True)).astype(np.float32)


def topk(logits, k):
    chosen = np.argsort(-logits, axis=1)[:, :k]
    return {"scores": np.take_along_axis(softmax(logits), chosen, 1), "classes": chosen}


OUTPUTS = {
    "logits": {"logits": NOISY},
    "softmax": {"probabilities": softmax(NOISY)},
    "topk:3": topk(NOISY, 3),
    "topk:1": topk(NOISY, 1),
    "embedding": {"embedding": NOISY},
}


@pytest.mark.parametrize("head", OUTPUTS)
def test_figures_are_the_hosts(head):
    """Dense answers, SQNR and agreement, to the last bits of float64."""
    dense = batches.dense(OUTPUTS[head], 6)
    wanted = accuracy.compare(LOGITS, np.full(7, -1), dense, head=Head.of(head))
    assert outputs.agreement(LOGITS, dense, head) == wanted.agreement.value
    assert outputs.sqnr_db(*outputs.comparable(LOGITS, dense, head)) == pytest.approx(
        wanted.sqnr_db, rel=1e-12
    )


def test_sqnr_in_closed_form():
    """An error of a tenth of the signal is 20 dB; none is infinite; no signal is minus infinite."""
    signal = np.array([[3.0, -4.0]])
    assert outputs.sqnr_db(signal, 0.9 * signal) == pytest.approx(20)
    assert outputs.sqnr_db(signal, signal) == math.inf
    assert outputs.sqnr_db(0 * signal, signal) == -math.inf


@pytest.mark.parametrize("head", OUTPUTS)
def test_the_same_answers_do_not_differ(head):
    """An engine against itself has no error, whatever its head."""
    dense = batches.dense(OUTPUTS[head], 6)
    assert outputs.sqnr_db(*outputs.comparable_engines(dense, dense, head)) == math.inf


def test_probabilities_of_logits_sum_to_one():
    """Logits become scores; scores stay."""
    np.testing.assert_allclose(outputs.probabilities(LOGITS, "logits"), softmax(LOGITS), rtol=1e-6)
    scores = softmax(LOGITS)
    assert outputs.probabilities(scores, "softmax") is scores
