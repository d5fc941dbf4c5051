"""The sections of a recipe as records, and parsers of keys whose value sets several fields.

A field's type decides which values are valid, and its description becomes the hint of an error.
None stands for a key that is not set.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge_inception.errors import InputError, unknown
from edge_inception.records import Count, Positive, Record
from edge_inception.spec import Budget, DropType, Head

_MAX_WHOLE = 2**53  # float64 holds every whole number up to here exactly
_CHANNELS = "three numbers in the channel order, for pixels from 0 to 1"
_MAX_FLOAT32 = 3.4e38  # about the largest float32

_Whole = Annotated[int, Meta(ge=-_MAX_WHOLE, le=_MAX_WHOLE)]
_Choice = bool | _Whole | float | str  # numbers are checked by the registry, which knows the option
_Choices = Annotated[dict[str, _Choice], Meta(description="a word, a number or true for each name")]
_File = Annotated[str, Meta(pattern="^[^\0]*$", description="a path")]
# not tuple[Positive, Positive]: beside a bounded number it makes msgspec 0.23 crash the process
_Pair = Annotated[tuple[Positive, ...], Meta(min_length=2, max_length=2)]
_Side = Annotated[Positive | _Pair, Meta(description="299 or [299, 299]")]
_Mean = Annotated[float, Meta(ge=-_MAX_FLOAT32, le=_MAX_FLOAT32)]
_Means = Annotated[tuple[_Mean, _Mean, _Mean], Meta(description=_CHANNELS)]
_Std = Annotated[float, Meta(ge=1e-6, le=_MAX_FLOAT32)]  # 1 / std is finite in float32
_Stds = Annotated[tuple[_Std, _Std, _Std], Meta(description=f"{_CHANNELS}, at least 1e-06")]
# Types of both int and float, so that a number stays as it is written: 1 does not become 1.0.
_Crop = Annotated[
    Annotated[int, Meta(ge=1, le=1)] | Annotated[float, Meta(gt=0, le=1)],
    Meta(description="a number above 0 and at most 1"),
]
_Share = Annotated[
    Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0, le=1)],
    Meta(description="a finite number from 0 to 1"),
]
_Percent = Annotated[
    Annotated[int, Meta(ge=0, le=100)] | Annotated[float, Meta(ge=0, le=100)],
    Meta(description="a finite number from 0 to 100"),
]
_Factor = Annotated[
    Annotated[int, Meta(ge=0, le=_MAX_WHOLE)] | Annotated[float, Meta(ge=0, le=_MAX_FLOAT32)],
    Meta(description="a finite number of at least 0"),
]
_Decibels = Annotated[
    _Whole | Annotated[float, Meta(ge=-_MAX_FLOAT32, le=_MAX_FLOAT32)],
    Meta(description="a finite number"),
]


class Model(Record, frozen=True, kw_only=True):
    """[model]: a checkpoint of a known architecture, or an ONNX graph."""

    name: str | None = None
    checkpoint: _File | None = None
    onnx: _File | None = None
    checkpoint_format: str | None = None
    num_classes: Positive | None = None
    options: _Choices | None = None
    head: str = "logits"
    fold_preprocessing: str = "none"


class Preprocessing(Record, frozen=True, kw_only=True):
    """[preprocess]: fields of ``Preprocess`` that replace those of the checkpoint's family."""

    input_size: _Side | None = None
    crop: str | None = None
    crop_fraction: _Crop | None = None
    interpolation: str | None = None
    channel_order: str | None = None
    mean: _Means | None = None
    std: _Stds | None = None


class Data(Record, frozen=True, kw_only=True):
    """[data]: calibration and validation images."""

    calibration: _File | None = None
    calibration_split: str = ""
    validation: _File | None = None
    validation_split: str = ""
    labels: _File | None = None
    skip_bad_images: bool = False


class Build(Record, frozen=True, kw_only=True):
    """[build]: precision, targets and output folder."""

    precision: str = "int8"
    targets: tuple[str, ...] = ()
    batch: Positive | None = None
    dynamic_batch: str | None = None
    threads: Count = 0
    out: _File = "build/edge-inception"
    compute_capabilities: tuple[str | float, ...] = ()
    jetpack: str = ""
    tensorrt: str = ""
    dla: bool = False
    bundle: bool = False


class Calibrate(Record, frozen=True, kw_only=True):
    """[calibrate]: options of the calibration of tensor ranges."""

    calibrator: str = "auto"
    effort: str = "default"
    max_images: Positive = 512
    batch: Positive = 8
    seed: Count = 0


class Quantize(Record, frozen=True, kw_only=True):
    """[quantize]: which part of an int8 graph stays float, and bias correction."""

    typing: str = ""
    float_rest: str = "fp16"
    placement: str = ""
    rounding: str = ""
    fold_zero_points: bool | None = None
    keep_float: tuple[str, ...] = ()
    bias_correction: bool | None = None


