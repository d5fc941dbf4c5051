"""Accuracy of an engine: agreement with the baseline, SQNR, and quality against labels.

The baseline holds logits or embeddings. A constant added to all logits of an image changes neither
its class nor its probabilities, so logits are *centred* before SQNR compares them: their mean over
the classes is subtracted. Centred log-probabilities are equal to centred logits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_inception.artifact import Baseline
from edge_inception.data.images import Batch
from edge_inception.data.imageset import ImageItem
from edge_inception.device import outputs
from edge_inception.errors import InputError
from edge_inception.metrics import classification
from edge_inception.metrics.intervals import Estimate, exact_share, paired_drop, wilson
from edge_inception.spec import Head, Progress, no_progress
from edge_inception.validate.report_record import (
    Accuracy,
    Cell,
    ChangedImage,
    LabelledAccuracy,
    LabelMetrics,
)

if TYPE_CHECKING:
    from edge_inception.engines._backend import Session

UNLABELLED = -1
MAX_CHANGED = 50
_NUM_BINARY_CLASSES = 2
_LEAST = np.finfo(np.float32).tiny  # lower limit of probabilities, since log(0) is -inf
_SQNR_OF = {
    "logits": "centred logits",
    "softmax": "centred log-probabilities",
    "topk": "centred log-probabilities of the k classes",
    "embedding": "embeddings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineArrays:
    """Content of ``baseline.npz``, in the order of the images.

    ``logits`` are float32 [N, C]. ``labels`` are int64 [N], -1 for an unlabelled image. ``sha256``
    are the hashes of the N image files.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    sha256: tuple[str, ...]


