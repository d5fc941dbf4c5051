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
from edge_inception.data.imageset import ImageSet
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


def run(
    session: Session,
    image_set: ImageSet,
    preprocess: Preprocess,
    batch: int,
    *,
    is_embedding: bool = False,
    progress: Progress,
) -> SessionOutputs:
    """Outputs of ``session`` for all preprocessed images, which run ``batch`` at a time.

    Raises:
        InputError: The set is empty, an image cannot be decoded, a label is not below the number of
            logits, or an output is NaN or infinite.
    """
    if not image_set.items:
        raise InputError(f"{image_set.name} has no images", hint="give at least one")
    parts: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    done = num_classes = 0
    for group in images.batches(image_set.items, preprocess, batch):
        part = session.run(group.images)
        num_classes = 0 if is_embedding else part.shape[1]
        labels.append(_labels(group, num_classes))
        for item, row in zip(group.items, part, strict=True):
            if not np.isfinite(row).all():
                raise InputError(
                    f"logits of {item.path} are NaN or infinite in float32",
                    hint="the checkpoint is damaged, or made for another preprocessing",
                )
        parts.append(part)
        done += len(part)
        progress(done, len(image_set.items))
    return SessionOutputs(
        logits=np.concatenate(parts), labels=np.concatenate(labels), num_classes=num_classes
    )


def _labels(group: images.Batch, num_classes: int) -> NDArray[np.int64]:
    if not num_classes:  # an embedding names no class
        return np.full(len(group.items), UNLABELLED, dtype=np.int64)
    labels = [UNLABELLED if item.label is None else item.label for item in group.items]
    for item, label in zip(group.items, labels, strict=True):
        if label >= num_classes:
            raise InputError(
                f"{item.path} has label {label}, the head has {num_classes} classes",
                hint="give --labels with one class name per logit, in logit order",
            )
    return np.array(labels, dtype=np.int64)


def publish(
    outputs: SessionOutputs,
    image_set: ImageSet,
    out: Path,
    *,
    provenance: Provenance,
    details: BaselineDetails,
) -> Baseline:
    """Write an npz file, row i for image i: logits float32 [N, columns], labels, sha256."""
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
    """Write an npz file; numpy dates each member 1980, so equal arrays give equal bytes."""
    with path.open("wb") as stream:  # np.savez would append .npz to the temporary name
        np.savez(stream, allow_pickle=False, **arrays)
