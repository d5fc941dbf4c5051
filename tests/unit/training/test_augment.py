"""Random changes of training images: valid images of the right size, drawn from the seed alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from edge_inception.data import images
from edge_inception.data.imageset import ImageItem
from edge_inception.spec import Preprocess
from edge_inception.training import augment as subject
from edge_inception.training.options import TrainOptions

STILL = TrainOptions(
    model="none",
    num_classes=2,
    preprocess=Preprocess(input_size=(16, 16), crop_fraction=0.5),
    crop_scale=1.0,
    rotation=0.0,
    brightness=0.0,
    contrast=0.0,
    random_horizontal_flip=False,
    random_vertical_flip=False,
)
LIVELY = TrainOptions(model="none", num_classes=2, preprocess=Preprocess(input_size=(16, 16)))


def changed(**changes):
    return dataclasses.replace(STILL, **changes)


@pytest.fixture
def photo():
    values = np.random.default_rng(4).integers(0, 256, (20, 30, 3), np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def item(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    return ImageItem(path=tmp_path / "photo.png", sha256="", label=1)


def draws(image, options, count=40):
    rngs = (np.random.default_rng(seed) for seed in range(count))
    return [np.asarray(subject.augment(image, rng, options)) for rng in rngs]


def test_nothing_asked_nothing_changed(photo):
    """With every change off the image is the same."""
    assert all((out == np.asarray(photo)).all() for out in draws(photo, STILL))


def test_flips(photo):
    """Flips give the image and its mirror images, each about as often, and nothing else."""
    values = np.asarray(photo)
    wanted = [values, values[:, ::-1], values[::-1], values[::-1, ::-1]]
    both = changed(random_horizontal_flip=True, random_vertical_flip=True)
    counts = [0] * 4
    for out in draws(photo, both, 200):
        counts[[bool((out == w).all()) for w in wanted].index(True)] += 1
    assert min(counts) > 25  # 50 expected; below 25 has a chance of 1e-5


def test_crop_is_a_part(photo):
    """A crop is a window of the image, of its shape, never below the smallest share."""
    values = np.asarray(photo)
    sizes = set()
    for out in draws(photo, changed(crop_scale=0.5)):
        height, width = out.shape[:2]
        sizes.add((height, width))
        assert 10 <= height <= 20
        assert abs(width - 1.5 * height) <= 1.25  # both sides are rounded
        windows = np.lib.stride_tricks.sliding_window_view(values, out.shape)
        assert (windows == out).all(axis=(-3, -2, -1)).any()
    assert len(sizes) > 5


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (300, 7)])
def test_any_shape(size):
    """Images of any shape stay RGB images of at least one pixel, no larger than before."""
    wild = changed(crop_scale=0.1, rotation=45.0, random_vertical_flip=True)
    for out in draws(Image.new("RGB", size, (9, 9, 9)), wild):
        assert out.ndim == 3
        assert 1 <= out.shape[0] <= size[1]
        assert 1 <= out.shape[1] <= size[0]


@pytest.mark.parametrize("size", [8, 16, 33])
def test_size_that_is_asked(item, size):
    """The tensor has the epoch's size, whatever the photo's shape, and stays finite."""
    out = subject.load_augmented(item, index=0, options=LIVELY, size=size, epoch=0)
    assert out.shape == (3, size, size)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


def test_drawn_from_seed_epoch_and_image(item):
    """The same draw is the same tensor; another epoch, image or seed is another one."""

    def draw(index=3, epoch=5, seed=0):
        options = changed(seed=seed, brightness=0.2, contrast=0.2)
        return subject.load_augmented(item, index=index, options=options, size=16, epoch=epoch)

    first = draw()
    assert (draw() == first).all()
    assert all((other != first).any() for other in (draw(index=4), draw(epoch=6), draw(seed=1)))


def test_without_changes_it_is_preprocess(item, photo):
    """With every change off a training image is the plain resize, cropped to no fraction."""
    out = subject.load_augmented(item, index=0, options=STILL, size=16, epoch=0)
    plain = images.preprocess_image(photo, Preprocess(input_size=(16, 16)))
    assert (out == plain).all()


def test_brightness_and_contrast_are_linear(item, photo):
    """Pixels change to gain * pixel + shift, within the limits given."""
    plain = images.preprocess_image(photo, Preprocess(input_size=(16, 16))).ravel()
    for index in range(10):
        options = changed(brightness=0.1, contrast=0.3)
        out = subject.load_augmented(item, index=index, options=options, size=16, epoch=0)
        gain, shift = np.polyfit(plain, out.ravel(), 1)
        assert 0.7 <= gain <= 1.3
        assert -0.1 <= shift <= 0.1
        assert np.abs(plain * gain + shift - out.ravel()).max() < 1e-5


def test_channel_order_is_the_networks(item):
    """A network that sees BGR is trained on BGR: the channels are those of RGB, reversed."""
    blue_first = Preprocess(input_size=(16, 16), channel_order="BGR", crop_fraction=0.5)
    drawn = {"index": 3, "size": 16, "epoch": 0}
    plain = subject.load_augmented(item, options=STILL, **drawn)
    turned = subject.load_augmented(item, options=changed(preprocess=blue_first), **drawn)
    assert (turned == plain[::-1]).all()
    assert (turned != plain).any()
