"""Image file to the array an engine takes: the only preprocessing in the project.

Read: PNG, JPEG, BMP, WebP, TIFF and GIF, told apart by their first bytes and not by their name; the
first frame of an animation; 1-bit, grey, palette, RGB, YCbCr and CMYK pixels, 8 or 16 bits wide,
turned upright as EXIF says. 16-bit values are scaled to 8 bits, never clipped. CMYK is converted
without its colour profile. Transparency is dropped, and with it the colour that would have shown
behind: the network sees the stored colour, as it did wherever images were opened as RGB to train.

Refused by name: empty, truncated and undecodable files, other formats, float and 32-bit pixels
(their white is unknown), over 64 megapixels, and one side over 100 times the other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from edge_inception.errors import InputError
from edge_inception.imageset import ImageItem
from edge_inception.spec import Preprocess

MAX_PIXELS = 64_000_000
MAX_ASPECT = 100  # the shorter side fills the input, so the longer one grows with this ratio
_LEAVE_OUT = "--skip-bad-images leaves it out"
_EIGHT_BIT_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))
_SIXTEEN_BIT_MODES = frozenset(("I;16", "I;16L", "I;16B", "I;16N"))
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_BLACK_IS_ZERO = 1
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Image.open would do, but it warns about large images before the header can be judged here.
_READERS: tuple[tuple[bytes, Callable[[BinaryIO], ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"BM", BmpImageFile),
    (b"RIFF", WebPImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"GIF8", GifImageFile),
)
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, struct.error),  # what Pillow raises on damaged files
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Preprocessed images [N, ...] and the items they came from."""

    images: NDArray[Any]
    items: tuple[ImageItem, ...]


def decode(path: Path) -> Image.Image:
    """Upright 8-bit RGB image.

    Raises:
        InputError: Missing or not usable; the module says what is.
    """
    try:
        with path.open("rb") as stream:
            image = _header(path, stream)
            _refuse_size(path, image)
            return _to_rgb(path, image)
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot decode image {path}: {reason}", hint=_LEAVE_OUT) from error


def _header(path: Path, stream: BinaryIO) -> ImageFile.ImageFile:
    start = stream.read(16)
    if not start:
        raise InputError(f"image {path} is empty (0 bytes)", hint=_LEAVE_OUT)
    stream.seek(0)
    for magic, reader in _READERS:
        if start.startswith(magic):
            return reader(stream)
    raise InputError(
        f"{path} is not a PNG, JPEG, BMP, WebP, TIFF or GIF image: it starts with {start[:8]!r}",
        hint=f"convert it, or {_LEAVE_OUT}",
    )


def _refuse_size(path: Path, image: Image.Image) -> None:
    """Refuse by the header what would need too much memory to decode or to resize."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"image {path} has {width} x {height} pixels, limit {MAX_PIXELS}",
            hint=f"shrink it, or {_LEAVE_OUT}",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(
            f"image {path} has {width} x {height} pixels, limit 1 : {MAX_ASPECT}",
            hint=f"crop it, or {_LEAVE_OUT}",
        )


def _to_rgb(path: Path, image: ImageFile.ImageFile) -> Image.Image:
    if _is_sixteen_bit(image):
        white = _white(image)
        values = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint32)
        # Integers only: v * 255 / white, rounded; Pillow itself would clip at 255.
        eight_bit = np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode not in _EIGHT_BIT_MODES:
        raise InputError(
            f"image {path} has pixels of mode {image.mode}, wanted 8 or 16 bits per channel",
            hint=f"save it as 8-bit RGB, or {_LEAVE_OUT}",
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode in {"P", "PA"}:
        upright = upright.convert("RGBA")  # straight to RGB, Pillow warns about transparency
    return upright.convert("RGB")


def _is_sixteen_bit(image: Image.Image) -> bool:
    # Pillow before 11.3 opens a 16-bit grey PNG as 32-bit integers.
    return image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG")


def _white(image: Image.Image) -> int:
    """Value of white in a 16-bit grey image; TIFF may fill fewer bits."""
    if not isinstance(image, TiffImageFile):
        return (1 << 16) - 1
    if image.tag_v2.get(_PHOTOMETRIC) != _BLACK_IS_ZERO:
        raise ValueError("16-bit TIFF in which white is zero")
    return (1 << int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])) - 1


def preprocess(image: Image.Image, how: Preprocess) -> NDArray[Any]:
    """One image as ``how`` says: ``how.element`` of shape ``how.image_shape``."""
    cropped = pixels(image, how)
    values = cropped if how.element == "uint8" else normalise(cropped, how)
    return np.ascontiguousarray(values if how.layout == "NHWC" else values.transpose(2, 0, 1))


def pixels(image: Image.Image, how: Preprocess) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: resized and cropped, channels in ``how.channel_order``."""
    crop = _crop_resized if how.crop == "before_resize" else _resize_cropped
    values = np.asarray(crop(image, how), dtype=np.uint8)
    return values[..., ::-1] if how.channel_order == "BGR" else values


