"""Metrics against brute force over pairs and images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_inception.metrics import classification as subject


def pairwise_auroc(scores, labels):
    """Share of (positive, negative) pairs in which the positive scores higher; ties are a half."""
    won = 0.0
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    for positive, negative in pairs:
        won += 1.0 if positive > negative else 0.5 if positive == negative else 0.0
    return won / len(pairs)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_levels", [2, 5, 1000])
def test_auroc_is_the_share_of_pairs(seed, num_levels):
    """AUROC equals counting all pairs, with few and with many ties."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1, *rng.integers(0, 2, 40)])
    scores = rng.integers(0, num_levels, 42).astype(np.float32) + labels * rng.integers(0, 3)
    assert subject.auroc(scores, labels) == pytest.approx(pairwise_auroc(scores, labels), abs=1e-12)


def test_auroc_of_known_orders():
    """Perfect order is 1, reversed 0, all equal a half, and order alone matters."""
    labels = np.array([0, 0, 1, 1])
    assert subject.auroc(np.array([1.0, 2.0, 3.0, 4.0]), labels) == 1.0
    assert subject.auroc(np.array([4.0, 3.0, 2.0, 1.0]), labels) == 0.0
    assert subject.auroc(np.zeros(4), labels) == 0.5
    scores = np.array([0.3, 0.9, 0.5, 0.7])
    assert subject.auroc(np.exp(scores * 9), labels) == subject.auroc(scores, labels)


@pytest.mark.parametrize("label", [0, 1])
def test_auroc_needs_both_classes(label):
    """With one class there is no pair to order."""
    with pytest.raises(ValueError, match="both classes"):
        subject.auroc(np.arange(3.0), np.full(3, label))


@pytest.mark.parametrize("seed", range(5))
def test_recall_by_counting(seed):
    """Recall per class equals counting image by image; a class without images is NaN."""
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 4, 60), rng.integers(0, 6, 60)
    wanted = []
    for c in range(6):
        hits = [int(p == c) for p, t in zip(predicted, labels, strict=True) if t == c]
        wanted.append(sum(hits) / len(hits) if hits else float("nan"))
    got = subject.recall_per_class(predicted, labels, 6)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert np.isnan(got[4:]).all()
    present = [r for r in wanted if r == r]  # noqa: PLR0124 -- NaN differs from itself
    assert subject.balanced_accuracy(predicted, labels, 6) == pytest.approx(np.mean(present))


def test_balanced_accuracy_is_not_fooled_by_the_majority():
    """Always saying the frequent class is a half, whatever its share."""
    labels = np.array([0] * 99 + [1])
    assert subject.balanced_accuracy(np.zeros(100, np.int64), labels, 2) == 0.5


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_classes_in_another_order_are_found(num_classes):
    """A perfect network whose labels are shifted by one is right on all images after all."""
    labels = np.repeat(np.arange(num_classes), 4)
    predicted = (labels + 1) % num_classes
    for shuffle in (slice(None), np.random.default_rng(0).permutation(len(labels))):
        assert subject.right_if_reordered(predicted[shuffle], labels[shuffle]).all()


def test_few_images_of_many_classes_fit_no_order():
    """One image of each class: any order fits all of them, and none says anything of the others."""
    labels = np.arange(50)
    assert not subject.right_if_reordered(labels[::-1].copy(), labels).any()


def test_an_order_gives_each_class_one_label():
    """All images predicted as class 0, half of them right: the order gives label 1 no class."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    is_right = subject.right_if_reordered(np.zeros(6, int), labels)
    assert is_right.tolist() == [True] * 4 + [False] * 2
