"""Train a model on an image set: checkpoint.safetensors, metrics.json, and a state to resume from.

Every random choice is drawn from the seed, the epoch and the image, so a run that was interrupted
ends, on the CPU, with the very weights of an undisturbed one. Nothing is selected on the monitored
images: the checkpoint is the moving average of the weights after the last epoch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from edge_inception import images, imageset, registry, stage
from edge_inception.artifact import replace_file
from edge_inception.augment import load_augmented
from edge_inception.errors import InputError
from edge_inception.imageset import ImageItem, ImageSet
from edge_inception.monitor import evaluate
from edge_inception.spec import Preprocess, Progress, no_progress

STATE_FILE, CHECKPOINT_FILE, METRICS_FILE = "state.pt", "checkpoint.safetensors", "metrics.json"
FULL_SIZE_FROM = 0.7  # share of the epochs after which images have their final size
SIZE_STEP = 16
_SMALLEST = {"epochs": 1, "batch": 1, "monitor_every": 1, "start_size": 1, "threads": 0, "seed": 0}
_SMALLEST_WEIGHT = 1e-6  # a batch of images that all weigh nothing has loss 0 and not 0 / 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """One training run; ``preprocess.input_size`` is square.

    ``crop_scale`` is the smallest side of a random crop as a share of the image; ``rotation`` in
    degrees, uniform in both directions; ``brightness`` and ``contrast`` relative, 0..1; flips are
    on per axis. ``start_size`` is the side of the first epoch's images; it grows linearly to
    ``preprocess.input_size``. ``device`` is ``cpu`` or ``cuda``.
    """

    model: str
    num_classes: int
    preprocess: Preprocess
    model_options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 60
    batch: int = 32
    start_size: int = 160
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_epochs: int = 3
    label_smoothing: float = 0.05
    ema_decay: float = 0.995
    crop_scale: float = 0.85
    rotation: float = 3.0
    brightness: float = 0.2
    contrast: float = 0.2
    is_flipped_horizontally: bool = True
    is_flipped_vertically: bool = True
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    monitor_every: int = 5


def train(
    train_set: ImageSet,
    monitor_set: ImageSet,
    options: TrainOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Path:
    """Train and write ``out/checkpoint.safetensors`` (fp16 weights, fp32 batch-norm statistics).

    Args:
        train_set: Labelled images; ``ImageItem.weight`` scales an image's loss.
        monitor_set: Labelled images for the metrics; never used for a decision.
        options: The run; a state file of other options is refused.
        out: Folder; an unfinished run found there is resumed.
        progress: Called with (steps done, steps in all).

    Raises:
        InputError: Images unlabelled, damaged, of other classes or in both sets; options that do
            not fit the model or the machine; a state file of another run; a loss not finite.
    """
    _check_sets(train_set, monitor_set, options)
    _check_options(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    run = _Run(train_set, monitor_set, options, out)
    while run.epoch < options.epochs:
        run.train_epoch(progress)
        run.save()
    return run.finish()


def _check_sets(train_set: ImageSet, monitor_set: ImageSet, options: TrainOptions) -> None:
    for images_of in (train_set, monitor_set):
        if not images_of.is_labelled:
            raise InputError(
                f"{images_of.name} has images without a label", hint="use class folders or a set"
            )
        if len(images_of.classes) != options.num_classes:
            raise InputError(
                f"{images_of.name} has {len(images_of.classes)} classes, the model "
                f"{options.num_classes}",
                hint=f"classes: {', '.join(images_of.classes)}",
            )
    if train_set.classes != monitor_set.classes:
        raise InputError(
            f"{train_set.name} has classes {', '.join(train_set.classes)}; {monitor_set.name} has "
            f"{', '.join(monitor_set.classes)}",
            hint="both need the same class names in the same order",
        )
    shared = imageset.overlap(monitor_set, train_set)
    if shared:
        raise InputError(
            f"{len(shared)} monitored images are also trained on, first {shared[0]}",
            hint="metrics on trained images prove nothing; use others",
        )
    for item in images.usable((*train_set.items, *monitor_set.items))[1]:
        images.decode(item.path)  # raises, before hours of training and not after


def _check_options(options: TrainOptions) -> None:
    height, width = options.preprocess.input_size
    if height != width:
        raise InputError(f"training at {height} x {width} pixels", hint="give a square input size")
    for name, smallest in _SMALLEST.items():
        value = getattr(options, name)
        if value < smallest:
            raise InputError(f"{name} is {value}", hint=f"wanted at least {smallest}")
    if options.device not in {"cpu", "cuda"}:
        raise registry.unknown("device", options.device, ("cpu", "cuda"))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device on this machine", hint="use --device cpu")
    registry.options(registry.model(options.model), options.model_options)


class _Run:
    """State of one run: weights, their moving average, optimizer, history."""

    def __init__(
        self, train_set: ImageSet, monitor_set: ImageSet, options: TrainOptions, out: Path
    ) -> None:
        torch.manual_seed(options.seed)
        self.train_set, self.monitor_set = train_set, monitor_set
        self.options, self.out = options, out
        self.steps_per_epoch = max(1, len(train_set.items) // options.batch)
        arguments = (registry.model(options.model), options.num_classes, options.model_options)
        self.model, self.average = (
            registry.build(*arguments).to(options.device, memory_format=torch.channels_last)
            for _ in range(2)
        )
        if self.model.is_embedding:
            raise InputError(
                f"{options.model} with {dict(options.model_options)} puts out an embedding",
                hint="train a classifier: --option tail=facenet-classifier, or tail=paper",
            )
        self._refuse_small_images()
        _initialise(self.model)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, options.weight_decay))
        self.epoch, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.identity = json.dumps(
            [stage.plain(options), train_set.sha256, monitor_set.sha256], sort_keys=True
        )
        self._resume()

    def _refuse_small_images(self) -> None:
        """A training pass of ``average``, whose statistics are set afterwards."""
        size = min(image_size(epoch, self.options) for epoch in range(self.options.epochs))
        batch = min(2, self.options.batch, len(self.train_set.items))
        try:
            with torch.no_grad():
                self.average(torch.zeros(batch, 3, size, size, device=self.options.device))
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{self.options.model} cannot train on {batch} images of {size} x {size} pixels",
                hint="raise --start-size, --input-size or --batch",
            ) from error

    def train_epoch(self, progress: Progress) -> None:
        """One pass over the training images."""
        started, losses = time.monotonic(), []
        self.model.train()
        _seed_torch(self.options.seed, self.epoch)  # dropout
        size = image_size(self.epoch, self.options)
        for step, (pixels, labels, weights) in enumerate(self._batches(size)):
            done = self.epoch * self.steps_per_epoch + step
            losses.append(self._step(done, pixels, labels, weights))
            progress(done + 1, self.options.epochs * self.steps_per_epoch)
        self.epoch += 1
        self.seconds += time.monotonic() - started
        entry = {"epoch": self.epoch, "size": size, "loss": float(np.mean(losses))}
        if self.epoch % self.options.monitor_every == 0 or self.epoch == self.options.epochs:
            entry.update(evaluate(self.average, self.monitor_set, self.options))
        self.history.append(entry)

    def _step(self, done: int, pixels: Tensor, labels: Tensor, weights: Tensor) -> float:
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(done, self.steps_per_epoch, options)
        with torch.autocast(options.device, dtype=torch.bfloat16):
            answers = self.model(pixels)
        per_image = self._losses(answers, labels)
        loss = (per_image * weights).sum() / weights.sum().clamp_min(_SMALLEST_WEIGHT)
        if not torch.isfinite(loss):
            raise InputError(f"loss is {loss.item()} at step {done}", hint="lower --learning-rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)  # threshold of arXiv 1512.00567
        self.optimizer.step()
        self._update_average(done)
        return loss.item()

    def _losses(self, answers: Any, labels: Tensor) -> Tensor:
        """Loss of every image, [N]: of the logits, and of auxiliary heads by their weight."""
        logits, *auxiliary = answers if isinstance(answers, tuple) else (answers,)
        smooth = partial(
            nn.functional.cross_entropy,
            reduction="none",
            label_smoothing=self.options.label_smoothing,
        )
        loss = smooth(logits.float(), labels)
        for weight, answer in zip(self.model.auxiliary_weights, auxiliary, strict=True):
            loss = loss + weight * smooth(answer.float(), labels)
        return loss

    def _update_average(self, done: int) -> None:
        decay = min(self.options.ema_decay, (1 + done) / (10 + done))
        with torch.no_grad():
            for mean, value in zip(
                self.average.state_dict().values(), self.model.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def _batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        options, items = self.options, self.train_set.items
        order = np.random.default_rng((options.seed, self.epoch)).permutation(len(items))
        load = partial(load_augmented, options=options, size=size, epoch=self.epoch)
        with ThreadPoolExecutor(max_workers=2) as pool:
            ahead = []
            for step in range(self.steps_per_epoch):
                chosen = order[step * options.batch : (step + 1) * options.batch]
                members = [items[index] for index in chosen]
                futures = [pool.submit(load, items[i], index=int(i)) for i in chosen]
                ahead.append((members, futures))
                if len(ahead) > 1:
                    yield self._to_tensors(*ahead.pop(0))
            for members, futures in ahead:
                yield self._to_tensors(members, futures)

    def _to_tensors(self, members: list[ImageItem], futures: Any) -> tuple[Tensor, Tensor, Tensor]:
        device = self.options.device
        pixels = torch.from_numpy(np.stack([future.result() for future in futures]))
        labels = torch.tensor([item.label for item in members])
        weights = torch.tensor([item.weight for item in members], dtype=torch.float32)
        pixels = pixels.to(device, memory_format=torch.channels_last)
        return pixels, labels.to(device), weights.to(device)

    def save(self) -> None:
        """Write the state that ``_resume`` reads."""
        state = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "history": self.history,
        }
        content = BytesIO()  # torch's own writer does not say that the disk is full
        torch.save(state, content)
        replace_file(self.out / STATE_FILE, content.getbuffer())

    def _resume(self) -> None:
        path = self.out / STATE_FILE
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.options.device, weights_only=True)
            identity = state["identity"]
        except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError) as error:
            raise InputError(
                f"{path} is not the state of a training run", hint="delete it to start afresh"
            ) from error
        if identity != self.identity:
            raise InputError(
                f"{path} belongs to a run with other options or images",
                hint="choose another --out, or delete it",
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.history = state["history"]

    def finish(self) -> Path:
        """Write checkpoint and metrics; the metrics are those of the rounded weights."""
        weights = {
            name: _as_stored(name, tensor) for name, tensor in self.average.state_dict().items()
        }
        path = self.out / CHECKPOINT_FILE
        # One entry of metadata: safetensors would write several in an order of their own each time.
        content = save(weights, metadata={"classes": json.dumps(self.train_set.classes)})
        replace_file(path, content)
        self.average.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        record = {
            "schema": 1,
            "options": stage.plain(self.options),
            "classes": self.train_set.classes,
            "train": {"set": self.train_set.name, "images": len(self.train_set.items)},
            "train_sha256": self.train_set.sha256,
            "monitor": {"set": self.monitor_set.name, "images": len(self.monitor_set.items)},
            "metrics": evaluate(self.average, self.monitor_set, self.options),
            "tools": {name: stage.tool_version(name) for name in stage.STAGES["train"].tools},
            "seconds": round(self.seconds),
            "history": self.history,
        }
        text = (json.dumps(record, indent=1) + "\n").encode()
        replace_file(self.out / METRICS_FILE, text)
        return path


def _seed_torch(seed: int, epoch: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))


def _as_stored(name: str, tensor: Tensor) -> Tensor:
    """fp16 for weights; batch-norm statistics stay fp32, where fp16 would lose small variances."""
    is_statistic = name.endswith(("running_mean", "running_var")) or not tensor.is_floating_point()
    return tensor.cpu().contiguous() if is_statistic else tensor.half().cpu().contiguous()


def _initialise(model: nn.Module) -> None:
    """Kaiming-normal convolutions for ReLU, fan out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only, not on biases and batch norms."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def schedule(done: int, steps_per_epoch: int, options: TrainOptions) -> float:
    """Share of the learning rate at step ``done``: linear warm-up, then half a cosine to zero."""
    warmup, total = options.warmup_epochs * steps_per_epoch, options.epochs * steps_per_epoch
    if done < warmup:
        return (done + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))


def image_size(epoch: int, options: TrainOptions) -> int:
    """Side of the training images in ``epoch``: linear growth in steps of 16, then the final."""
    final = options.preprocess.input_size[0]
    share = epoch / max(1.0, FULL_SIZE_FROM * options.epochs)
    if share >= 1 or options.start_size >= final:
        return final
    grown = options.start_size + share * (final - options.start_size)
    return max(options.start_size, int(grown // SIZE_STEP * SIZE_STEP))