class Search(Record, frozen=True, kw_only=True):
    """[search]: the budget of the search for the layer groups to keep in float."""

    max_drop_pp: _Percent | None = None
    drop_type: str | None = None
    max_groups: _Whole | None = None


class Latency(Record, frozen=True, kw_only=True):
    """[latency]: number of rounds, and of calls of each engine in a round."""

    rounds: Annotated[int, Meta(ge=3, le=_MAX_WHOLE)] = 10
    calls_per_block: Positive = 20


class Limits(Record, frozen=True, kw_only=True):
    """[gates]: the fields of ``Gates``."""

    max_drop_pp: _Percent | None = None
    min_agreement: _Share | None = None
    min_sqnr_db: _Decibels | None = None
    min_speedup: _Factor | None = None


class Sections(Record, frozen=True, kw_only=True):
    """All sections of a recipe; the reader checks the schema number."""

    model: Model = msgspec.field(default_factory=Model)
    preprocess: Preprocessing = msgspec.field(default_factory=Preprocessing)
    data: Data = msgspec.field(default_factory=Data)
    build: Build = msgspec.field(default_factory=Build)
    calibrate: Calibrate = msgspec.field(default_factory=Calibrate)
    quantize: Quantize = msgspec.field(default_factory=Quantize)
    search: Search = msgspec.field(default_factory=Search)
    latency: Latency = msgspec.field(default_factory=Latency)
    gates: Limits = msgspec.field(default_factory=Limits)


_FOLDS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "uint8": {"element": "uint8", "layout": "NCHW"},
    "uint8-nhwc": {"element": "uint8", "layout": "NHWC"},
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "crop": ("after_resize", "before_resize"),
    "channel_order": ("RGB", "BGR"),
}
_HEADS = ("logits", "softmax", "topk:K")


def set_values(section: Record) -> dict[str, Any]:
    """Values of the keys of a section that are set, by key."""
    values = {name: getattr(section, name) for name in section.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}


def require_known(name: str, known: Collection[str], what: str) -> str:
    """``name``, after a check that it is among ``known``; ``what`` names it in the error.

    Raises:
        InputError: ``name`` is not known; the hint lists the known names.
    """
    if name not in known:
        raise unknown(what, name, known)
    return name


def preprocess_changes(section: Preprocessing) -> dict[str, Any]:
    """Fields of ``Preprocess`` that [preprocess] sets.

    Raises:
        InputError: A value is not one of the key's choices.
    """
    changes = set_values(section)
    for key, known in _CHOICES.items():
        if key in changes:
            require_known(changes[key], known, key.replace("_", " "))
    if isinstance(section.input_size, int):
        changes |= {"input_size": (section.input_size, section.input_size)}
    return changes


def parse_fold(name: str) -> Mapping[str, str]:
    """Fields of ``Preprocess`` that ``model.fold_preprocessing`` sets: element and layout.

    Raises:
        InputError: ``name`` is not a choice of this key.
    """
    return _FOLDS[require_known(name, _FOLDS, "folded preprocessing")]


def parse_head(text: str) -> Head:
    """The head that ``text`` names: ``logits``, ``softmax`` or ``topk:K``, such as ``topk:5``.

    Raises:
        InputError: ``text`` is another name, or K is not a whole number above 0.
    """
    kind, colon, k = text.partition(":")
    if kind != "topk":
        return Head(kind=require_known(text, _HEADS, "head"))
    if not colon or not re.fullmatch("0*[1-9][0-9]{0,8}", k):
        raise InputError(
            f"head '{text}' says no number of classes", hint="wanted topk:K, such as topk:5"
        )
    return Head(kind=kind, k=int(k))


def parse_budget(section: Search, where: str) -> Budget | None:
    """The budget of the section [search]; None where the section is empty.

    Raises:
        InputError: The section has keys but not ``max_drop_pp``, a negative ``max_groups``, or an
            unknown ``drop_type``.
    """
    max_drop_pp, max_groups = section.max_drop_pp, section.max_groups or 0
    if max_drop_pp is None:
        for key in set_values(section):
            raise InputError(
                f"{where}: search.{key} without search.max_drop_pp",
                hint="set the budget that it belongs to, or pass --max-drop",
            )
        return None
    if max_groups < 0:
        raise InputError(
            f"{where}: search.max_drop_pp is {max_drop_pp}, search.max_groups {max_groups}",
            hint="wanted a number from 0 to 100, and so many groups or 0 for no limit",
        )
    kinds = [kind.value for kind in DropType]
    kind = require_known(section.drop_type or DropType.ABSOLUTE.value, kinds, "drop type")
    return Budget(max_drop_pp=float(max_drop_pp), drop_type=DropType(kind), max_groups=max_groups)
