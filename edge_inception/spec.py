"""Frozen records that all stages share; a ``Record`` also stands in sidecars, read strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from msgspec.structs import replace

from edge_inception.records import Positive, Record

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
HEAD_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "logits": (OUTPUT_NAME,),
    "softmax": ("probabilities",),
    "topk": ("scores", "classes"),
    "embedding": ("embedding",),
}
"""Kind of head -> names of the graph's outputs, in order."""

PREPROCESS_SCOPE, HEAD_SCOPE = "preprocess/", "head/"
"""First parts of the names of the nodes that ``export/interface.py`` adds."""

Options = Mapping[str, float | int | str | bool]
"""Choices of a model's builder, such as ``{"width": 0.25}``."""

Progress = Callable[[int, int], None]
"""Function that a stage calls with (done, total) while it works."""


def no_progress(done: int, total: int) -> None:
    """Ignore progress: the ``Progress`` that every stage has by default."""


class Precision(Enum):
    """Precision of a typed graph, an ONNX graph in which every tensor's precision is explicit.

    An int8 graph has Q/DQ nodes, and a float rest: the layers that are not quantized.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Preprocess(Record, frozen=True, kw_only=True):
    """Steps from an image file to one tensor, which is float32 [3, H, W] by default.

    ``input_size`` is (H, W). If ``crop`` is ``after_resize``, the shorter side is resized to
    ``round(side / crop_fraction)``, then the centre H x W is cropped. If it is ``before_resize``,
    the centre share ``crop_fraction`` of each side is cropped, then resized to H x W (TF-slim).
    Then values are scaled to 0..1 and become ``(x - mean) / std`` per channel. The network reads
    the channels in ``channel_order``, in which ``mean`` and ``std`` are given.

    If ``element`` is ``uint8``, the cropped pixels stay as they are, 0..255, since the graph itself
    normalises them.
    """

    input_size: tuple[Positive, Positive]
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    crop: Literal["after_resize", "before_resize"] = "after_resize"
    element: Literal["float32", "uint8"] = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @property
    def normalised(self) -> Preprocess:
        """The same preprocessing, but to float32 NCHW, which a PyTorch model takes."""
        return replace(self, element="float32", layout="NCHW")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, (3, H, W) or (H, W, 3) by ``layout``."""
        height, width = self.input_size
        return (height, width, 3) if self.layout == "NHWC" else (3, height, width)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB pixels in 0..1, as torchvision states them."""


class ShapeProfile(Record, frozen=True, kw_only=True):
    """Batch sizes that an engine accepts, tuned for ``opt``; equal numbers mean a static batch."""

    min: Positive = 1
    opt: Positive = 1
    max: Positive = 1

    @property
    def is_dynamic(self) -> bool:
        """Whether more than one batch size is accepted."""
        return self.min != self.max


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Limits that decide PASSED, FAILED or INCONCLUSIVE; None sets no limit.

    ``max_drop_pp`` limits the top-1 drop in percentage points, ``min_agreement`` the agreement
    (0..1), ``min_sqnr_db`` the SQNR of the centred logits, ``min_speedup`` the FP32 latency of the
    same engine library over the engine's latency. ``min_speedup`` None refuses an INT8 engine that
    is slower beyond doubt, 0 none.
    """

    max_drop_pp: float | None = None
    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    min_speedup: float | None = None


class DropType(Enum):
    """Unit of a ``Budget``: percentage points (absolute), or percent of FP32's top-1 (relative)."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The largest top-1 drop on the calibration images; above it, groups are kept in float.

    A group is the tensors that share a scale, with the layers that read them. ``min_sqnr_db`` is a
    second limit, the least SQNR of the logits; None sets none. ``max_groups`` is the largest number
    of groups in float, 0 for no limit.
    """

    max_drop_pp: float
    min_sqnr_db: float | None = None
    drop_type: DropType = DropType.ABSOLUTE
    max_groups: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last part of a graph, which decides the outputs; ``HEAD_OUTPUTS`` has their names.

    ``logits``: float32 [N, classes]. ``softmax``: probabilities, float32 [N, classes]. ``topk``:
    scores, float32 [N, k], the k largest probabilities in falling order, and their classes, int64
    [N, k]. ``embedding``: float32 [N, D]; embedding networks have this head and no other network.
    """

    kind: str = "logits"
    k: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return HEAD_OUTPUTS[self.kind]

    @classmethod
    def of(cls, text: str) -> Head:
        """The head that a sidecar writes as ``text``, such as ``softmax`` or ``topk:5``."""
        kind, _, k = text.partition(":")
        return cls(kind=kind, k=int(k or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.k}" if self.k else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCheckpoint:
    """A checkpoint that others published, with the accuracy that they claim.

    ``top1`` and ``top5`` are single-crop ImageNet accuracies in percent; ``claim`` is the text of a
    claim that was measured in another way.
    """

    name: str
    url: str
    licence: str
    source: str
    top1: float | None = None
    top5: float | None = None
    claim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFamily:
    """A publisher's weights of one architecture: their preprocessing and the checkpoints.

    ``name`` is also the name of the family's key map in ``checkpoints/keymaps/``. ``options`` are
    the model options that the weights need. In the family's ImageNet heads, ``num_background``
    logits come before that of class 0.
    """

    name: str
    preprocess: Preprocess
    options: Options = field(default_factory=dict)
    num_background: int = 0
    published: tuple[PublishedCheckpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One published form of an architecture, with its size.

    ``num_parameters`` and ``gmacs`` (1e9 multiply-adds for one image) belong to the inference graph
    with ``num_classes`` classes, without auxiliary heads unless ``options`` ask for them.
    """

    name: str
    num_parameters: int
    gmacs: float
    input_size: tuple[int, int]
    num_classes: int = 1000
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Facts about one architecture that need no torch, and its builder.

    ``build(num_classes=..., **options)`` imports torch when called and returns a module with
    freshly initialised weights; ``describe`` takes the same arguments, needs no torch and returns
    the module's ``models._layers.Architecture``. ``options`` are the model's options with their
    defaults. The first of ``families`` is the default: its preprocessing is used where no
    checkpoint says otherwise. ``variants`` are the published forms; the first has the default
    options.
    """

    name: str
    title: str
    paper: str
    describe: Callable[..., Any]
    build: Callable[..., Any]
    families: tuple[CheckpointFamily, ...]
    variants: tuple[Variant, ...]
    options: Options = field(default_factory=dict)
    num_classes: int = 1000

    @property
    def preprocess(self) -> Preprocess:
        """Preprocessing of the default family."""
        return self.families[0].preprocess

    @property
    def num_parameters(self) -> int:
        """Number of parameters with default options."""
        return self.variants[0].num_parameters

    @property
    def gmacs(self) -> float:
        """1e9 multiply-adds for one image with default options at the published input size."""
        return self.variants[0].gmacs
