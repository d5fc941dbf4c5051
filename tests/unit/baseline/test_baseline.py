"""The baseline is PyTorch's float32 answer to exactly these images, and PyTorch races fairly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edge_inception import artifact, registry
from edge_inception.artifact import Baseline
from edge_inception.baseline.options import BaselineOptions
from edge_inception.baseline.pytorch import open_session, record_baseline
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet, open_set
from edge_inception.errors import InputError

# The same kernels on the same values; a batch may choose another kernel, which reorders its sums.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures of noise in two class folders."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(4)
    for index in range(7):
        target = root / ("bad" if index % 3 else "good")
        target.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (50 + index, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def photos(folder) -> ImageSet:
    return open_set(folder)


@pytest.fixture(scope="module")
def options(tiny_model):
    return BaselineOptions(model=tiny_model.name, batch=3, threads=1)


@pytest.fixture(scope="module")
def baseline(tiny_checkpoint, photos, options, tmp_path_factory) -> Baseline:
    out = tmp_path_factory.mktemp("out") / "baseline.npz"
    return record_baseline(tiny_checkpoint, photos, options, out)


def open_tiny(checkpoint, **more):
    return open_session(checkpoint, "tiny_inception", threads=1, **more)


def pixels(num_images=2):
    rng = np.random.default_rng(6)
    return rng.standard_normal((num_images, 3, 32, 40), dtype=np.float32)


def test_logits_are_the_models_one_image_at_a_time(baseline, photos, options, tiny_weights):
    """Row i is the model's answer to image i, whatever the batch."""
    with np.load(baseline.path) as arrays:
        logits = arrays["logits"]
    assert logits.dtype == np.float32
    assert logits.shape == (7, 5)
    for row, item in zip(logits, photos.items, strict=True):
        image = images.load_image(item.path, registry.model(options.model).preprocess)
        with torch.no_grad():
            wanted = tiny_weights(torch.from_numpy(image[np.newaxis]))[0].numpy()
        assert np.abs(row - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_labels_and_hashes_are_the_sets(baseline, photos):
    """Labels follow the folders' sorted order, hashes the files."""
    with np.load(baseline.path, allow_pickle=False) as arrays:
        assert arrays["labels"].dtype == np.int64
        names = [photos.classes[label] for label in arrays["labels"]]
        assert names == [item.path.parent.name for item in photos.items]
        digests = [artifact.file_sha256(item.path) for item in photos.items]
        assert arrays["sha256"].tolist() == digests
    assert baseline.counts == {"images": 7, "labelled": 7, "left_out": 0}


def test_unlabelled_images_have_minus_one(tiny_checkpoint, folder, options, tmp_path):
    """A folder without classes is recorded without labels."""
    plain = open_set(folder / "good")
    made = record_baseline(tiny_checkpoint, plain, options, tmp_path / "baseline.npz")
    with np.load(made.path) as arrays:
        assert arrays["labels"].tolist() == [-1] * len(plain.items)
    assert made.counts["labelled"] == 0


def test_recording_again_gives_the_same_bytes(baseline, tiny_checkpoint, photos, options, tmp_path):
    """The archive holds no time of day."""
    time.sleep(2.1)  # a zip's clock ticks every two seconds
    again = record_baseline(tiny_checkpoint, photos, options, tmp_path / "baseline.npz")
    assert again.path.read_bytes() == baseline.path.read_bytes()


def test_progress_reaches_the_total(tiny_checkpoint, photos, options, tmp_path):
    """Progress grows by batches and ends at all images."""
    seen = []
    record_baseline(
        tiny_checkpoint,
        photos,
        options,
        tmp_path / "b.npz",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(3, 7), (6, 7), (7, 7)]


def assert_refused(said, checkpoint, photos, options, tmp_path):
    with pytest.raises(InputError, match=said):
        record_baseline(checkpoint, photos, options, tmp_path / "out" / "baseline.npz")
    assert not (tmp_path / "out").exists()


def test_image_that_cannot_be_decoded_is_named(tiny_checkpoint, photos, options, tmp_path):
    """The file's name is in the error and nothing is written."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    items = (*photos.items[:2], replace(photos.items[2], path=broken))
    spoilt = replace(photos, items=items)
    assert_refused(r"cannot decode image .*broken\.png", tiny_checkpoint, spoilt, options, tmp_path)


def test_label_beyond_the_head_is_refused(tiny_checkpoint, photos, options, tmp_path):
    """Class 5 of 0..4 names the image and the head's size."""
    items = (replace(photos.items[0], label=5),)
    spoilt = replace(photos, items=items)
    assert_refused("label 5, the head has 5 classes", tiny_checkpoint, spoilt, options, tmp_path)


def test_empty_set_is_refused(tiny_checkpoint, photos, options, tmp_path):
    """No images, no baseline."""
    assert_refused("no images", tiny_checkpoint, replace(photos, items=()), options, tmp_path)


def test_logits_that_are_no_numbers_name_the_image(tiny_weights, photos, options, tmp_path):
    """Finite weights that overflow on the way are found at the first image."""
    state = {key: tensor.clone() for key, tensor in tiny_weights.state_dict().items()}
    state["last_linear.weight"].fill_(3e38)
    save_file(state, tmp_path / "huge.safetensors")
    first = photos.items[0].path.name
    assert_refused(
        rf"logits of .*{first} are NaN", tmp_path / "huge.safetensors", photos, options, tmp_path
    )


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_layouts_give_the_same_logits(tiny_checkpoint, tiny_weights, memory_format):
    """The order of bytes in memory changes the time, not the answer."""
    with torch.no_grad():
        wanted = tiny_weights(torch.from_numpy(pixels())).numpy()
    with open_tiny(tiny_checkpoint, memory_format=memory_format) as session:
        assert np.abs(session.run(pixels()) - wanted).max() <= TOLERANCE * np.abs(wanted).max()
        assert session.info["memory_format"] == memory_format


def test_bf16_computes_in_bf16(tiny_checkpoint, tiny_weights):
    """bf16 has 8 bits of mantissa: logits differ from float32's, by a few 2^-8, as float32."""
    with torch.no_grad():
        wanted = tiny_weights(torch.from_numpy(pixels())).numpy()
    with open_tiny(tiny_checkpoint, autocast="bf16") as session:
        logits = session.run(pixels())
        assert session.info["float_precision"] == "bf16"
    share = np.abs(logits - wanted).max() / np.abs(wanted).max()
    assert logits.dtype == np.float32
    assert 2**-12 < share < 8 * 2**-8  # five layers deep, each rounds once


def test_read_only_images_are_taken_without_a_warning(tiny_checkpoint):
    """A race maps its images from a file; warnings are errors here."""
    mapped = pixels()
    mapped.flags.writeable = False
    with open_tiny(tiny_checkpoint) as session:
        assert np.array_equal(session.run(mapped), session.run(pixels()))
    assert np.array_equal(mapped, pixels())


def test_logits_are_a_fresh_array(tiny_checkpoint):
    """A second run leaves the first answer alone."""
    with open_tiny(tiny_checkpoint) as session:
        first = session.run(pixels())
        kept = first.copy()
        session.run(-pixels())
    assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 32, 40), np.float32),
        np.zeros((1, 1, 32, 40), np.float32),
        np.zeros((0, 3, 32, 40), np.float32),
        np.zeros((1, 3, 32, 40), np.float64),
    ],
)
def test_images_of_another_shape_are_refused(tiny_checkpoint, wrong):
    """Rank, channels, emptiness and type are checked."""
    with open_tiny(tiny_checkpoint) as session, pytest.raises(InputError, match=r"float32 \[N, 3"):
        session.run(wrong)


