"""Classification metrics of a PyTorch model on labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_inception.data import images
from edge_inception.data.imageset import ImageSet
from edge_inception.metrics import classification

if TYPE_CHECKING:
    from edge_inception.training.options import TrainOptions


def evaluate(model: nn.Module, image_set: ImageSet, options: TrainOptions) -> dict[str, float]:
    """The ``classification_metrics`` of a model on images preprocessed as for inference."""
    return classification_metrics(*compute_logits(model, image_set, options), options)


def compute_logits(
    model: nn.Module, image_set: ImageSet, options: TrainOptions
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits [N, classes] and labels [N] of the images, in the order of the set."""
    model.eval()
    logits: list[NDArray[np.float32]] = []
    labels: list[int | None] = []
    with torch.inference_mode():
        for batch in images.batches(image_set.items, options.preprocess, options.batch):
            pixels = torch.from_numpy(batch.images).to(options.device)
            output = model(pixels.to(memory_format=torch.channels_last))
            logits.append(output.float().cpu().numpy())
            labels.extend(item.label for item in batch.items)
    return np.concatenate(logits), np.array(labels, dtype=np.int64)


def classification_metrics(
    logits: NDArray[np.float32], labels: NDArray[np.int64], options: TrainOptions
) -> dict[str, float]:
    """Accuracy, balanced accuracy and, for two classes, AUROC, all 0..1, of logits [N, classes].

    AUROC needs a model of two classes that both occur among the labels.
    """
    predicted = logits.argmax(axis=1).astype(np.int64)
    metrics = {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": classification.balanced_accuracy(
            predicted, labels, options.num_classes
        ),
    }
    if options.num_classes == 2 and len(set(labels.tolist())) == 2:  # noqa: PLR2004 -- two classes
        metrics["auroc"] = classification.auroc(logits[:, 1] - logits[:, 0], labels)
    return metrics
