"""Warnings on a baseline or calibration images that make no sense, although all gates may be met.

Gates compare an engine with its baseline, so a baseline that is wrong itself passes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_inception.data import images
from edge_inception.data.imageset import ImageItem, ImageSet
from edge_inception.errors import counted
from edge_inception.metrics.classification import right_if_reordered
from edge_inception.metrics.intervals import binomial_at_least
from edge_inception.metrics.two_samples import kolmogorov_smirnov
from edge_inception.spec import Preprocess
from edge_inception.validate.accuracy import UNLABELLED, BaselineArrays

ENOUGH_CALIBRATION_IMAGES = 64
_SIGNIFICANCE = 0.01
_FAR_BETTER = 0.2  # share of the images that another order of the classes gains
_FAR_APART = 0.4  # distance of distributions; two normal ones differ so by one standard deviation
_BEYOND_DOUBT = 0.001 / 3  # for each of the three channels
_MOST_COMPARED = 128  # images of a set, so that this test takes no longer than a second or two
_CHANNELS = ("red", "green", "blue")


def warnings(
    baseline: BaselineArrays,
    validation: ImageSet,
    calibration: ImageSet | None,
    preprocess: Preprocess,
    *,
    has_classes: bool,
) -> tuple[str, ...]:
    """Sentences on what looks wrong; ``calibration`` is None for a build without int8.

    Args:
        baseline: Outputs and labels for the ``validation`` images.
        validation: Images that the engines are judged on.
        calibration: Images that set the scales of int8.
        preprocess: Preprocessing, which crops the images of both sets.
        has_classes: Whether the outputs are logits, not embeddings.

    Raises:
        InputError: An image is not usable.
    """
    found = list(label_warnings(baseline.logits, baseline.labels)) if has_classes else []
    if calibration is None:
        return tuple(found)
    if len(calibration.items) < ENOUGH_CALIBRATION_IMAGES:
        number = counted(len(calibration.items), "image")
        found.append(f"INT8 is calibrated on {number}, fewer than {ENOUGH_CALIBRATION_IMAGES}")
    sets = (_spread(one.items) for one in (calibration, validation))
    found += channel_warnings(*(images.channel_means(items, preprocess) for items in sets))
    return tuple(found)


def label_warnings(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Iterator[str]:
    """Sentences on a baseline that labels contradict: logits [N, C], labels [N], -1 for none."""
    has_label = labels != UNLABELLED
    labels, predicted = labels[has_label], logits[has_label].argmax(axis=1)
    num_images, num_classes = len(labels), logits.shape[1]
    if not num_images:
        return
    is_right = predicted == labels
    num_right = int(is_right.sum())
    top1 = f"{100 * num_right / num_images:.2f} %"
    if binomial_at_least(num_right, num_images, 1 / num_classes) > _SIGNIFICANCE:
        yield (
            f"the FP32 baseline is right on {num_right} of {counted(num_images, 'image')} "
            f"({top1}), not shown to be better than chance among "
            f"{num_classes} classes"
        )
    would_be_right = right_if_reordered(predicted, labels)
    gained, lost = int((would_be_right & ~is_right).sum()), int((is_right & ~would_be_right).sum())
    is_far_better = gained - lost >= _FAR_BETTER * num_images
    if is_far_better and binomial_at_least(gained, gained + lost, 0.5) < _SIGNIFICANCE:
        yield (
            f"with the classes in another order FP32 top-1 would be "
            f"{100 * would_be_right.mean():.2f} %, not {top1}: check the order of the labels"
        )


def channel_warnings(
    calibration: NDArray[np.float64], validation: NDArray[np.float64]
) -> Iterator[str]:
    """A sentence if the mean colours [N, 3] of two sets differ beyond doubt and by much."""
    differing = []
    for name, first, second in zip(_CHANNELS, calibration.T, validation.T, strict=True):
        distance, significance = kolmogorov_smirnov(first, second)
        if distance >= _FAR_APART and significance < _BEYOND_DOUBT:
            differing.append(f"{name} {np.median(first):.2f} and {np.median(second):.2f}")
    if differing:
        yield (
            "calibration images look unlike validation images, median of the images' means in "
            f"0..1: {', '.join(differing)}"
        )


def _spread(items: Sequence[ImageItem]) -> list[ImageItem]:
    """At most ``_MOST_COMPARED`` items, evenly spread over the set."""
    step = max(1.0, len(items) / _MOST_COMPARED)
    return [items[int(index * step)] for index in range(min(len(items), _MOST_COMPARED))]
