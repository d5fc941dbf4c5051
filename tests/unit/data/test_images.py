"""Image files to tensors: every format that is read keeps its values, every other one is named."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from edge_inception.data import images as subject
from edge_inception.data.imageset import ImageItem
from edge_inception.errors import InputError
from edge_inception.spec import Preprocess

PLAIN = Preprocess(input_size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
RAMP16 = np.array([[0, 1, 128, 129, 257, 32768, 65278, 65535]], np.uint16)
# v / 257 rounded, by hand: 128 is just below one half, 129 just above, 65278 = 254.0.
RAMP8 = [0, 0, 0, 1, 1, 128, 254, 255]


def png(width, height, depth, colour, rows, *extra):
    """A PNG written from the specification, without Pillow (W3C PNG, sections 5 and 11)."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


def tiff(width, bits, rows, *, photometric=1, sample_format=1):
    """A little-endian grey TIFF of one row, written from the specification (TIFF 6.0)."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, 1), (279, len(rows)), (339, sample_format)]
    offset = 8 + len(rows) + len(rows) % 2
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    body = rows + b"\0" * (len(rows) % 2) + struct.pack("<H", len(tags)) + entries
    return b"II*\0" + struct.pack("<I", offset) + body + struct.pack("<I", 0)


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="photo.png"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
        return path

    return to_file


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(path):
    decoded = subject.decode(path)
    assert decoded.mode == "RGB"
    return np.asarray(decoded)


def refused(path):
    with pytest.raises(InputError) as caught:
        subject.decode(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert "--skip-bad-images" in caught.value.hint
    return message


def photo(size=(30, 20)):
    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


class TestSixteenBit:
    def test_png_is_scaled_and_not_clipped(self, write):
        """A 16-bit PNG becomes v / 257, rounded; Pillow's own conversion would clip at 255."""
        rows = b"\0" + RAMP16.astype(">u2").tobytes()
        assert pixels(write(png(8, 1, 16, 0, rows)))[0].tolist() == [[v] * 3 for v in RAMP8]

    @pytest.mark.parametrize("mode", ["I;16", "I;16B"])
    def test_tiff_of_either_byte_order(self, write, mode):
        """Little-endian and big-endian 16-bit TIFF give the same pixels."""
        order = {"I;16": "<u2", "I;16B": ">u2"}[mode]
        image = Image.frombytes(mode, (8, 1), RAMP16.astype(order).tobytes())
        path = write(image, "photo.tif")
        with Image.open(path) as stored:
            assert stored.mode == mode
        assert pixels(path)[0, :, 0].tolist() == RAMP8

    def test_png_that_pillow_opens_as_32_bit(self, monkeypatch, write):
        """Mode I, which Pillow before 11.3 gives for a 16-bit PNG, is scaled in the same way."""
        rows = b"\0" + RAMP16.astype(">u2").tobytes()
        path = write(png(8, 1, 16, 0, rows))
        from PIL import PngImagePlugin

        # The row of Pillow 10's own table.
        monkeypatch.setitem(PngImagePlugin._MODES, (16, 0), ("I", "I;16B"))
        with Image.open(path) as stored:
            assert stored.mode == "I"
        assert pixels(path)[0, :, 0].tolist() == RAMP8

    def test_12_bit_tiff_has_its_own_white(self, write):
        """4095 is white in a 12-bit TIFF."""
        packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x00])  # 0x000, 0x800, 0xFFF, 0x000
        path = write(tiff(4, 12, packed), "photo.tif")
        assert pixels(path)[0, :, 0].tolist() == [0, round(0x800 * 255 / 4095), 255, 0]

    def test_tiff_with_inverted_grey_is_refused(self, write):
        """White-is-zero 16-bit TIFF, which Pillow does not invert, is refused by name."""
        path = write(tiff(8, 16, RAMP16.astype("<u2").tobytes(), photometric=0), "photo.tif")
        assert "white is zero" in refused(path)

    def test_colour_keeps_the_high_byte(self, write):
        """16-bit RGB and RGBA PNG are scaled to within one of 255 levels."""
        values = np.array([[0, 300, 65535], [40000, 257, 12345]], ">u2")
        got = pixels(write(png(2, 1, 16, 2, b"\0" + values.tobytes())))[0]
        assert np.abs(got - values / 257.0).max() < 1.0
        with_alpha = np.concatenate([values, np.full((2, 1), 65535)], axis=1).astype(">u2")
        assert (pixels(write(png(2, 1, 16, 6, b"\0" + with_alpha.tobytes())))[0] == got).all()

    def test_exif_turns_it(self, write):
        """Orientation 6 (rotate 90 degrees clockwise to view) holds for 16-bit grey too."""
        exif = Image.Exif()
        exif[274] = 6
        image = Image.fromarray(np.array([[0, 65535, 257]], np.uint16))
        assert pixels(write(encoded(image, "PNG", exif=exif)))[:, 0, 0].tolist() == [0, 255, 1]


