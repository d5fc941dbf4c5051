"""What training reports about a model, against a loop over single images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from edge_inception.data import images
from edge_inception.data.imageset import open_set
from edge_inception.spec import Preprocess
from edge_inception.training import evaluate as subject
from edge_inception.training.options import TrainOptions

SQUARE = Preprocess(input_size=(32, 32))


@pytest.fixture
def photos(tmp_path):
    """Eleven photos of noise: 6 of the first class, 5 of the second."""
    rng = np.random.default_rng(0)
    for index in range(11):
        folder = tmp_path / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return open_set(tmp_path)


@pytest.fixture
def options(tiny_model):
    return TrainOptions(model=tiny_model.name, num_classes=2, preprocess=SQUARE, batch=4, threads=1)


@pytest.fixture
def model(tiny_model, randomise):
    """Random weights of realistic scale, so that the logits differ."""
    return randomise(tiny_model.build(num_classes=2), (32, 32), seed=3)


def test_equals_one_image_at_a_time(photos, options, model):
    """Accuracy, balanced accuracy and AUROC over batches equal a loop over single images."""
    found = subject.evaluate(model, photos, options)
    margins = []
    with torch.no_grad():
        for item in photos.items:
            logits = model(torch.from_numpy(images.load_image(item.path, SQUARE))[None])[0]
            margins.append((float(logits[1] - logits[0]), item.label))
    hits = {c: [(m > 0) == bool(c) for m, label in margins if label == c] for c in (0, 1)}
    recalls = [sum(right) / len(right) for right in hits.values()]
    pairs = [(p, n) for p, a in margins for n, b in margins if a == 1 and b == 0]
    assert found["accuracy"] == pytest.approx(sum(map(sum, hits.values())) / 11)
    assert found["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    assert found["auroc"] == pytest.approx(sum(p > n for p, n in pairs) / 30)
    assert 0 < found["auroc"] < 1


def test_one_class_only(photos, options, model):
    """Images of one class have an accuracy, and no AUROC."""
    seconds = tuple(item for item in photos.items if item.label == 1)
    found = subject.evaluate(model, dataclasses.replace(photos, items=seconds), options)
    assert set(found) == {"accuracy", "balanced_accuracy"}
