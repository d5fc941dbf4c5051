"""The project's only image decoder and preprocessing: image file -> array that an engine takes.

Formats that are read: PNG, JPEG, BMP, WebP, TIFF and GIF, recognised by their first bytes and not
by their name. Of an animation the first frame is read. Pixels may be 1-bit, grey, palette, RGB,
YCbCr or CMYK, 8 or 16 bits wide; EXIF orientation is applied. 16-bit values are scaled to 8 bits,
never clipped. CMYK is converted without its colour profile. Transparency is dropped: the network
sees the stored colour, as in training pipelines that open images as RGB.

These files raise an error that names them: empty, truncated and undecodable files, other formats,
float and 32-bit pixels (their value of white is unknown), images over 64 megapixels, and images
with one side over 100 times the other.

This file is copied to devices and runs there: Python 3.6 syntax, numpy and Pillow 8 or later.
"""

import struct
from typing import Any, Callable, Dict, Tuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

MAX_PIXELS = 64000000
MAX_ASPECT = 100  # the shorter side fills the input, so that memory grows with this ratio
_EIGHT_BIT_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))
_SIXTEEN_BIT_MODES = frozenset(("I;16", "I;16L", "I;16B", "I;16N"))
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_BLACK_IS_ZERO = 1
_RESAMPLING: Any = getattr(Image, "Resampling", Image)  # Pillow before 9.1 has no such enum
_FILTERS = {
    "nearest": _RESAMPLING.NEAREST,
    "bilinear": _RESAMPLING.BILINEAR,
    "bicubic": _RESAMPLING.BICUBIC,
    "lanczos": _RESAMPLING.LANCZOS,
}
# First bytes -> reader. Image.open is not used: it warns about large images before _refuse_size.
_READERS: Tuple[Tuple[bytes, Callable[[Any], ImageFile.ImageFile]], ...] = (
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
# Readers that a build of Pillow may lack (they then fail with unrelated errors) -> feature, title.
_OPTIONAL: Dict[Any, Tuple[str, str]] = {
    WebPImageFile: ("webp", "WebP"),
    JpegImageFile: ("jpg", "JPEG"),
}
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, struct.error),  # what Pillow raises on damaged files
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class ImageError(Exception):
    """A file is not a usable image; ``remedy`` says what the user can do, or is empty."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def decode(path: Any) -> Image.Image:
    """Upright 8-bit RGB image of the file at ``path``.

    Raises:
        ImageError: The file is missing or not usable, see the docstring of the module.
    """
    try:
        with open(str(path), "rb") as stream:
            image = _open_image(path, stream)
            _refuse_size(path, image)
            return _to_rgb(path, image)
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("cannot decode image {}: {}".format(path, reason)) from error


def _open_image(path: Any, stream: Any) -> ImageFile.ImageFile:
    start = stream.read(16)
    if not start:
        raise ImageError("image {} is empty (0 bytes)".format(path))
    stream.seek(0)
    for magic, reader in _READERS:
        if start.startswith(magic):
            _require_reader(path, reader)
            return reader(stream)
    raise ImageError(
        "{} is not a PNG, JPEG, BMP, WebP, TIFF or GIF image: it starts with {!r}".format(
            path, start[:8]
        ),
        "convert it",
    )


def _require_reader(path: Any, reader: Any) -> None:
    feature, title = _OPTIONAL.get(reader, ("", ""))
    if feature and not features.check(feature):
        raise ImageError(
            "{} is a {} image, which this Pillow was built without".format(path, title),
            "convert it to PNG",
        )


def _refuse_size(path: Any, image: Image.Image) -> None:
    """Refuse an image whose header shows that decoding or resizing would take too much memory."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            "image {} has {} x {} pixels, limit {}".format(path, width, height, MAX_PIXELS),
            "shrink it",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            "image {} has {} x {} pixels, limit 1 : {}".format(path, width, height, MAX_ASPECT),
            "crop it",
        )


def _to_rgb(path: Any, image: ImageFile.ImageFile) -> Image.Image:
    if _is_sixteen_bit(image):
        white = _white_value(image)
        values = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint32)
        # Integers only: v * 255 / white, rounded; Pillow itself would clip at 255.
        eight_bit = np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            "image {} has pixels of mode {}, wanted 8 or 16 bits per channel".format(
                path, image.mode
            ),
            "save it as 8-bit RGB",
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode in {"P", "PA"}:
        # Pillow warns if P with transparency becomes RGB directly
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _is_sixteen_bit(image: Image.Image) -> bool:
    # Pillow before 11.3 opens a 16-bit grey PNG as 32-bit integers.
    return image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG")


def _white_value(image: Image.Image) -> int:
    """Pixel value of white in a 16-bit grey image; a TIFF file may use fewer than 16 bits."""
    if not isinstance(image, TiffImageFile):
        return (1 << 16) - 1
    if image.tag_v2.get(_PHOTOMETRIC) != _BLACK_IS_ZERO:
        raise ValueError("16-bit TIFF in which white is zero")
    return (1 << int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])) - 1


def preprocess_image(image: Image.Image, preprocess: Any) -> Any:
    """The image as an array of ``element`` type, [3, H, W], or [H, W, 3] if ``layout`` is NHWC.

    ``preprocess`` is a ``spec.Preprocess``, or the record of a bundle's manifest with the same
    fields.
    """
    cropped = crop(image, preprocess)
    values = cropped if preprocess.element == "uint8" else normalise(cropped, preprocess)
    if preprocess.layout != "NHWC":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values)


def crop(image: Image.Image, preprocess: Any) -> Any:
    """Resized and cropped pixels, uint8 [H, W, 3], with channels in ``channel_order``."""
    cut = _crop_resized if preprocess.crop == "before_resize" else _resize_cropped
    values = np.asarray(cut(image, preprocess), dtype=np.uint8)
    return values[..., ::-1] if preprocess.channel_order == "BGR" else values


def normalise(values: Any, preprocess: Any) -> Any:
    """float32 (x / 255 - mean) / std of pixels [..., 3]; ``interface`` does the same in ONNX."""
    shares = values.astype(np.float32) / np.float32(255.0)
    mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
    return (shares - mean) / std


def _resize_cropped(image: Image.Image, preprocess: Any) -> Image.Image:
    """The image, resized to the input size / ``crop_fraction``, then cropped to its centre."""
    height, width = preprocess.input_size
    scale = max(height / image.height, width / image.width) / preprocess.crop_fraction
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, _FILTERS[preprocess.interpolation])
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _crop_resized(image: Image.Image, preprocess: Any) -> Image.Image:
    """The image, cropped to its centre (rounded as ``tf.image.central_crop``), then resized."""
    left, top = (int((side - side * preprocess.crop_fraction) / 2) for side in image.size)
    image = image.crop((left, top, image.width - left, image.height - top))
    height, width = preprocess.input_size
    size = (width, height)
    return image if size == image.size else image.resize(size, _FILTERS[preprocess.interpolation])


def load_image(path: Any, preprocess: Any) -> Any:
    """A preprocessed image file, see ``preprocess_image``.

    Raises:
        ImageError: The file is not a usable image.
    """
    return preprocess_image(decode(path), preprocess)
