"""Frozen records that every stage shares. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

INPUT_NAME = "input"
OUTPUT_NAME = "logits"

Progress = Callable[[int, int], None]
"""Called with (done, total) while a stage works."""


def no_progress(done: int, total: int) -> None:
    """Ignore progress; the default of every stage."""


class Precision(Enum):
    """Precision of a typed graph; int8 is Q/DQ with a float rest."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How an image file becomes one float32 [3, H, W] tensor.

    The shorter side is resized to ``round(side / crop_fraction)``, the centre H x W is cropped,
    values are scaled to 0..1, then ``(x - mean) / std`` per RGB channel.
    """

    input_size: tuple[int, int]
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeProfile:
    """Batch sizes an engine accepts; equal numbers mean a static batch."""

    min: int = 1
    opt: int = 1
    max: int = 1

    @property
    def is_dynamic(self) -> bool:
        """Whether more than one batch size is accepted."""
        return self.min != self.max


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Limits that decide PASSED, FAILED or INCONCLUSIVE; None is not gated.

    ``max_drop_pp`` top-1 drop in percentage points; ``min_agreement`` 0..1; ``min_sqnr_db`` of the
    logits; ``min_speedup`` latency ratio over the same engine library at FP32.
    """

    max_drop_pp: float | None = None
    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    min_speedup: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCheckpoint:
    """A checkpoint that others published, with what they claim for it."""

    name: str
    url: str
    licence: str
    top1: float
    top5: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Facts about one architecture that need no torch, and its builder.

    ``build(num_classes=..., **options)`` imports torch when called and returns a module with
    freshly initialised weights. ``num_parameters`` and ``gmacs`` hold for ``num_classes`` classes,
    the default ``options`` and ``preprocess.input_size``.
    """

    name: str
    title: str
    paper: str
    build: Callable[..., Any]
    preprocess: Preprocess
    num_classes: int
    num_parameters: int
    gmacs: float
    options: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    checkpoints: tuple[PublishedCheckpoint, ...] = ()
