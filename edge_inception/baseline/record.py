"""Running an FP32 session on a set of images, and writing its outputs to an .npz file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_inception import artifact
from edge_inception.artifact import Baseline
from edge_inception.data import images
from edge_inception.data.imageset import ImageItem, ImageSet
from edge_inception.errors import InputError
from edge_inception.sidecar import BaselineDetails, Provenance
from edge_inception.spec import Preprocess, Progress

UNLABELLED = -1


class Session(Protocol):
    """A session that maps images [N, 3, H, W] to outputs [N, columns]."""

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOutputs:
    """Outputs and labels in the order of the images.

    ``logits`` is float32 [N, columns]. ``labels`` is int64 [N], -1 for an image without a label.
    ``num_classes`` is the number of columns, or 0 for an embedding network.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    num_classes: int


def compute_outputs(
    session: Session,
    image_set: ImageSet,
    preprocess: Preprocess,
    batch: int,
    *,
    is_embedding: bool = False,
    progress: Progress,
) -> SessionOutputs:
    """Outputs of ``session`` for all images, preprocessed and run ``batch`` at a time.

    Raises:
        InputError: The set is empty, an image cannot be decoded, a label is not below the number of
            logits, or an output is NaN or infinite.
    """
    if not image_set.items:
        raise InputError(f"{image_set.name} has no images", hint="give at least one")
    logits: list[NDArray[np.float32]] = []
    labels: list[int] = []
    num_classes = 0
    for group in images.batches(image_set.items, preprocess, batch):
        outputs = session.run(group.images)
        num_classes = 0 if is_embedding else outputs.shape[1]
        labels += [_label(item, num_classes) for item in group.items]
        for item, row in zip(group.items, outputs, strict=True):
            if not np.isfinite(row).all():
                raise InputError(
                    f"logits of {item.path} are NaN or infinite in float32",
                    hint="the checkpoint is damaged, or made for another preprocessing",
                )
        logits.append(outputs)
        progress(len(labels), len(image_set.items))
    return SessionOutputs(
        logits=np.concatenate(logits),
        labels=np.array(labels, dtype=np.int64),
        num_classes=num_classes,
    )


def _label(item: ImageItem, num_classes: int) -> int:
    """The image's label, or UNLABELLED without a label and for an embedding (no classes)."""
    if item.label is None or not num_classes:
        return UNLABELLED
    if item.label >= num_classes:
        raise InputError(
            f"{item.path} has label {item.label}, the head has {num_classes} classes",
            hint="give --labels with one class name per logit, in logit order",
        )
    return item.label


def publish(
    outputs: SessionOutputs,
    image_set: ImageSet,
    out: Path,
    *,
    provenance: Provenance,
    details: BaselineDetails,
) -> Baseline:
    """Write ``out``, an npz file: logits float32 [N, columns], labels int64 [N], sha256 [N]."""
    arrays: dict[str, NDArray[Any]] = {
        "logits": outputs.logits,
        "labels": outputs.labels,
        "sha256": np.array([item.sha256 for item in image_set.items]),
    }
    return artifact.publish(
        Baseline,
        out,
        lambda path: _write(path, arrays),
        provenance=provenance,
        counts={
            "images": len(outputs.labels),
            "labelled": int((outputs.labels != UNLABELLED).sum()),
            "left_out": image_set.num_left_out,
        },
        details=details,
    )


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz file; equal arrays give equal bytes, since numpy dates each member 1980."""
    with path.open("wb") as stream:  # np.savez would append .npz to the temporary name
        np.savez(stream, allow_pickle=False, **arrays)
