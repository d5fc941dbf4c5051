from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import sidecars

from edge_inception import artifact
from edge_inception.artifact import Baseline, Provenance
from edge_inception.data.images import Batch
from edge_inception.data.imageset import ImageItem
from edge_inception.errors import InputError
from edge_inception.validate import accuracy


def _one_hot(classes, num_classes=3):
    return np.eye(num_classes, dtype=np.float32)[classes]


def test_flips_drop_and_confusion_of_a_case_counted_by_hand():
    """Six images: two lost, one gained, one unlabelled; every count is checked by hand."""
    labels = np.array([0, 0, 1, 1, 2, -1])
    before = _one_hot([0, 0, 1, 0, 2, 1])
    after = _one_hot([0, 1, 1, 1, 0, 2])
    found = accuracy.compare(before, labels, after)
    assert found.num_images == 6
    assert found.agreement.value == 2 / 6
    scores = found.labelled
    assert scores is not None
    assert (scores.num_images, scores.num_right_to_wrong, scores.num_wrong_to_right) == (5, 2, 1)
    assert scores.drop_pp.value == pytest.approx(100 * (2 - 1) / 5)
    assert scores.baseline.top1.value == 4 / 5
    assert scores.engine.top1.value == 3 / 5
    assert scores.baseline.recall == (1.0, 0.5, 1.0)
    assert scores.engine.recall == (0.5, 1.0, 0.0)
    assert scores.engine.balanced_accuracy == pytest.approx(0.5)
    assert scores.baseline.confusion == ((0, 0, 2), (1, 0, 1), (1, 1, 1), (2, 2, 1))
    assert scores.confusion_change == (
        (0, 0, -1), (0, 1, 1), (1, 0, -1), (1, 1, 1), (2, 0, 1), (2, 2, -1),
    )  # fmt: skip


def test_confusion_equals_a_dense_count():
    """Sparse cells hold the same numbers as a dense matrix counted one image at a time."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 5)).astype(np.float32)
    labels = generator.integers(0, 5, 200)
    dense = np.zeros((5, 5), int)
    for row, label in zip(logits, labels, strict=True):
        dense[label, max(range(5), key=row.__getitem__)] += 1
    sparse = np.zeros((5, 5), int)
    for label, guess, count in accuracy.label_metrics(logits, labels).confusion:
        sparse[label, guess] = count
    assert (sparse == dense).all()


def test_a_class_without_images_has_no_recall():
    """Recall of an absent class is None and does not enter balanced accuracy."""
    scores = accuracy.label_metrics(_one_hot([0, 1]), np.array([0, 0]))
    assert scores.recall == (0.5, None, None)
    assert scores.balanced_accuracy == 0.5


def test_auroc_equals_a_count_over_all_pairs():
    """AUROC is the share of (positive, negative) pairs in order, ties half: counted in a loop."""
    generator = np.random.default_rng(1)
    # integer logits make ties
    logits = generator.integers(-3, 4, (60, 2)).astype(np.float32)
    labels = generator.integers(0, 2, 60)
    margin = logits[:, 1] - logits[:, 0]
    pairs = [(p, n) for p in margin[labels == 1] for n in margin[labels == 0]]
    expected = sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)
    assert accuracy.label_metrics(logits, labels).auroc == pytest.approx(expected, abs=1e-12)


def test_auroc_needs_two_classes_with_images():
    """With three classes, or one class absent, there is no AUROC."""
    assert accuracy.label_metrics(_one_hot([0, 1]), np.array([0, 1])).auroc is None
    assert accuracy.label_metrics(_one_hot([0, 1], 2), np.array([1, 1])).auroc is None


def test_sqnr_of_a_known_ratio():
    """An error of a tenth of the signal in every element is 20 dB."""
    signal = np.full((4, 3), 2.0, np.float32)
    # float32 rounding of 2.2
    assert accuracy.outputs.sqnr_db(signal, signal * np.float32(1.1)) == pytest.approx(20, abs=1e-5)


def test_sqnr_at_its_ends():
    """Identical logits have infinite SQNR; error on an all-zero signal has minus infinity."""
    zeros, ones = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    assert accuracy.outputs.sqnr_db(ones, ones) == math.inf
    assert accuracy.outputs.sqnr_db(zeros, ones) == -math.inf


def test_unlabelled_images_leave_agreement_and_sqnr():
    """Without a label there is no drop, but the logits are compared."""
    logits = _one_hot([0, 1, 2])
    found = accuracy.compare(logits, np.full(3, -1), logits)
    assert found.labelled is None
    assert found.agreement.value == 1.0
    assert found.sqnr_db == math.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("who", ["baseline", "engine"])
def test_logits_that_are_not_finite_are_refused(value, who):
    """NaN or infinity in either logits is an error that names side and image."""
    good, bad = _one_hot([0, 1]), _one_hot([0, 1])
    bad[1, 2] = value
    before, after = (bad, good) if who == "baseline" else (good, bad)
    with pytest.raises(InputError, match=f"{who} logits .* 1 of 2 images, first at image 1"):
        accuracy.compare(before, np.array([0, 1]), after)


@pytest.mark.parametrize(
    ("labels", "after"),
    [
        (np.array([0, 3]), _one_hot([0, 1])),
        (np.array([0, -2]), _one_hot([0, 1])),
        (np.array([0]), _one_hot([0, 1])),
        (np.array([0, 1]), _one_hot([0, 1, 2])),
    ],
)
def test_shapes_and_labels_that_do_not_fit_are_refused(labels, after):
    """A label outside the classes or arrays of different length are errors, not wrong numbers."""
    with pytest.raises(InputError):
        accuracy.compare(_one_hot([0, 1]), labels, after)


class _Mean:
    """A real session: logits are the channel means."""

    def __init__(self):
        self.calls = 0
        self.info = {"threads": 1}

    def run(self, images):
        self.calls += 1
        return images.mean(axis=(2, 3), dtype=np.float32)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def _data(num=5):
    images = np.random.default_rng(2).normal(size=(num, 3, 4, 4)).astype(np.float32)
    items = [ImageItem(path=Path(f"{i}.png"), sha256=f"hash{i}", label=i % 3) for i in range(num)]
    arrays = accuracy.BaselineArrays(
        logits=images.mean(axis=(2, 3), dtype=np.float32),
        labels=np.arange(num) % 3,
        sha256=tuple(item.sha256 for item in items),
    )

    def batches(size):
        for start in range(0, num, size):
            part = slice(start, start + size)
            yield Batch(images=images[part], items=tuple(items[part]))

    return arrays, batches


def test_score_streams_batch_by_batch():
    """Five images in batches of two are three runs, put together in order."""
    arrays, batches = _data()
    session, seen = _Mean(), []
    found = accuracy.score(
        session, arrays, batches(2), progress=lambda done, total: seen.append((done, total))
    )
    assert session.calls == 3
    assert found.num_images == 5
    assert found.sqnr_db == math.inf
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_score_names_the_image_with_logits_that_are_not_finite():
    """A NaN that an image brings about is reported with the image's path."""
    arrays, batches = _data()
    groups = list(batches(2))
    groups[1].images[1, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"first at image 3\.png"):
        accuracy.score(_Mean(), arrays, groups)


