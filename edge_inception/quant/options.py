"""Options of calibrate and quantize, and the provenance of their results.

This module imports no onnx and no openvino: a pipeline asks whether a result can be reused before
it imports them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edge_inception import stage
from edge_inception.artifact import RangeTable, SimplifiedGraph, TypedGraph
from edge_inception.data.imageset import ImageSet
from edge_inception.errors import InputError, counted
from edge_inception.quant.policies import Policy, default_policy, policy
from edge_inception.sidecar import Provenance
from edge_inception.spec import Precision, Preprocess
from edge_inception.stage import Stage

_CALIBRATION_TOOLS = ("onnx", "openvino", "numpy", "Pillow")
CALIBRATE = Stage(name="calibrate", tools=_CALIBRATION_TOOLS, sources=("quant", "graph", "data"))
IMPORT_RANGES = Stage(
    name="import_ranges", tools=_CALIBRATION_TOOLS, sources=("quant", "graph", "data")
)
QUANTIZE = Stage(name="quantize", tools=("onnx", "numpy"), sources=("quant", "graph"))
CALIBRATION_CACHE = Stage(
    name="calibration_cache", tools=("onnx", "numpy"), sources=("quant", "graph")
)


class Typing(Enum):
    """How a precision is written into the graph.

    ``strong``: opset 19, every tensor's type is the type it is computed in; for TensorRT 10 and
    later, TensorRT-RTX, CPU. ``weak``: opset 13, float32 tensors and float weights, where builder
    flags derived from the sidecar allow lower precision; for TensorRT 8.2 to 8.6. ``implicit``:
    opset 13, float32, the rewrites for DLA, a fixed batch, and int8 scales in a calibration cache
    beside the graph; for DLA up to TensorRT 10.7, and for GPUs up to 10.16 on request.
    """

    STRONG = "strong"
    WEAK = "weak"
    IMPLICIT = "implicit"


class FloatRest(Enum):
    """The float type of those layers of an int8 graph that are not int8.

    In a weak graph the tensors stay float32, and only the allowed builder flag follows from this.
    """

    FP16 = "fp16"
    FP32 = "fp32"


WHOLE = (1, 1)
"""The shard (i, n) that is the whole set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """Choices of one calibration.

    ``calibrator``: ``max``, ``mse``, ``mse-max``, ``entropy``, ``percentile:P``, or ``auto``, which
    tries the first three end to end. ``threads`` 0 means all cores the process may use.
    ``max_images`` 0 means the whole set. ``max_positions`` bounds how many elements of one tensor
    of one image enter the histogram, 0 means all; ``seed`` places them. The exact amax always sees
    every element. ``shard`` (i, n) observes the i-th of n shares of the images. ``placement`` is
    that of the int8 graphs that ``auto`` tries, as in ``QuantizeOptions``: which calibrator is the
    best depends on the layers that stay float.
    """

    preprocess: Preprocess
    calibrator: str = "mse"
    batch: int = 8
    threads: int = 0
    seed: int = 0
    max_images: int = 0
    max_positions: int = 8192
    shard: tuple[int, int] = WHOLE
    placement: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """Choices of one typed graph.

    ``batch`` fixes a free batch, which DLA needs. ``is_for_dla`` makes the rewrites for DLA and, in
    int8, puts a pair on every tensor with the scales of the calibration cache: for DLA of TensorRT
    11.4.1, and to measure on a CPU the accuracy of an implicit graph, which is always for DLA.

    ``placement`` names a policy; "" is the default of the kind of target. ``keep`` are the groups
    that stay float, sorted. ``bias_correction`` corrects float biases for the mean error of
    rounding, which is not possible with the scales of DLA. None corrects them unless the trial of
    the calibrator ``auto`` found that it does not help.
    """

    precision: Precision
    typing: Typing = Typing.STRONG
    float_rest: FloatRest = FloatRest.FP16
    batch: int | None = None
    is_for_dla: bool = False
    placement: str = ""
    keep: tuple[str, ...] = ()
    bias_correction: bool | None = None


def policy_of(options: QuantizeOptions) -> Policy:
    """The placement that these options ask for.

    Raises:
        InputError: There is no such policy, or a choice is made where there is none.
    """
    is_for_dla = options.is_for_dla or options.typing is Typing.IMPLICIT
    default = default_policy("dla" if is_for_dla else "gpu")
    choices = [f"placement {options.placement}"] if options.placement else []
    choices += [f"{counted(len(options.keep), 'group')} in float"] if options.keep else []
    choices += ["bias correction"] if options.bias_correction else []
    if choices and options.precision is not Precision.INT8:
        raise InputError(
            f"{' and '.join(choices)}: for int8 only, got {options.precision.value}",
            hint="leave it out, or ask for --precision int8",
        )
    chosen = policy(options.placement) if options.placement else default
    if is_for_dla and (options.keep or options.bias_correction or chosen is not default):
        raise InputError(
            f"{' and '.join(choices)}: DLA wants a scale on every tensor and ties them itself",
            hint=f"leave it out where DLA is a target; its placement is {default.name}",
        )
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """The TensorRT version that will read a calibration cache, such as ``8.5.2``."""

    tensorrt: str


def calibrate_provenance(
    graph: SimplifiedGraph, images: ImageSet, options: CalibrateOptions
) -> Provenance:
    """The provenance that ``calibrate`` records for these inputs."""
    parents = {"graph": graph.sha256, "images": images.sha256}
    return stage.provenance(CALIBRATE, parents=parents, options=options)


def quantize_provenance(
    graph: SimplifiedGraph, ranges: RangeTable | None, options: QuantizeOptions
) -> Provenance:
    """The provenance that ``quantize`` records for these inputs."""
    parents = {"graph": graph, **({} if ranges is None else {"ranges": ranges})}
    return stage.provenance(QUANTIZE, parents=parents, options=options)


def cache_provenance(graph: TypedGraph, ranges: RangeTable, options: CacheOptions) -> Provenance:
    """The provenance that ``write_cache`` records for these inputs."""
    parents = {"typed graph": graph.sha256, "ranges": ranges.sha256}
    return stage.provenance(CALIBRATION_CACHE, parents=parents, options=options)
