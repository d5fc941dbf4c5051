"""Options of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_inception.spec import Preprocess
from edge_inception.stage import Stage

TRAIN = Stage(
    name="train",
    tools=("torch", "numpy", "Pillow"),
    sources=(
        *("training/train.py", "training/run.py", "training/evaluate.py"),
        *("training/augment.py", "training/options.py", "models", "data", "metrics"),
    ),
)
QAT = Stage(
    name="qat",
    tools=("torch", "onnx", "onnxruntime", "numpy", "Pillow"),
    sources=("training", "models", "quant", "graph", "data", "metrics", "device/outputs.py"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Choices of one training run; ``preprocess.input_size`` is square.

    ``crop_scale`` is the shortest side of a random crop as a share of the same side of the image
    (not a share of its area). ``rotation`` is the largest angle in degrees in either direction.
    ``contrast`` is the largest relative change of the normalised pixels, ``brightness`` the largest
    amount added to them. ``start_size`` is the side in pixels of the first epoch's images; the side
    grows in steps of 16 pixels to ``preprocess.input_size``, which it reaches after 70 % of the
    epochs. ``ema_decay`` is the largest decay per step of the moving average of the weights.
    ``device`` is ``cpu`` or ``cuda``; ``threads`` 0 leaves PyTorch's own number of CPU threads. The
    averaged weights are evaluated every ``monitor_every`` epochs, and after the last one.
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
    random_horizontal_flip: bool = True
    random_vertical_flip: bool = True
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    monitor_every: int = 5