def normalise(values: NDArray[np.uint8], how: Preprocess) -> NDArray[np.float32]:
    """float32 (x / 255 - mean) / std of pixels [..., 3]; ``interface`` does the same in ONNX."""
    shares = values.astype(np.float32) / np.float32(255.0)
    mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
    return (shares - mean) / std


def _resize_cropped(image: Image.Image, how: Preprocess) -> Image.Image:
    """Shorter side resized, then the centre cropped."""
    height, width = how.input_size
    scale = max(height / image.height, width / image.width) / how.crop_fraction
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, _FILTERS[how.interpolation])
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _crop_resized(image: Image.Image, how: Preprocess) -> Image.Image:
    """Centre share of each side cropped with ``tf.image.central_crop``'s rounding, then resized."""
    left, top = (int((side - side * how.crop_fraction) / 2) for side in image.size)
    image = image.crop((left, top, image.width - left, image.height - top))
    height, width = how.input_size
    size = (width, height)
    return image if size == image.size else image.resize(size, _FILTERS[how.interpolation])


def load_image(path: Path, how: Preprocess) -> NDArray[Any]:
    """An image file as ``how`` says.

    Raises:
        InputError: The file is not a usable image.
    """
    return preprocess(decode(path), how)


def usable(items: Sequence[ImageItem]) -> tuple[list[ImageItem], list[ImageItem]]:
    """Items that decode, and items that do not, both in order."""
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


def batches(items: Sequence[ImageItem], how: Preprocess, batch: int) -> Iterator[Batch]:
    """Batches in order, decoded one batch ahead by threads; the last may be smaller.

    Raises:
        InputError: An image is not usable; use ``usable`` first to leave bad ones out.
        ValueError: ``batch`` is below 1.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}, wanted at least 1")
    groups = [tuple(items[i : i + batch]) for i in range(0, len(items), batch)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        ahead: list[list[Future[NDArray[Any]]]] = []
        try:
            for index, group in enumerate(groups):
                ahead.append([pool.submit(load_image, item.path, how) for item in group])
                if index > 0:
                    yield _stack(groups[index - 1], ahead.pop(0))
            for futures in ahead:
                yield _stack(groups[-1], futures)
        finally:
            pool.shutdown(cancel_futures=True)  # an error or a closed generator decodes no more


def _stack(group: tuple[ImageItem, ...], futures: list[Future[NDArray[Any]]]) -> Batch:
    return Batch(images=np.stack([future.result() for future in futures]), items=group)


def preprocess_of(details: Mapping[str, Any]) -> Preprocess:
    """The preprocessing a sidecar carries.

    Raises:
        InputError: The sidecar has none.
    """
    record = details.get("preprocess")
    if not isinstance(record, Mapping):
        raise InputError("the sidecar carries no preprocessing", hint="export the model again")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    return Preprocess(**fields)
