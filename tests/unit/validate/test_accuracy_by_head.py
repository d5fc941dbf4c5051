"""What agreement and SQNR compare for every head: closed forms and PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edge_inception.device.outputs import nearest
from edge_inception.errors import InputError
from edge_inception.spec import Head
from edge_inception.validate.accuracy import compare

UNLABELLED = np.full(40, -1)
SOFTMAX, EMBEDDING = Head(kind="softmax"), Head(kind="embedding")


def logits(seed=0, shape=(40, 6)):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def probabilities(values):
    return torch.softmax(torch.from_numpy(values), dim=1).numpy()


def test_a_common_offset_is_no_error():
    """Logits that move together change no class: infinite SQNR where the offset is exact."""
    before = np.array([[1.0, -1.0], [3.0, 5.0]], np.float32)
    found = compare(before, np.array([-1, -1]), before + np.float32(64.0))
    assert found.sqnr_db == math.inf


def test_sqnr_of_centred_logits():
    """Two classes a, b carry the power (a - b)^2 / 2, whatever lies on top of both."""
    before = np.array([[101.0, 99.0], [7.0, 11.0]], np.float32)
    after = np.array([[11.5, 9.0], [-2.0, 2.0]], np.float32)  # differences 2, -4 become 2.5, -4
    found = compare(before, np.array([-1, -1]), after)
    assert found.sqnr_db == pytest.approx(10 * math.log10((4 + 16) / 0.25))


def test_softmax_is_judged_as_its_logits_are():
    """Probabilities of noisy logits have the SQNR, top-1 and agreement of the noisy logits."""
    before, after = logits(), logits() + logits(1) / 30
    labels = np.arange(40) % 6
    plain = compare(before, labels, after)
    found = compare(before, labels, probabilities(after), head=SOFTMAX)
    assert found.sqnr_db == pytest.approx(plain.sqnr_db, abs=1e-3)  # float32 probabilities
    assert found.agreement == plain.agreement
    assert found.labelled == plain.labelled


def test_topk_is_judged_on_its_classes():
    """SQNR of log-probabilities, centred over the k classes that the engine returned."""
    before, after = logits(), logits() + logits(1) / 30
    top = torch.topk(torch.from_numpy(probabilities(after)), 3, dim=1)
    answer = torch.zeros(40, 6).scatter(1, top.indices, top.values).numpy()
    ours = torch.log_softmax(torch.from_numpy(before).double(), dim=1).gather(1, top.indices)
    theirs = top.values.double().log()
    ours, theirs = (v - v.mean(dim=1, keepdim=True) for v in (ours, theirs))
    wanted = 10 * math.log10(float((ours**2).sum() / ((ours - theirs) ** 2).sum()))
    found = compare(before, UNLABELLED, answer, head=Head(kind="topk", k=3))
    assert found.sqnr_db == pytest.approx(wanted)
    assert found.agreement.value == np.mean(before.argmax(1) == after.argmax(1))


def test_probability_zero_is_finite():
    """Classes whose probability underflows are as unlikely in the baseline: no error at all."""
    before = np.array([[0.0, 1000.0], [1000.0, 0.0]], np.float32)
    found = compare(before, np.array([1, 0]), probabilities(before), head=SOFTMAX)
    assert found.sqnr_db == math.inf
    assert compare(before, np.array([1, 0]), before[:, ::-1] * 0 + 0.5, head=SOFTMAX).sqnr_db == 0


def test_nearest_other_image():
    """By angle, not by length, and never the image itself; as a full table of cosines says."""
    assert nearest(np.array([[1, 0], [9, 1], [0, 1]], np.float32)).tolist() == [1, 0, 1]
    vectors = torch.from_numpy(logits(2, (1500, 5)))
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=2)
    wanted = cosines.fill_diagonal_(-2).argmax(dim=1).numpy()
    assert np.mean(nearest(vectors.numpy()) == wanted) > 0.999  # float32 ties


def test_embeddings():
    """Agreement is about neighbours, SQNR about the vectors; labels do not apply."""
    before = np.array([[1, 0], [9, 1], [0, 1]], np.float32)
    after = np.array([[1, 0], [1, 9], [0, 1]], np.float32)
    found = compare(before, np.array([0, 1, 1]), after, head=EMBEDDING)
    assert (found.agreement.value, found.labelled, found.sqnr_of) == (2 / 3, None, "embeddings")
    assert found.sqnr_db == pytest.approx(10 * math.log10(84 / 128))
    with pytest.raises(InputError) as caught:
        compare(before[:1], np.array([-1]), after[:1], head=EMBEDDING)
    assert str(caught.value) == "one image has no nearest other image"