class TestModes:
    def test_grey(self, write):
        """8-bit grey becomes three equal channels."""
        image = Image.fromarray(np.array([[0, 77, 255]], np.uint8))
        assert pixels(write(image))[0].tolist() == [[0] * 3, [77] * 3, [255] * 3]

    @pytest.mark.parametrize(("depth", "white"), [(1, 1), (2, 3), (4, 15)])
    def test_narrow_grey(self, write, depth, white):
        """1-, 2- and 4-bit grey is spread over 0..255."""
        first = 0b10100000 if depth == 1 else (white << (8 - depth))
        got = pixels(write(png(2, 1, depth, 0, b"\0" + bytes([first]))))[0, :, 0].tolist()
        assert got == [255, 0]

    def test_palette(self, write):
        """A palette image has the palette's colours."""
        palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
        got = pixels(write(png(2, 1, 8, 3, b"\0\0\x01", palette)))[0].tolist()
        assert got == [[10, 20, 30], [200, 100, 50]]

    @pytest.mark.parametrize("alpha", [b"\0", b"\0\x80"])
    def test_palette_with_transparency(self, write, alpha):
        """Transparent palette entries keep their colour, and nothing warns."""
        palette = ((b"PLTE", bytes([10, 20, 30, 200, 100, 50])), (b"tRNS", alpha))
        got = pixels(write(png(2, 1, 8, 3, b"\0\0\x01", *palette)))[0].tolist()
        assert got == [[10, 20, 30], [200, 100, 50]]

    @pytest.mark.parametrize("alpha", [0, 128, 255])
    def test_alpha_is_dropped(self, write, alpha):
        """RGBA and LA keep the stored colour, whatever their transparency."""
        colour = np.array([[[10, 20, 30, alpha]]], np.uint8)
        assert pixels(write(Image.fromarray(colour)))[0, 0].tolist() == [10, 20, 30]
        rows = b"\0" + bytes([99, alpha])
        assert pixels(write(png(1, 1, 8, 4, rows)))[0, 0].tolist() == [99] * 3

    def test_cmyk(self, write):
        """CMYK is 255 - ink, scaled by 255 - black: the conversion without a colour profile."""
        path = write(Image.new("CMYK", (4, 4), (255, 128, 0, 51)), "photo.tif")
        wanted = [(255 - ink) * (255 - 51) / 255 for ink in (255, 128, 0)]
        assert np.abs(pixels(path)[0, 0] - wanted).max() <= 1  # Pillow rounds in integers

    def test_cmyk_jpeg(self, write):
        """A CMYK JPEG, stored inverted as Adobe does, is not a negative."""
        path = write(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "photo.jpg")
        assert np.abs(pixels(path)[8, 8] - np.array([255, 0, 0])).max() <= 3  # JPEG is lossy

    def test_exif_orientation(self, write):
        """All eight EXIF orientations give the same upright picture (TIFF 6.0, tag 274)."""
        upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
        # How a camera that is held so stores the upright scene: row 0 and column 0 of the standard.
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.T,
            6: np.rot90(upright, 1),
            7: np.rot90(upright, 2).T,
            8: np.rot90(upright, -1),
        }
        for orientation, values in stored.items():
            exif = Image.Exif()
            exif[274] = orientation
            image = Image.fromarray(np.ascontiguousarray(values))
            got = pixels(write(encoded(image, "PNG", exif=exif)))[..., 0]
            assert got.tolist() == upright.tolist(), orientation

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
    def test_animation_is_its_first_frame(self, write, kind):
        """Of an animated GIF, PNG or WebP the first frame is used."""
        first, second = (Image.new("RGB", (16, 16), c) for c in ((250, 0, 0), (0, 250, 0)))
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(first, kind, save_all=True, append_images=[second], **options)
        with Image.open(io.BytesIO(content)) as stored:
            assert stored.n_frames == 2
        assert pixels(write(content))[8, 8].tolist() == [250, 0, 0]

    def test_content_and_not_the_name_decides(self, write):
        """A JPEG called .png is read as the JPEG it is."""
        content = encoded(photo(), "JPEG")
        assert (pixels(write(content, "a.png")) == pixels(write(content, "a.jpg"))).all()

    def test_one_pixel(self, write):
        """A 1 x 1 image is an image."""
        path = write(Image.new("RGB", (1, 1), (255, 0, 51)))
        got = subject.load_image(path, PLAIN)
        assert got.shape == (3, 8, 8)
        assert np.unique(got.reshape(3, -1), axis=1).ravel().tolist() == pytest.approx([1, 0, 0.2])


