"""Warnings on labels and calibration images that make no sense, and silence on those that do."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_inception.data import imageset
from edge_inception.spec import Preprocess
from edge_inception.validate import plausibility as subject
from edge_inception.validate.accuracy import BaselineArrays

PICTURE = Preprocess(input_size=(8, 8))


def label_warnings(predicted, labels, num_classes=2):
    logits = np.eye(num_classes, dtype=np.float32)[predicted]
    return list(subject.label_warnings(logits, np.array(labels)))


def two_classes(num_right):
    """Predictions and labels of 25 images, of which ``num_right`` are right."""
    labels = np.arange(25) % 2
    predicted = labels.copy()
    predicted[num_right:] = 1 - predicted[num_right:]
    return predicted, labels


def test_a_reversed_label_file_is_worse_than_chance_and_fits_in_another_order():
    """The issue's 24 % of two classes: 6 of 25 right, and 76 % the other way round."""
    chance, order = label_warnings(*two_classes(6))
    assert "right on 6 of 25 images (24.00 %)" in chance
    assert "chance among 2 classes" in chance
    assert "would be 76.00 %, not 24.00 %" in order


@pytest.mark.parametrize(("num_right", "is_told"), [(18, True), (19, False), (25, False)])
def test_chance_is_decided_by_the_exact_binomial(num_right, is_told):
    """18 or more heads of 25 fall 2.2 times in 100, 19 or more 0.73 times."""
    found = label_warnings(*two_classes(num_right))
    assert ["chance" in text for text in found] == [True] * is_told


def test_chance_depends_on_the_number_of_classes():
    """3 right of 6 is what chance gives for 2 classes; for 1000 it gives that 20 times in 1e9."""
    labels = np.arange(6)
    predicted = np.array([0, 1, 2, 9, 9, 9])
    assert label_warnings(predicted, labels, 1000) == []
    assert len(label_warnings(predicted % 2, [0, 1, 0, 0, 0, 0], 2)) == 1


def test_two_confused_classes_of_many_are_no_other_order():
    """2 of 20 classes are swapped, 10 % of the images: not far better, so nothing is told."""
    labels = np.repeat(np.arange(20), 10)
    predicted = labels.copy()
    predicted[:20] = np.repeat([1, 0], 10)
    assert label_warnings(predicted, labels, 20) == []


def test_images_without_labels_say_nothing():
    """Neither do those of a set that is partly labelled: 20 right ones, 80 unlabelled."""
    assert label_warnings(np.zeros(9, int), [-1] * 9) == []
    labels = np.array([0, 1] * 10 + [-1] * 80)
    assert label_warnings(np.where(labels == 1, 1, 0), labels) == []


def means(level, count, spread=0.1):
    """``count`` colours whose mean is ``level``, evenly spread over ``level`` +- ``spread``."""
    return np.repeat(np.linspace(level - spread, level + spread, count)[:, None], 3, axis=1)


def test_much_darker_calibration_images_are_told():
    """All of them darker: the distance is 1."""
    (text,) = subject.channel_warnings(means(0.2, 64), means(0.7, 64))
    assert "red 0.20 and 0.70, green 0.20 and 0.70, blue 0.20 and 0.70" in text


@pytest.mark.parametrize(
    ("calibration", "validation"),
    [
        (means(0.50, 20_000), means(0.52, 20_000)),  # significant, but the distance is 0.1
        (means(0.2, 3), means(0.7, 3)),  # far apart, but by three images: 2 exp(-3) = 0.1
        (means(0.5, 5), means(0.5, 500)),
    ],
)
def test_small_or_doubtful_differences_are_not_told(calibration, validation):
    """Both the distance and the number of images must speak."""
    assert list(subject.channel_warnings(calibration, validation)) == []


def test_one_channel_is_enough():
    """Only blue differs, as where two sets come from two cameras."""
    first, second = means(0.5, 64), means(0.5, 64)
    second[:, 2] += 0.3
    (text,) = subject.channel_warnings(first, second)
    assert text.endswith("0..1: blue 0.50 and 0.80")


def photos(folder, count, level):
    """``count`` photos, no two alike, around one grey."""
    folder.mkdir()
    for index in range(count):
        colour = (level, level, level - index % 40)
        picture = Image.new("RGB", (8, 8), colour)
        picture.putpixel((0, 0), (index, 0, 0))
        picture.save(folder / f"{index:03}.png")
    return imageset.open_set(folder)


@pytest.mark.parametrize(
    ("count", "level", "words"),
    [
        (64, 200, []),
        (63, 200, ["calibrated on 63 images, fewer than 64"]),
        (64, 60, ["look unlike"]),
        (5, 60, ["calibrated on 5 images", "look unlike"]),
    ],
)
def test_calibration_images_are_counted_and_compared(tmp_path, count, level, words):
    """From the image files, with unlabelled validation images; grey 200 fits."""
    validation = photos(tmp_path / "validation", 64, 200)
    arrays = BaselineArrays(
        logits=np.zeros((64, 2), np.float32), labels=np.full(64, -1), sha256=("",) * 64
    )
    calibration = photos(tmp_path / "calibration", count, level)
    found = subject.warnings(arrays, validation, calibration, PICTURE, has_classes=True)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_a_build_without_int8_and_embeddings_tell_nothing(tmp_path):
    """No calibration, and outputs that are no classes although images have labels."""
    arrays = BaselineArrays(
        logits=np.eye(2, dtype=np.float32)[[1] * 9], labels=np.zeros(9, int), sha256=("",) * 9
    )
    validation = photos(tmp_path / "validation", 9, 200)
    assert subject.warnings(arrays, validation, None, PICTURE, has_classes=False) == ()
    assert len(subject.warnings(arrays, validation, None, PICTURE, has_classes=True)) > 0
