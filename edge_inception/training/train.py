"""Training of a model on an image set, with a checkpoint, metrics and a state to resume from.

``training.run`` holds the training loop.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from edge_inception import registry
from edge_inception.artifact import replace_file
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError
from edge_inception.spec import Progress, no_progress
from edge_inception.training import run as training_run
from edge_inception.training.evaluate import evaluate
from edge_inception.training.options import TRAIN, TrainOptions
from edge_inception.training.run import Run, TrainingModel, image_size

CHECKPOINT_FILE, METRICS_FILE = "checkpoint.safetensors", "metrics.json"


def train(
    train_set: ImageSet,
    monitor_set: ImageSet,
    options: TrainOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Path:
    """Path of the trained checkpoint, with fp16 weights and fp32 batch-norm statistics.

    Args:
        train_set: Labelled images; ``ImageItem.weight`` scales an image's loss.
        monitor_set: Labelled images for the metrics, which decide nothing.
        options: The run; a state file of other options is refused.
        out: Folder; an unfinished run found there is resumed.
        progress: Called with the number of steps done and of all steps.

    Raises:
        InputError: Images are unlabelled, damaged, of other classes or in both sets; options do not
            fit the model or the machine; the state file is of another run; or a loss is not finite.
    """
    training_run.require_sets(train_set, monitor_set, options)
    training_run.require_options(options)
    registry.options(registry.model(options.model), options.model_options)
    model = _training_model(len(train_set.items), options)
    run = Run(model, train_set, monitor_set, options, out)
    run.train(progress)
    return _write_results(run)


def _training_model(num_images: int, options: TrainOptions) -> TrainingModel:
    """The model with random weights, a second module for their moving average, and the loss."""
    torch.manual_seed(options.seed)
    arguments = (registry.model(options.model), options.num_classes, options.model_options)
    model, average = (
        registry.build(*arguments).to(options.device, memory_format=torch.channels_last)
        for _ in range(2)
    )
    if model.is_embedding:
        raise InputError(
            f"{options.model} with {dict(options.model_options)} puts out an embedding",
            hint="train a classifier: --option tail=facenet-classifier, or tail=paper",
        )
    _refuse_small_images(average, num_images, options)
    _init_convs(model)
    average.load_state_dict(model.state_dict())
    losses = partial(_losses, smoothing=options.label_smoothing, weights=model.auxiliary_weights)
    return TrainingModel(model=model, average=average, losses=losses)


def _refuse_small_images(average: nn.Module, num_images: int, options: TrainOptions) -> None:
    """Refuse images too small for the model, by a forward pass with images of the smallest size.

    The pass changes the batch-norm statistics of ``average``, which the caller overwrites later.

    Raises:
        InputError: The model cannot train on images of this size.
    """
    size = min(image_size(epoch, options) for epoch in range(options.epochs))
    batch = min(2, options.batch, num_images)
    try:
        with torch.no_grad():
            average(torch.zeros(batch, 3, size, size, device=options.device))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{options.model} cannot train on {batch} images of {size} x {size} pixels",
            hint="raise --start-size, --input-size or --batch",
        ) from error


def _losses(
    _: Tensor, output: Any, labels: Tensor, *, smoothing: float, weights: tuple[float, ...]
) -> Tensor:
    """Cross entropy per image [N]: that of the logits plus the weighted ones of auxiliary heads."""
    logits, *auxiliary = output if isinstance(output, tuple) else (output,)
    cross_entropy = partial(
        nn.functional.cross_entropy, reduction="none", label_smoothing=smoothing
    )
    loss = cross_entropy(logits.float(), labels)
    for weight, auxiliary_logits in zip(weights, auxiliary, strict=True):
        loss = loss + weight * cross_entropy(auxiliary_logits.float(), labels)
    return loss


def _write_results(run: Run) -> Path:
    """Write the checkpoint and the metrics of its fp16 weights; return the checkpoint's path."""
    weights = {
        name: _to_stored_type(name, tensor) for name, tensor in run.average.state_dict().items()
    }
    path = run.out / CHECKPOINT_FILE
    # safetensors would write several entries of metadata in a random order.
    content = save(weights, metadata={"classes": json.dumps(run.train_set.classes)})
    replace_file(path, content)
    run.average.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    metrics = evaluate(run.average, run.monitor_set, run.options)
    record = {"schema": 1, **run.record(TRAIN), "metrics": metrics, "history": run.history}
    replace_file(run.out / METRICS_FILE, (json.dumps(record, indent=1) + "\n").encode())
    return path


def _to_stored_type(name: str, tensor: Tensor) -> Tensor:
    """A weight in fp16; a batch-norm statistic in fp32, since fp16 would lose small variances."""
    is_statistic = name.endswith(("running_mean", "running_var")) or not tensor.is_floating_point()
    return tensor.cpu().contiguous() if is_statistic else tensor.half().cpu().contiguous()


def _init_convs(model: nn.Module) -> None:
    """Give convolutions random weights: Kaiming normal for ReLU, fan out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