class TestRefused:
    def test_empty(self, write):
        """A 0-byte file is called empty."""
        assert "0 bytes" in refused(write(b""))

    def test_missing(self, tmp_path):
        """A missing file is named."""
        assert "No such file" in refused(tmp_path / "absent.png")

    def test_folder(self, tmp_path):
        """A folder is not an image."""
        (tmp_path / "folder.png").mkdir()
        assert "directory" in refused(tmp_path / "folder.png")

    def test_text(self, write):
        """A text file called .png is refused, with its first bytes."""
        assert "starts with b'hello wo'" in refused(write(b"hello world, not an image"))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
    @pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
    @pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow, of TIFF tags
    def test_truncated(self, write, kind, share):
        """A file that was cut short is refused, in every format."""
        content = encoded(photo(), kind)
        refused(write(content[: max(10, int(len(content) * share))]))

    def test_other_format(self, write):
        """Formats outside the list, such as PostScript, reach no decoder."""
        assert "not a PNG" in refused(write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))

    def test_wave_audio(self, write):
        """RIFF that is not WebP is refused."""
        refused(write(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(40)))

    def test_float(self, write):
        """Float TIFF has no known white."""
        image = Image.fromarray(np.linspace(0, 1, 8, dtype=np.float32)[None])
        assert "mode F" in refused(write(image, "photo.tif"))

    def test_32_bit_integers(self, write):
        """32-bit TIFF has no known white."""
        image = Image.fromarray(np.arange(8, dtype=np.int32)[None])
        assert "mode I" in refused(write(image, "photo.tif"))

    def test_signed_16_bit(self, write):
        """Signed 16-bit TIFF is refused and not read as unsigned."""
        rows = np.arange(-4, 4, dtype="<i2").tobytes()
        assert "mode I" in refused(write(tiff(8, 16, rows, sample_format=2), "photo.tif"))

    def test_lab(self, write):
        """Lab colour is refused."""
        assert "mode LAB" in refused(write(Image.new("LAB", (4, 4)), "photo.tif"))

    def test_unreadable(self, write):
        """A file without read permission is refused and not taken for a bad image's bytes."""
        path = write(photo())
        path.chmod(0)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            assert os.strerror(errno.EACCES) in refused(path)
        finally:
            if is_root:
                os.seteuid(0)

    @pytest.mark.parametrize("side", [8001, 9500, 14000, 40000])
    @pytest.mark.parametrize("action", ["error", "default"])
    def test_decompression_bomb(self, write, side, action):
        """Over 64 megapixels is refused from the header: no decoding, no warning, no vendor error.

        Pillow by itself takes 8001 x 8001, warns about 9500 x 9500 and raises at 14000 x 14000.
        """
        path = write(png(side, side, 8, 0, b"\0"))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter(action)
            assert f"{side} x {side} pixels, limit 64000000" in refused(path)
        assert told == []

    def test_bomb_is_not_decoded(self, write, monkeypatch):
        """The size is judged before a pixel is read."""
        path = write(png(9000, 9000, 8, 0, b"\0"))
        from PIL.PngImagePlugin import PngImageFile

        monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("decoded"))
        refused(path)

    @pytest.mark.parametrize("size", [(1, 101), (101, 1), (2, 20_000)])
    def test_thread_like_image(self, write, size):
        """A side over 100 times the other would need a huge resized image; it is refused."""
        assert "limit 1 : 100" in refused(write(Image.new("L", size)))

    def test_longest_image_taken(self, write):
        """1 : 100 is still read."""
        got = subject.load_image(write(Image.new("L", (1, 100), 255)), PLAIN)
        assert (got == 1).all()

    def test_random_damage(self, write):
        """Damaged files either decode or are refused: no other error, in 400 seeded tries."""
        chance = random.Random(5)  # noqa: S311 -- a seeded test
        seeds = [encoded(photo(), k) for k in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")]
        exif = Image.Exif()
        exif[274] = 6
        seeds += [encoded(photo(), "JPEG", exif=exif), encoded(photo().convert("P"), "PNG")]
        outcomes = {True: 0, False: 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about metadata it repairs
            for _ in range(400):
                content = bytearray(chance.choice(seeds))
                for _ in range(chance.randint(1, 6)):
                    content[chance.randrange(min(len(content), 300))] = chance.randrange(256)
                items = [ImageItem(path=write(bytes(content)), sha256="")]
                good, _bad = subject.split_usable(items)
                outcomes[bool(good)] += 1
        assert min(outcomes.values()) > 40  # both ways were taken

    def test_no_file_stays_open(self, write):
        """Neither a good nor a refused image leaves a descriptor behind."""
        good, bad = write(photo(), "good.png"), write(b"nonsense", "bad.png")
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names only
        for _ in range(5):
            subject.decode(good)
            refused(bad)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_channel_means_are_those_of_the_pixels_whatever_the_network_reads(tmp_path):
    """Red, green and blue in 0..1, although the network takes normalised BGR."""
    colours = [(255, 51, 0), (0, 102, 204)]
    items = []
    for index, colour in enumerate(colours):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 8), colour).save(path)
        items.append(ImageItem(path=path, sha256=""))
    means = subject.channel_means(items, Preprocess(input_size=(8, 8), channel_order="BGR"))
    assert means == pytest.approx(np.array([[1, 0.2, 0], [0, 0.4, 0.8]]))