def load_baseline(baseline: Baseline) -> BaselineArrays:
    """The arrays of a baseline artifact, checked for shape and finiteness.

    Raises:
        InputError: The file lacks an array, shapes do not fit, or a logit is NaN or infinite.
    """
    try:
        with np.load(baseline.path, allow_pickle=False) as archive:
            logits = archive["logits"].astype(np.float32)
            labels = archive["labels"].astype(np.int64)
            sha256 = tuple(str(digest) for digest in archive["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{baseline.path} is not a baseline: {error}",
            hint="run `edge-inception baseline` again",
        ) from error
    if logits.ndim != 2 or labels.shape != (len(logits),) or len(sha256) != len(logits):  # noqa: PLR2004 -- [N, C]
        raise InputError(
            f"{baseline.path} holds logits {logits.shape}, labels {labels.shape} and "
            f"{len(sha256)} hashes, wanted [N, C], [N] and N",
            hint="run `edge-inception baseline` again",
        )
    _require_finite(logits, "baseline")
    return BaselineArrays(logits=logits, labels=labels, sha256=sha256)


def score(
    session: Session,
    baseline: BaselineArrays,
    batches: Iterable[Batch],
    *,
    head: Head = Head(),  # noqa: B008 -- frozen
    progress: Progress = no_progress,
) -> Accuracy:
    """Accuracy of ``session`` on the baseline's images; one batch of images is in memory at a time.

    ``batches`` are those of ``images.batches``, in the order of the baseline.

    Raises:
        InputError: The images differ from the baseline's, the engine's outputs have another shape,
            or an output is NaN or infinite.
    """
    total = len(baseline.sha256)
    logits = np.empty_like(baseline.logits)
    items: list[ImageItem] = []
    done = 0
    for group in batches:
        end = done + len(group.items)
        _require_same_images(group, baseline.sha256[done:end], done)
        got = session.run(group.images)
        if got.shape != logits[done:end].shape:
            raise InputError(
                f"engine gave logits {got.shape} for {len(group.items)} images, wanted "
                f"{logits[done:end].shape}",
                hint="engine and baseline must come from the same checkpoint",
            )
        _require_finite(got, "engine", [str(item.path) for item in group.items])
        logits[done:end] = got
        items += group.items
        done = end
        progress(done, total)
    if done != total:
        raise InputError(
            f"{done} images given, the baseline has {total}",
            hint="validate on the images the baseline was recorded on",
        )
    return compare(baseline.logits, baseline.labels, logits, head=head, items=items)


def compare(
    baseline: NDArray[np.float32],
    labels: NDArray[np.int64],
    engine: NDArray[np.float32],
    *,
    head: Head = Head(),  # noqa: B008 -- frozen
    items: Sequence[ImageItem] = (),
) -> Accuracy:
    """Accuracy of an engine's outputs against the baseline's logits or embeddings.

    Args:
        baseline: float32 [N, C], N >= 1.
        labels: int64 [N], -1 for an unlabelled image and for embeddings.
        engine: float32 [N, C] for the same images, as ``Session.run`` gives them.
        head: Head of the engine; probabilities are compared as log-probabilities.
        items: The N images, which give ``changed`` its paths and hashes; empty if unknown.

    Raises:
        InputError: There is no image, shapes differ, a label is outside -1..C-1, a logit is NaN or
            infinite, or there are embeddings of a single image only.
    """
    _require_fit(baseline, labels, engine)
    num_images, num_classes = baseline.shape
    if head.kind == "embedding":
        if num_images == 1:
            raise InputError(
                "one image has no nearest other image", hint="validate embeddings on more images"
            )
        labels = np.full_like(labels, UNLABELLED)
    choose = outputs.nearest if head.kind == "embedding" else partial(np.argmax, axis=1)
    num_same = int(np.sum(choose(baseline) == choose(engine)))
    sqnr_db = outputs.sqnr_db(*outputs.comparable(baseline, engine, str(head)))
    engine = as_logits(engine, head)
    has_label = labels != UNLABELLED
    return Accuracy(
        num_images=num_images,
        num_classes=num_classes,
        agreement=exact_share(num_same, num_images),
        sqnr_db=sqnr_db,
        sqnr_of=_SQNR_OF[head.kind],
        labelled=_labelled(baseline[has_label], labels[has_label], engine[has_label])
        if has_label.any()
        else None,
        changed=() if head.kind == "embedding" else _changed(baseline, labels, engine, items),
    )


def as_logits(values: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """Logits [N, C] for an engine's outputs [N, C]: probabilities become their logarithms."""
    if head.kind in {"logits", "embedding"}:
        return values
    logs: NDArray[np.float32] = np.log(np.maximum(values, _LEAST))
    return logs


def _changed(
    baseline: NDArray[np.float32],
    labels: NDArray[np.int64],
    engine: NDArray[np.float32],
    items: Sequence[ImageItem],
) -> tuple[ChangedImage, ...]:
    before, after = baseline.argmax(axis=1), engine.argmax(axis=1)
    rows = np.flatnonzero(before != after)
    expected, got = (outputs.probabilities(x[rows], "logits") for x in (baseline, engine))
    margins = expected.max(axis=1, initial=0.0) - expected[np.arange(len(rows)), after[rows]]
    chosen = []
    for place in np.argsort(-margins, kind="stable")[:MAX_CHANGED]:
        row = int(rows[place])
        classes = [int(before[row]), int(after[row])]
        item = items[row] if items else None
        chosen.append(
            ChangedImage(
                image=str(item.path) if item else str(row),
                sha256=item.sha256 if item else "",
                label=int(labels[row]) if labels[row] != UNLABELLED else None,
                before=classes[0],
                after=classes[1],
                baseline_scores=_pair(expected[place], classes),
                engine_scores=_pair(got[place], classes),
            )
        )
    return tuple(chosen)


def _pair(scores: NDArray[np.float64], classes: list[int]) -> tuple[float, float]:
    first, second = (round(float(scores[index]), 6) for index in classes)
    return first, second


def label_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> LabelMetrics:
    """Quality of logits [N, C] against labels [N], N >= 1; every label is in 0..C-1."""
    num_classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    recall = classification.recall_per_class(predicted, labels, num_classes)
    return LabelMetrics(
        top1=wilson(int(np.sum(predicted == labels)), len(labels)),
        balanced_accuracy=classification.balanced_accuracy(predicted, labels, num_classes),
        recall=tuple(None if np.isnan(value) else float(value) for value in recall),
        confusion=_cells(labels, predicted),
        auroc=_auroc(logits, labels) if num_classes == _NUM_BINARY_CLASSES else None,
    )


def _labelled(
    baseline: NDArray[np.float32], labels: NDArray[np.int64], engine: NDArray[np.float32]
) -> LabelledAccuracy:
    was_right = baseline.argmax(axis=1) == labels
    is_right = engine.argmax(axis=1) == labels
    lost, gained = int(np.sum(was_right & ~is_right)), int(np.sum(~was_right & is_right))
    drop = paired_drop(lost, gained, len(labels))
    before, after = label_metrics(baseline, labels), label_metrics(engine, labels)
    return LabelledAccuracy(
        num_images=len(labels),
        baseline=before,
        engine=after,
        num_right_to_wrong=lost,
        num_wrong_to_right=gained,
        drop_pp=Estimate(
            value=100 * drop.value,
            lower=100 * drop.lower,
            upper=100 * drop.upper,
            method=drop.method,
        ),
        confusion_change=_cell_changes(before.confusion, after.confusion),
    )


def _cells(labels: NDArray[np.int64], predicted: NDArray[np.intp]) -> tuple[Cell, ...]:
    counts = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    return tuple((*cell, count) for cell, count in sorted(counts.items()))


def _cell_changes(before: tuple[Cell, ...], after: tuple[Cell, ...]) -> tuple[Cell, ...]:
    changes = Counter({(label, guess): count for label, guess, count in after})
    changes.subtract({(label, guess): count for label, guess, count in before})
    return tuple((*cell, change) for cell, change in sorted(changes.items()) if change)


def _auroc(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
    if labels.min() == labels.max():
        return None
    return classification.auroc(logits[:, 1].astype(np.float64) - logits[:, 0], labels)


def _require_same_images(group: Batch, expected: tuple[str, ...], start: int) -> None:
    if len(group.items) > len(expected):
        raise InputError(
            f"more images than the baseline has ({start + len(expected)})",
            hint="validate on the images the baseline was recorded on",
        )
    for item, sha256 in zip(group.items, expected, strict=True):
        if item.sha256 != sha256:
            raise InputError(
                f"{item.path} is not the image at this place of the baseline: sha256 "
                f"{item.sha256[:12]}, recorded {sha256[:12]}",
                hint="record the baseline again on these images",
            )


def _require_fit(
    baseline: NDArray[np.float32], labels: NDArray[np.int64], engine: NDArray[np.float32]
) -> None:
    if baseline.ndim != 2 or baseline.shape != engine.shape or baseline.size == 0:  # noqa: PLR2004 -- [N, C]
        raise InputError(
            f"baseline logits {baseline.shape} and engine logits {engine.shape} do not fit",
            hint="both must be [images, classes] of the same non-empty set",
        )
    if labels.shape != baseline.shape[:1]:
        raise InputError(
            f"{labels.shape} labels for {len(baseline)} images", hint="record the baseline again"
        )
    if labels.min() < UNLABELLED or labels.max() >= baseline.shape[1]:
        raise InputError(
            f"labels {labels.min()}..{labels.max()} do not fit {baseline.shape[1]} classes",
            hint="labels are logit indices; -1 means unlabelled",
        )
    _require_finite(baseline, "baseline")
    _require_finite(engine, "engine")


def _require_finite(
    logits: NDArray[np.float32], owner: str, names: Sequence[str] | None = None
) -> None:
    is_bad = ~np.isfinite(logits).all(axis=1)
    if is_bad.any():
        first = int(is_bad.argmax())
        raise InputError(
            f"{owner} logits are NaN or infinite for {is_bad.sum()} of {len(logits)} images, first "
            f"at image {names[first] if names else first}",
            hint="look for NaN in the weights or for float16 overflow in the graph",
        )
