"""What ``pixels`` promises where it lies alone on a device; test_images.py has its pictures."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import msgspec
import numpy as np
import pytest
from msgspec import structs
from PIL import Image, features

from edge_inception import stage
from edge_inception.data import images, pixels
from edge_inception.device import manifest, records
from edge_inception.errors import InputError
from edge_inception.spec import Preprocess


@pytest.fixture
def photo(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_manifest_has_the_fields_of_preprocess():
    """Names, order and defaults are those of the record that sidecars and manifests hold."""
    fields = structs.fields(Preprocess)
    assert manifest.Preprocess._fields == tuple(field.name for field in fields)
    defaults = {f.name: f.default for f in fields if f.default is not msgspec.NODEFAULT}
    assert manifest.Preprocess._field_defaults == defaults


@pytest.mark.parametrize(
    "how",
    [
        Preprocess(input_size=(17, 19)),
        Preprocess(input_size=(17, 19), crop="before_resize", crop_fraction=0.8),
        Preprocess(input_size=(16, 16), element="uint8", layout="NHWC", channel_order="BGR"),
    ],
    ids=["plain", "slim", "pixels"],
)
def test_a_manifest_record_gives_the_array_of_the_host(photo, how):
    """The record after JSON, on the file alone, gives bit for bit what the host computes."""
    text = json.dumps(stage.plain(how)).encode()
    got = pixels.load_image(str(photo), records.read(manifest.Preprocess, text, "record", "none"))
    np.testing.assert_array_equal(got, images.load_image(photo, how))


def test_an_older_pillow_serves(photo, monkeypatch, tmp_path):
    """Before Pillow 9.1 the filters stand in Image itself; the copy in a bundle finds them."""
    shutil.copy(pixels.__file__, tmp_path / "pixels.py")
    spec = importlib.util.spec_from_file_location("pixels", tmp_path / "pixels.py")
    alone = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pixels", alone)
    with monkeypatch.context() as older:
        older.delattr(Image, "Resampling")
        spec.loader.exec_module(alone)
    got = alone.load_image(photo, manifest.Preprocess((9, 9)))
    np.testing.assert_array_equal(got, images.load_image(photo, Preprocess(input_size=(9, 9))))


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    """A Pillow built without WebP refuses such a file by name and says what to do."""
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, "WEBP")
    monkeypatch.setattr(features, "check", lambda name: name != "webp")
    with pytest.raises(InputError, match=r"WebP image, which this Pillow was built without") as no:
        images.decode(path)
    assert no.value.hint.startswith("convert it to PNG, or --skip-bad-images")
