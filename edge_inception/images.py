"""Image file to float32 [N, 3, H, W]: the only preprocessing in the project.

Supported: 8-bit grey, RGB, RGBA (composited on black is wrong for photos, so alpha is dropped),
palette, CMYK through Pillow's conversion, 16-bit grey scaled by 1/257 to 8 bits' range, and EXIF
orientation. Refused by name: truncated, empty, undecodable files, and decompression bombs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_inception.errors import InputError
from edge_inception.imageset import ImageItem
from edge_inception.spec import Preprocess

MAX_PIXELS = 64_000_000
_UINT16_MAX = 65535.0
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Preprocessed images float32 [N, 3, H, W] and the items they came from."""

    images: NDArray[np.float32]
    items: tuple[ImageItem, ...]


def decode(path: Path) -> Image.Image:
    """Upright 8-bit RGB image.

    Raises:
        InputError: Missing, empty, truncated, of an unknown format, or over 64 megapixels.
    """
    try:
        if path.stat().st_size == 0:
            raise InputError(
                f"image {path} is empty (0 bytes)", hint="--skip-bad-images leaves it out"
            )
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"image {path} has {image.width} x {image.height} pixels, limit {MAX_PIXELS}",
                    hint="shrink it, or --skip-bad-images",
                )
            return _to_rgb(ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"cannot decode image {path}: {error}", hint="--skip-bad-images leaves it out"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        # Pillow clips 16-bit values to 255 when it converts to RGB; scale them instead.
        values = np.asarray(image, dtype=np.float64)
        if image.mode == "F" or values.max(initial=0) > _UINT16_MAX or values.min(initial=0) < 0:
            raise ValueError(f"mode {image.mode} with values outside 0..65535")
        eight_bit = np.rint(values * (255.0 / _UINT16_MAX)).astype(np.uint8)
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode in {"P", "PA", "LA", "La", "RGBa"}:
        image = image.convert("RGBA")
    return image.convert("RGB")


def preprocess(image: Image.Image, how: Preprocess) -> NDArray[np.float32]:
    """float32 [3, H, W]: shorter side resized, centre cropped, scaled to 0..1, normalised."""
    height, width = how.input_size
    scale = max(height / image.height, width / image.width) / how.crop_fraction
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, _FILTERS[how.interpolation])
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    cropped = image.crop((left, top, left + width, top + height))
    values = np.asarray(cropped, dtype=np.float32) / np.float32(255.0)
    mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
    normalised = (values - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def load_image(path: Path, how: Preprocess) -> NDArray[np.float32]:
    """float32 [3, H, W] of an image file.

    Raises:
        InputError: The file is not a usable image.
    """
    return preprocess(decode(path), how)


def usable(items: Sequence[ImageItem]) -> tuple[list[ImageItem], list[ImageItem]]:
    """Items that decode, and items that do not."""
    good: list[ImageItem] = []
    bad: list[ImageItem] = []
    with ThreadPoolExecutor() as pool:
        for item, is_good in zip(items, pool.map(_decodes, items), strict=True):
            (good if is_good else bad).append(item)
    return good, bad


def _decodes(item: ImageItem) -> bool:
    try:
        decode(item.path)
    except InputError:
        return False
    return True


def batches(items: Sequence[ImageItem], how: Preprocess, batch: int) -> Iterator[Batch]:
    """Batches in order, decoded one batch ahead by threads; the last may be smaller.

    Raises:
        InputError: An image is not usable; use ``usable`` first to leave bad ones out.
    """
    groups = [tuple(items[i : i + batch]) for i in range(0, len(items), batch)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        ahead: list[list[Future[NDArray[np.float32]]]] = []
        for index, group in enumerate(groups):
            ahead.append([pool.submit(load_image, item.path, how) for item in group])
            if index > 0:
                yield _stack(groups[index - 1], ahead.pop(0))
        for futures in ahead:
            yield _stack(groups[-1], futures)


def _stack(group: tuple[ImageItem, ...], futures: list[Future[NDArray[np.float32]]]) -> Batch:
    return Batch(images=np.stack([future.result() for future in futures]), items=group)
