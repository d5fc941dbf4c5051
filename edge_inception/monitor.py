"""What training reports about a model on labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_inception import images, metrics
from edge_inception.imageset import ImageSet

if TYPE_CHECKING:
    from edge_inception.train import TrainOptions


def evaluate(model: nn.Module, images_of: ImageSet, options: TrainOptions) -> dict[str, float]:
    """Accuracy, balanced accuracy and, where two classes occur, AUROC; float32, final size."""
    model.eval()
    logits: list[NDArray[np.float32]] = []
    labels: list[int | None] = []
    with torch.inference_mode():
        for batch in images.batches(images_of.items, options.preprocess, options.batch):
            pixels = torch.from_numpy(batch.images).to(options.device)
            out = model(pixels.to(memory_format=torch.channels_last))
            logits.append(out.float().cpu().numpy())
            labels.extend(item.label for item in batch.items)
    scores, truth = np.concatenate(logits), np.array(labels, dtype=np.int64)
    predicted = scores.argmax(axis=1).astype(np.int64)
    result = {
        "accuracy": float((predicted == truth).mean()),
        "balanced_accuracy": metrics.balanced_accuracy(predicted, truth, options.num_classes),
    }
    if options.num_classes == 2 and len(set(labels)) == 2:  # noqa: PLR2004 -- of two classes
        result["auroc"] = metrics.auroc(scores[:, 1] - scores[:, 0], truth)
    return result
