"""Random changes of training images that keep the label valid; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from PIL import Image

from edge_inception.data import images
from edge_inception.data.imageset import ImageItem

if TYPE_CHECKING:
    from edge_inception.training.options import TrainOptions

_FLIP_PROBABILITY = 0.5


def load_augmented(
    item: ImageItem, *, index: int, options: TrainOptions, size: int, epoch: int
) -> NDArray[np.float32]:
    """A training image as normalised float32 [3, size, size], changed at random.

    The random changes depend only on the seed, the epoch and the image's ``index`` in its set.

    Raises:
        InputError: The file is not a usable image.
    """
    rng = np.random.default_rng((options.seed, epoch, index))
    image = augment(images.decode(item.path), rng, options)
    preprocess = structs.replace(
        options.preprocess.normalised,
        input_size=(size, size),
        crop_fraction=1.0,
        crop="after_resize",
    )
    pixels = images.preprocess_image(image, preprocess)
    gain = 1 + rng.uniform(-options.contrast, options.contrast)
    shift = rng.uniform(-options.brightness, options.brightness)
    return (pixels * np.float32(gain) + np.float32(shift)).astype(np.float32)


def augment(image: Image.Image, rng: np.random.Generator, options: TrainOptions) -> Image.Image:
    """The 8-bit RGB image flipped, rotated and cropped at random; a crop keeps the aspect ratio."""
    if options.random_horizontal_flip and rng.random() < _FLIP_PROBABILITY:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if options.random_vertical_flip and rng.random() < _FLIP_PROBABILITY:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if options.rotation:
        angle = rng.uniform(-options.rotation, options.rotation)
        image = image.rotate(angle, Image.Resampling.BILINEAR)
    scale = rng.uniform(options.crop_scale, 1.0)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))
