"""Classification metrics from logits; numpy only, so that training and validation agree."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray


def recall_per_class(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.float64]:
    """Recall of each class, 0..1, [num_classes]; NaN for a class without images."""
    total = np.bincount(labels, minlength=num_classes).astype(np.float64)
    right = np.bincount(labels[predicted == labels], minlength=num_classes)
    recall = np.full(num_classes, np.nan)
    np.divide(right, total, out=recall, where=total > 0)
    return recall


def balanced_accuracy(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> float:
    """Mean recall over the classes that occur in ``labels``, 0..1."""
    return float(np.nanmean(recall_per_class(predicted, labels, num_classes)))


def auroc(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve of ``scores`` for label 1 against 0; ties count half.

    Source: the Mann-Whitney form, U / (n1 * n0), with mid-ranks.

    Raises:
        ValueError: Only one of the two classes occurs.
    """
    positive = labels == 1
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ValueError("AUROC needs images of both classes")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(mid_ranks[inverse][positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def right_if_reordered(
    predicted: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each image would be right if the classes were in another order, [N].

    The order is fitted to half of each class and applied to the other half, and vice versa, since
    some order of many classes fits any few images. The fit takes the most frequent pair of
    predicted class and label first; a class without a partner counts as wrong.
    """
    is_right = np.zeros(len(labels), np.bool_)
    by_class = np.argsort(labels, kind="stable")
    halves = by_class[::2], by_class[1::2]
    for fitted, applied in (halves, halves[::-1]):
        label_of = _most_frequent_order(predicted[fitted], labels[fitted])
        is_right[applied] = [
            label_of.get(guess) == label
            for guess, label in zip(
                predicted[applied].tolist(), labels[applied].tolist(), strict=True
            )
        ]
    return is_right


def _most_frequent_order(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[int, int]:
    """A label of its own for each predicted class, the most frequent pair first."""
    label_of: dict[int, int] = {}
    taken: set[int] = set()
    pairs = Counter(zip(predicted.tolist(), labels.tolist(), strict=True))
    for (guess, label), _ in pairs.most_common():
        if guess not in label_of and label not in taken:
            label_of[guess] = label
            taken.add(label)
    return label_of