def test_score_refuses_other_images_than_the_baseline_s():
    """An image in another place than the baseline recorded it is named."""
    arrays, batches = _data()
    swapped = accuracy.BaselineArrays(
        logits=arrays.logits, labels=arrays.labels, sha256=arrays.sha256[::-1]
    )
    with pytest.raises(InputError, match=r"0\.png is not the image"):
        accuracy.score(_Mean(), swapped, batches(2))


@pytest.mark.parametrize("keep", [4, 6])
def test_score_refuses_too_few_and_too_many_images(keep):
    """The engine must see every image of the baseline and none besides."""
    arrays, _ = _data(5)
    _, batches = _data(keep)
    with pytest.raises(InputError, match="baseline"):
        accuracy.score(_Mean(), arrays, batches(3))


def _publish(path, **arrays):
    origin = Provenance(stage="baseline", parents={}, options={}, tools={}, source="")

    def write(temporary):
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    return artifact.publish(Baseline, path, write, provenance=origin, details=sidecars.of(Baseline))


def test_a_baseline_file_is_read_back(tmp_path):
    """Arrays come back as they were recorded, hashes as text."""
    logits = _one_hot([0, 1])
    recorded = _publish(
        tmp_path / "b.npz", logits=logits, labels=np.array([0, -1]), sha256=np.array(["aa", "bb"])
    )
    found = accuracy.load_baseline(recorded)
    assert (found.logits == logits).all()
    assert found.labels.tolist() == [0, -1]
    assert found.sha256 == ("aa", "bb")


@pytest.mark.parametrize(
    "arrays",
    [
        {"logits": np.zeros((2, 2), np.float32), "labels": np.zeros(2, int)},
        {"logits": np.zeros((2, 2)), "labels": np.zeros(3, int), "sha256": np.array(["a", "b"])},
        {"logits": np.full((1, 2), np.nan), "labels": np.zeros(1, int), "sha256": np.array(["a"])},
    ],
)
def test_a_broken_baseline_file_is_refused(tmp_path, arrays):
    """A missing array, lengths that differ, or NaN is an error that names the file's fault."""
    with pytest.raises(InputError, match="baseline"):
        accuracy.load_baseline(_publish(tmp_path / "b.npz", **arrays))


def test_a_constant_answer_proves_nothing():
    """No error on no signal is no quality: such an engine would pass any gate."""
    zeros = np.zeros((2, 3), np.float32)
    assert accuracy.outputs.sqnr_db(zeros, zeros) == -math.inf


def test_changed_images_are_named_with_both_scores():
    """Only images of another class are, the surest first; scores are softmax of either's logits."""
    before = np.log(np.array([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]], np.float32))
    after = np.log(np.array([[0.2, 0.8], [0.8, 0.2], [0.2, 0.8]], np.float32))
    items = [ImageItem(path=Path(f"{i}.png"), sha256=f"hash{i}", label=None) for i in range(3)]
    found = accuracy.compare(before, np.array([0, -1, 1]), after, items=items).changed
    assert [(one.image, one.sha256, one.label) for one in found] == [
        ("1.png", "hash1", None),
        ("0.png", "hash0", 0),
    ]
    assert [(one.before, one.after) for one in found] == [(1, 0), (0, 1)]
    # float32 logits
    assert found[0].baseline_scores == pytest.approx((0.9, 0.1), abs=1e-6)
    assert found[0].engine_scores == pytest.approx((0.2, 0.8), abs=1e-6)


def test_changed_images_are_bounded():
    """However many change, a report lists fifty."""
    rows = np.eye(2, dtype=np.float32)[np.zeros(80, int)]
    found = accuracy.compare(rows, np.full(80, -1), rows[:, ::-1].copy())
    assert len(found.changed) == accuracy.MAX_CHANGED == 50
    assert found.agreement.value == 0.0
