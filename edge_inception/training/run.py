"""One training run: batches, steps, the moving average of the weights, and a state to resume from.

Every random choice depends only on the seed, the epoch and the image. So on the CPU a run that was
interrupted and resumed ends with the same weights as a run that was not. The monitored images
decide nothing: the result is always the moving average of the weights after the last epoch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_inception import stage
from edge_inception.artifact import replace_file
from edge_inception.data import images, imageset
from edge_inception.data.imageset import ImageItem, ImageSet
from edge_inception.errors import InputError, unknown
from edge_inception.spec import Progress
from edge_inception.training.augment import load_augmented
from edge_inception.training.evaluate import evaluate

if TYPE_CHECKING:
    from edge_inception.training.options import TrainOptions

STATE_FILE = "state.pt"
_GROWTH_SHARE = 0.7  # share of the epochs in which the images grow to their final size
_SIZE_STEP = 16  # pixels
_MINIMA = {
    "epochs": 1,
    "batch": 1,
    "monitor_every": 1,
    "start_size": 1,
    "threads": 0,
    "seed": 0,
}
_MIN_WEIGHT_SUM = 1e-6  # so that a batch of images of weight 0 has the loss 0 and not 0 / 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModel:
    """A model to train, with its loss.

    ``average`` is another module of the same kind, for the moving average of the weights; it starts
    with the weights of ``model``. ``losses`` maps pixels [N, 3, H, W], the model's output and
    labels [N] to the loss of each image [N]. A state file is only resumed if it has the same
    ``identity``, options and images. With
    ``uses_bfloat16`` the model computes in bfloat16 where that is fast.
    """

    model: nn.Module
    average: nn.Module
    losses: Callable[[Tensor, Any, Tensor], Tensor]
    identity: tuple[str, ...] = ()
    uses_bfloat16: bool = True


def require_sets(train_set: ImageSet, monitor_set: ImageSet, options: TrainOptions) -> None:
    """Check both sets; every image is decoded once.

    Raises:
        InputError: Images are unlabelled, damaged, of other classes or in both sets.
    """
    for image_set in (train_set, monitor_set):
        if not image_set.is_labelled:
            raise InputError(
                f"{image_set.name} has images without a label", hint="use class folders or a set"
            )
        if len(image_set.classes) != options.num_classes:
            raise InputError(
                f"{image_set.name} has {len(image_set.classes)} classes, the model "
                f"{options.num_classes}",
                hint=f"classes: {', '.join(image_set.classes)}",
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
    for item in images.split_usable((*train_set.items, *monitor_set.items))[1]:
        images.decode(item.path)  # a damaged image raises here, before hours of training


def require_options(options: TrainOptions) -> None:
    """Check the options that do not depend on the model.

    Raises:
        InputError: A number is too small, the input is not square, or there is no such device.
    """
    height, width = options.preprocess.input_size
    if height != width:
        raise InputError(f"training at {height} x {width} pixels", hint="give a square input size")
    for name, minimum in _MINIMA.items():
        value = getattr(options, name)
        if value < minimum:
            raise InputError(f"{name} is {value}", hint=f"wanted at least {minimum}")
    if options.device not in {"cpu", "cuda"}:
        raise unknown("device", options.device, ("cpu", "cuda"))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device on this machine", hint="use --device cpu")


class Run:
    """State of one run: weights, their moving average, optimizer, history."""

    def __init__(
        self,
        training_model: TrainingModel,
        train_set: ImageSet,
        monitor_set: ImageSet,
        options: TrainOptions,
        out: Path,
    ) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        self.training_model = training_model
        self.model, self.average = training_model.model, training_model.average
        self.train_set, self.monitor_set = train_set, monitor_set
        self.options, self.out = options, out
        self.steps_per_epoch = max(1, len(train_set.items) // options.batch)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, options.weight_decay))
        self.epoch, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        sets = (train_set.sha256, monitor_set.sha256)
        self.identity = json.dumps(
            [stage.plain(options), *sets, *training_model.identity], sort_keys=True
        )
        self._resume()

    def train(self, progress: Progress) -> None:
        """Train the epochs that are left, and save the state after each epoch."""
        while self.epoch < self.options.epochs:
            self.train_epoch(progress)
            self.save()

    def record(self, training_stage: stage.Stage) -> dict[str, Any]:
        """The run as JSON: options, classes, image sets, versions of the stage's tools, seconds."""
        return {
            "options": stage.plain(self.options),
            "classes": self.train_set.classes,
            "train": {"set": self.train_set.name, "images": len(self.train_set.items)},
            "train_sha256": self.train_set.sha256,
            "monitor": {"set": self.monitor_set.name, "images": len(self.monitor_set.items)},
            "tools": {tool: stage.tool_version(tool) for tool in training_stage.tools},
            "seconds": round(self.seconds),
        }

    def train_epoch(self, progress: Progress) -> None:
        """Train for one pass over the training images, and evaluate the average when it is due."""
        start, losses = time.monotonic(), []
        self.model.train()
        _seed_torch(self.options.seed, self.epoch)  # dropout
        size = image_size(self.epoch, self.options)
        first_step = self.epoch * self.steps_per_epoch
        for step, batch in enumerate(self._batches(size), start=first_step):
            losses.append(self._step(step, *batch))
            progress(step + 1, self.options.epochs * self.steps_per_epoch)
        self.epoch += 1
        self.seconds += time.monotonic() - start
        entry = {"epoch": self.epoch, "size": size, "loss": float(np.mean(losses))}
        if self.epoch % self.options.monitor_every == 0 or self.epoch == self.options.epochs:
            entry.update(evaluate(self.average, self.monitor_set, self.options))
        self.history.append(entry)

    def _step(self, step: int, pixels: Tensor, labels: Tensor, weights: Tensor) -> float:
        """The weighted mean loss of a batch, after one step of the optimizer."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * learning_rate_factor(
                step, self.steps_per_epoch, options
            )
        is_bfloat16 = self.training_model.uses_bfloat16 and _has_fast_bfloat16(options.device)
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=is_bfloat16):
            output = self.model(pixels)
        per_image = self.training_model.losses(pixels, output, labels)
        loss = (per_image * weights).sum() / weights.sum().clamp_min(_MIN_WEIGHT_SUM)
        if not torch.isfinite(loss):
            raise InputError(f"loss is {loss.item()} at step {step}", hint="lower --learning-rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)  # threshold of arXiv 1512.00567
        self.optimizer.step()
        self._update_average(step)
        return loss.item()

    def _update_average(self, step: int) -> None:
        decay = min(self.options.ema_decay, (1 + step) / (10 + step))
        averages, values = self.average.state_dict().values(), self.model.state_dict().values()
        with torch.no_grad():
            for average, value in zip(averages, values, strict=True):
                if average.is_floating_point():
                    average.lerp_(value, 1 - decay)
                else:
                    average.copy_(value)

    def _batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pixels [N, 3, size, size], labels [N] and weights [N], loaded one batch ahead."""
        options, items = self.options, self.train_set.items
        order = np.random.default_rng((options.seed, self.epoch)).permutation(len(items))
        load = partial(load_augmented, options=options, size=size, epoch=self.epoch)
        with ThreadPoolExecutor(max_workers=2) as pool:
            pending = []
            for step in range(self.steps_per_epoch):
                indices = order[step * options.batch : (step + 1) * options.batch]
                futures = [pool.submit(load, items[i], index=int(i)) for i in indices]
                pending.append(([items[i] for i in indices], futures))
                if len(pending) > 1:
                    yield self._to_tensors(*pending.pop(0))
            for batch in pending:
                yield self._to_tensors(*batch)

    def _to_tensors(self, items: list[ImageItem], futures: Any) -> tuple[Tensor, Tensor, Tensor]:
        device = self.options.device
        pixels = torch.from_numpy(np.stack([future.result() for future in futures]))
        labels = torch.tensor([item.label for item in items])
        weights = torch.tensor([item.weight for item in items], dtype=torch.float32)
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


def _has_fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 saves time; a CPU with only AVX2 needs five times as long as for float32."""
    if device != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 -- no public name


def _seed_torch(seed: int, epoch: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters in groups with their weight decay, which is 0 for biases and batch norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def learning_rate_factor(step: int, steps_per_epoch: int, options: TrainOptions) -> float:
    """Factor of the learning rate in ``step``, from 0: linear warm-up, then half a cosine to 0."""
    warmup, total = options.warmup_epochs * steps_per_epoch, options.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def image_size(epoch: int, options: TrainOptions) -> int:
    """Side of an epoch's training images in pixels, which grows linearly in steps of 16 pixels."""
    final_size = options.preprocess.input_size[0]
    growth = epoch / max(1.0, _GROWTH_SHARE * options.epochs)
    if growth >= 1 or options.start_size >= final_size:
        return final_size
    size = options.start_size + growth * (final_size - options.start_size)
    return max(options.start_size, int(size // _SIZE_STEP * _SIZE_STEP))
