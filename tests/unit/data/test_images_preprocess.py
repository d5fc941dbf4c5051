"""Pixels to tensors: resize, crop and normalisation against loops; batches in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from edge_inception.data import images as subject
from edge_inception.data.imageset import ImageItem
from edge_inception.errors import InputError
from edge_inception.spec import Preprocess

PLAIN = Preprocess(input_size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture
def write(tmp_path):
    def to_file(content, name):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
        return path

    return to_file


def photo(size=(30, 20)):
    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def kernel(name, x):
    """Filters as Pillow documents them: box, triangle, Keys cubic with a = -1/2, Lanczos 3."""
    x = abs(x)
    if name == "bilinear":
        return max(0.0, 1 - x)
    if name == "bicubic":
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0
    return float(np.sinc(x) * np.sinc(x / 3)) if x < 3 else 0.0


REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


def resized(values, length, name):
    """Rows [n, ...] resampled to ``length`` with a filter widened when shrinking, in floats."""
    ratio = len(values) / length
    widened = max(ratio, 1.0)
    out = np.zeros((length, *values.shape[1:]))
    for index in range(length):
        centre = (index + 0.5) * ratio
        low = max(0, int(centre - REACH[name] * widened + 0.5))
        high = min(len(values), int(centre + REACH[name] * widened + 0.5))
        shares = [kernel(name, (j + 0.5 - centre) / widened) for j in range(low, high)]
        for j, share in zip(range(low, high), shares, strict=True):
            out[index] += values[j] * share / sum(shares)
    return np.clip(np.rint(out), 0, 255)  # Pillow stores 8 bits between the two directions


def slow_preprocess(values, how):
    """The whole of preprocess, written again with loops: [H, W, 3] to [3, h, w]."""
    height, width = how.input_size
    rows, columns = values.shape[:2]
    scale = max(height / rows, width / columns) / how.crop_fraction
    tall, wide = round(rows * scale), round(columns * scale)
    turned = resized(values.transpose(1, 0, 2).astype(float), wide, how.interpolation)
    whole = resized(turned.transpose(1, 0, 2), tall, how.interpolation)
    top, left = (tall - height) // 2, (wide - width) // 2
    out = np.zeros((3, height, width))
    for channel in range(3):
        for y in range(height):
            for x in range(width):
                value = whole[top + y, left + x, channel] / 255
                out[channel, y, x] = (value - how.mean[channel]) / how.std[channel]
    return out


class TestPreprocess:
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
    @pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
    @pytest.mark.parametrize(
        ("size", "input_size"),
        [((30, 30), (12, 12)), ((41, 23), (12, 12)), ((23, 41), (12, 20)), ((9, 7), (16, 16))],
    )
    def test_equals_a_slow_second_version(self, size, input_size, crop_fraction, interpolation):
        """Resize, crop and normalisation equal loops in floats, on wide, tall and small photos."""
        how = Preprocess(
            input_size=input_size,
            crop_fraction=crop_fraction,
            interpolation=interpolation,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        image = photo(size)
        got = subject.preprocess_image(image, how)
        wanted = slow_preprocess(np.asarray(image), how)
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        # Pillow's fixed-point filters round at 2^-22: a value near one half may fall either way,
        # one level of 255, once per direction; exact halves are common when 7 pixels become 18.
        assert np.abs(got - wanted).max() <= 2 / 255 / 0.224
        assert np.abs(got - wanted).mean() <= 0.1 / 255 / 0.224

    @pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
    def test_constant_image(self, name):
        """A grey of value v is (v / 255 - mean) / std in every pixel of every filter."""
        how = Preprocess(
            input_size=(10, 14),
            crop_fraction=0.7,
            interpolation=name,
            mean=(0.5, 0.25, 0.0),
            std=(0.5, 0.25, 1.0),
        )
        got = subject.preprocess_image(Image.new("RGB", (33, 20), (255, 51, 102)), how)
        wanted = [(1 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, 0.4]
        assert got.shape == (3, 10, 14)
        assert np.abs(got - np.reshape(wanted, (3, 1, 1))).max() < 1e-6  # float32

    @pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.5, 0.01])
    @pytest.mark.parametrize("size", [(41, 23), (24, 40), (1, 3)])
    def test_crop_before_resize(self, size, crop_fraction):
        """tf.image.central_crop leaves int((side - side * share) / 2) out at both ends."""
        how = Preprocess(
            input_size=(12, 20), crop_fraction=crop_fraction, crop="before_resize", element="uint8"
        )
        image = photo(size)
        values = np.asarray(image)
        top, left = (int((n - n * crop_fraction) / 2) for n in values.shape[:2])
        share = values[top : len(values) - top, left : values.shape[1] - left]
        wanted = Image.fromarray(share).resize((20, 12), Image.Resampling.BILINEAR)
        got = subject.preprocess_image(image, how)
        assert np.array_equal(got.transpose(1, 2, 0), np.asarray(wanted))

    def test_pixels_as_they_are(self):
        """uint8 NHWC is the photo itself where nothing is to be resized; BGR turns the channels."""
        values = np.asarray(photo((20, 12)))
        how = Preprocess(input_size=(12, 20), element="uint8", layout="NHWC")
        got = subject.preprocess_image(photo((20, 12)), how)
        assert got.dtype == np.uint8
        assert np.array_equal(got, values)
        bgr = subject.preprocess_image(photo((20, 12)), structs.replace(how, channel_order="BGR"))
        assert bgr.flags.c_contiguous
        assert all(np.array_equal(bgr[..., i], values[..., 2 - i]) for i in range(3))

    def test_mean_and_std_are_in_the_channel_order(self):
        """BGR: the first plane is blue, and the first mean and std belong to it."""
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
        how = Preprocess(input_size=(4, 4), mean=mean, std=std, channel_order="BGR")
        got = subject.preprocess_image(Image.new("RGB", (4, 4), (255, 51, 102)), how)
        wanted = [(0.4 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (1 - 0.3) / 1.0]
        assert np.abs(got - np.reshape(wanted, (3, 1, 1))).max() < 1e-6  # float32

    def test_gradient_keeps_its_slope(self):
        """Halving a ramp with the triangle filter averages neighbours: the middle of each pair."""
        ramp = np.tile(np.arange(0, 160, 4, dtype=np.uint8), (40, 1))
        image = Image.fromarray(np.stack([ramp] * 3, axis=-1))
        how = Preprocess(input_size=(20, 20), mean=(0, 0, 0), std=(1, 1, 1))
        got = subject.preprocess_image(image, how)[0, 10, 2:-2] * 255
        assert np.abs(got - (np.arange(20) * 8 + 2)[2:-2]).max() < 1e-3

    def test_channels_keep_their_order(self):
        """Red is channel 0."""
        got = subject.preprocess_image(Image.new("RGB", (8, 8), (255, 0, 0)), PLAIN)
        assert got[:, 0, 0].tolist() == [1.0, 0.0, 0.0]

    def test_crop_is_central(self):
        """Of a wide photo the middle stays: equal columns are lost left and right."""
        columns = np.arange(24, dtype=np.uint8)
        image = Image.fromarray(np.tile(columns[None, :, None], (8, 1, 3)))
        got = subject.preprocess_image(image, PLAIN)[0, 0] * 255
        assert np.rint(got).tolist() == list(range(8, 16))

    def test_crop_fraction_enlarges(self):
        """crop_fraction 0.5 shows the middle half of the photo."""
        values = np.zeros((16, 16, 3), np.uint8)
        values[4:12, 4:12] = 255
        how = Preprocess(
            input_size=(8, 8),
            crop_fraction=0.5,
            interpolation="nearest",
            mean=(0, 0, 0),
            std=(1, 1, 1),
        )
        assert (subject.preprocess_image(Image.fromarray(values), how) == 1).all()


class TestBatches:
    @pytest.fixture
    def items(self, write):
        paths = [write(Image.new("L", (8, 8), 10 * i), f"{i}.png") for i in range(7)]
        return [ImageItem(path=path, sha256=path.name, label=None) for path in paths]

    @pytest.mark.parametrize("batch", [1, 2, 3, 7, 9])
    def test_order_and_rest(self, items, batch):
        """Every image comes once, in order; the last batch holds what is left."""
        found = list(subject.batches(items, PLAIN, batch))
        assert [item for b in found for item in b.items] == items
        assert [len(b.items) for b in found] == [batch] * (7 // batch) + [7 % batch] * (
            7 % batch > 0
        )
        values = np.concatenate([b.images[:, 0, 0, 0] for b in found]) * 255
        assert np.rint(values).tolist() == [10 * i for i in range(7)]
        assert len(found) == math.ceil(7 / batch)

    def test_no_images(self):
        """No image makes no batch."""
        assert list(subject.batches([], PLAIN, 4)) == []

    def test_batch_of_zero(self, items):
        """A batch of 0 is the caller's mistake."""
        with pytest.raises(ValueError, match="wanted at least 1"):
            next(subject.batches(items, PLAIN, 0))

    def test_bad_image_is_named(self, items, write):
        """A bad image stops the batches with its name."""
        items.insert(4, ImageItem(path=write(b"", "bad.png"), sha256=""))
        with pytest.raises(InputError, match=r"bad\.png"):
            list(subject.batches(items, PLAIN, 2))

    def test_usable_parts_them(self, items, write):
        """``usable`` keeps the order and counts what it leaves out."""
        bad = ImageItem(path=write(b"", "bad.png"), sha256="")
        good, left_out = subject.split_usable([*items[:3], bad, *items[3:]])
        assert good == items
        assert left_out == [bad]

    def test_memory_is_two_batches(self, items, monkeypatch):
        """Only one batch is decoded ahead of the one in use."""
        decoded = []
        monkeypatch.setattr(
            subject, "decode", lambda p: decoded.append(p) or Image.new("RGB", (8, 8))
        )
        stream = subject.batches(items, PLAIN, 2)
        next(stream)
        assert len(decoded) <= 4
        stream.close()