def test_threads_are_set_read_back_and_restored(tiny_checkpoint):
    """A session uses the threads asked for and leaves the process as it was."""
    before = torch.get_num_threads()
    with open_session(tiny_checkpoint, "tiny_inception", threads=2) as session:
        assert session.info["threads"] == torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("name", "hint"), [("memory_format", "channels_last"), ("autocast", "bf16")]
)
def test_unknown_choices_are_listed(tiny_checkpoint, name, hint):
    """A misspelt choice gets the near one."""
    with pytest.raises(InputError) as caught:
        open_tiny(tiny_checkpoint, **{name: hint[:-1]})
    assert f"did you mean '{hint}'" in caught.value.hint


_WORKER = """
import importlib, json, sys
module, _, function = sys.argv[1].partition(":")
opened = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
with opened as session:
    print(session.info["num_classes"])
"""


@pytest.mark.slow
def test_worker_process_opens_it_from_json(tmp_path):
    """Every argument survives JSON, as a latency worker sends it."""
    from edge_inception import registry

    model = registry.model("inception_v4").build(num_classes=3, width=0.125)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    arguments = {
        "checkpoint": str(tmp_path / "weights.safetensors"),
        "model": "inception_v4",
        "model_options": {"width": 0.125},
        "num_classes": None,
        "threads": 1,
        "memory_format": "channels_last",
        "autocast": "none",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _WORKER,
            "edge_inception.baseline.pytorch:open_session",
            json.dumps(arguments),
        ],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3\n"
