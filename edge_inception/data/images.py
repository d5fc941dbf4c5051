"""Batches of decoded and preprocessed images of a set.

``pixels`` decodes and preprocesses each image, and its docstring lists the files that it refuses;
this module turns an ImageError of ``pixels`` into an InputError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from edge_inception.data import pixels
from edge_inception.data.imageset import ImageItem
from edge_inception.errors import InputError
from edge_inception.spec import Preprocess

_MEANS_BATCH = 16
_LEAVE_OUT = "--skip-bad-images leaves it out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Preprocessed images [N, ...] and the N items of the set they were read from."""

    images: NDArray[Any]
    items: tuple[ImageItem, ...]


def decode(path: Path) -> Image.Image:
    """The 8-bit RGB image in the file at ``path``, turned upright as its EXIF data asks.

    Raises:
        InputError: The file is missing, or is one of those that the module ``pixels`` refuses.
    """
    try:
        return pixels.decode(path)
    except pixels.ImageError as error:
        hint = f"{error.remedy}, or {_LEAVE_OUT}" if error.remedy else _LEAVE_OUT
        raise InputError(str(error), hint=hint) from error


def preprocess_image(image: Image.Image, preprocess: Preprocess) -> NDArray[Any]:
    """A preprocessed image; ``preprocess`` decides its element type and its shape."""
    values: NDArray[Any] = pixels.preprocess_image(image, preprocess)
    return values


def normalise(values: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """float32 (x / 255 - mean) / std of pixels [..., 3]; ``export.interface`` adds it to graphs."""
    normalised: NDArray[np.float32] = pixels.normalise(values, preprocess)
    return normalised


def load_image(path: Path, preprocess: Preprocess) -> NDArray[Any]:
    """The preprocessed image in a file, as ``preprocess_image`` gives it.

    Raises:
        InputError: The file is not a usable image.
    """
    return preprocess_image(decode(path), preprocess)


def split_usable(items: Sequence[ImageItem]) -> tuple[list[ImageItem], list[ImageItem]]:
    """Items whose files can be decoded, and items whose files cannot, each in the given order."""
    good: list[ImageItem] = []
    bad: list[ImageItem] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for item, is_good in zip(items, pool.map(_decodes, items), strict=True):
            (good if is_good else bad).append(item)
    return good, bad


def _decodes(item: ImageItem) -> bool:
    try:
        decode(item.path)
    except InputError:
        return False
    return True


def batches(items: Sequence[ImageItem], preprocess: Preprocess, batch: int) -> Iterator[Batch]:
    """Batches in order; threads decode one batch ahead. The last batch may be smaller.

    Raises:
        InputError: An image is not usable; ``split_usable`` finds such images beforehand.
        ValueError: ``batch`` is below 1.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}, wanted at least 1")
    groups = [tuple(items[i : i + batch]) for i in range(0, len(items), batch)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        pending: list[list[Future[NDArray[Any]]]] = []
        try:
            for index, group in enumerate(groups):
                pending.append([pool.submit(load_image, item.path, preprocess) for item in group])
                if index > 0:
                    yield _stack(groups[index - 1], pending.pop(0))
            for futures in pending:
                yield _stack(groups[-1], futures)
        finally:
            pool.shutdown(cancel_futures=True)  # stop decoding after an error or an early close


def channel_means(items: Sequence[ImageItem], preprocess: Preprocess) -> NDArray[np.float64]:
    """Mean of red, green and blue of each cropped image, 0..1, [N, 3].

    Raises:
        InputError: An image is not usable.
    """
    pixels_alone = replace(preprocess, element="uint8", layout="NHWC", channel_order="RGB")
    means = [
        group.images.mean(axis=(1, 2), dtype=np.float64) / 255
        for group in batches(items, pixels_alone, _MEANS_BATCH)
    ]
    return np.concatenate(means)


def _stack(group: tuple[ImageItem, ...], futures: list[Future[NDArray[Any]]]) -> Batch:
    return Batch(images=np.stack([future.result() for future in futures]), items=group)
