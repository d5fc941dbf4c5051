"""Options of calibrate and quantize, and the provenance of their results.

This module imports neither onnx nor openvino, so that a pipeline can find out whether a result can
be reused before it imports these libraries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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


AUTO = "auto"
"""Name of the calibrator that a trial of whole int8 graphs chooses."""


class Typing(Enum):
    """How a precision is written into the graph.

    ``strong``: opset 19; every tensor has the type in which it is computed. For TensorRT 10 and
    later, TensorRT-RTX and the CPU. ``weak``: opset 13; tensors and weights are float32, and
    builder flags that follow from the sidecar (the .json file beside the graph) allow a lower
    precision. For TensorRT 8.2 to 8.6. ``implicit``: opset 13; float32 with the rewrites for DLA, a
    fixed batch, and int8 scales in a calibration cache beside the graph. For DLA up to TensorRT
    10.7, and on request for GPUs up to TensorRT 10.16. ``cpu``: opset 19; activations are uint8,
    with zero point 0 where they cannot be negative and 128 elsewhere, and the rest is float32. For
    OpenVINO on CPUs; TensorRT takes no zero points.
    """

    STRONG = "strong"
    WEAK = "weak"
    IMPLICIT = "implicit"
    CPU = "cpu"


class FloatRest(Enum):
    """The float type of the layers of an int8 graph that are not int8: the float rest.

    In a weak graph the tensors stay float32, and this type only decides the builder's FP16 flag.
    """

    FP16 = "fp16"
    FP32 = "fp32"


class Rounding(Enum):
    """How weights become int8: each to its nearest level, or with errors that cancel.

    ``second-order`` compensates the error of each weight in the others of its output channel.
    """

    NEAREST = "nearest"
    SECOND_ORDER = "second-order"


class Effort(Enum):
    """How much work calibration does beyond its first pass over the images.

    ``quick``: the channel means alone. ``default``: second-order rounding, and a trial of about ten
    int8 graphs on images that are held back. ``max``: a trial of every combination of choices.
    """

    QUICK = "quick"
    DEFAULT = "default"
    MAX = "max"


WHOLE = (1, 1)
"""The shard (i, n) that is the whole set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """Choices of one calibration.

    ``calibrator`` is ``max``, ``mse``, ``mse-max``, ``entropy``, ``percentile:P``, or ``auto``,
    which tries several on whole int8 graphs. ``batch`` is the number of images per forward
    pass. ``threads`` 0 means all cores the process may use; ``max_images`` 0 means the whole set.
    ``max_positions`` bounds the number of elements, channels included, that enter the histogram per
    tensor and image; 0 means all. ``seed`` places this sample; the exact amax is always taken over
    every element. ``shard`` (i, n) observes the i-th of n shares of the images. ``placement`` names
    the policy for the int8 graphs that ``auto`` tries, and ``typing`` how these are written, as in
    ``QuantizeOptions``: the best calibrator depends on the layers that stay float, and on the
    levels that tensors without negative values use.
    """

    preprocess: Preprocess
    calibrator: str = AUTO
    effort: Effort = Effort.DEFAULT
    batch: int = 8
    threads: int = 0
    seed: int = 0
    max_images: int = 0
    max_positions: int = 8192
    shard: tuple[int, int] = WHOLE
    placement: str = ""
    typing: Typing = Typing.STRONG


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """Choices of one typed graph: an ONNX graph that states its precision.

    ``batch`` fixes a dynamic batch size, which DLA needs. ``is_for_dla`` makes the rewrites for DLA
    and, in int8, puts a Q/DQ pair on every tensor, with the scales of the calibration cache. It is
    for DLA with TensorRT 11.4.1, and to measure on a CPU the accuracy of an implicit graph, which
    always has these rewrites.

    ``placement`` names a policy; "" is the default of the kind of target. ``keep`` has the names of
    the groups (tensors that share a scale, with the layers that read them) that stay float, sorted.
    ``bias_correction`` corrects float biases for the mean error of rounding, which is not possible
    with the scales of DLA; None corrects them unless the trial of the calibrator ``auto`` found
    that correction does not help.
    """

    precision: Precision
    typing: Typing = Typing.STRONG
    float_rest: FloatRest = FloatRest.FP16
    batch: int | None = None
    is_for_dla: bool = False
    placement: str = ""
    rounding: Rounding | None = None
    fold_zero_points: bool | None = None
    keep: tuple[str, ...] = ()
    bias_correction: bool | None = None


def resolve(options: QuantizeOptions, ranges: RangeTable | None) -> QuantizeOptions:
    """The options with the choices of the table's trial for those that are not given.

    Zero points are folded and weights rounded by second order if the table was made from images
    here; the ranges of an imported cache or of QAT hold for symmetric scales and their own weights.
    DLA ties scales, so that no zero point is folded; a graph for the CPU has zero points instead.
    """
    if options.precision is not Precision.INT8 or ranges is None:
        return options
    is_for_dla = options.is_for_dla or options.typing is Typing.IMPLICIT
    is_ours = ranges.provenance.stage == CALIBRATE.name
    details = ranges.details
    rounding = Rounding.SECOND_ORDER if is_ours and details.num_rounded else Rounding.NEAREST
    placement, folds = options.placement, options.fold_zero_points
    if not placement and details.chosen and not is_for_dla:
        placement = details.chosen.placement
    if folds is None:
        folds = is_ours and not is_for_dla and options.typing is not Typing.CPU
    return replace(
        options,
        placement=placement,
        fold_zero_points=folds,
        float_rest=FloatRest.FP32 if options.typing is Typing.CPU else options.float_rest,
        rounding=options.rounding or rounding,
    )


def policy_of(options: QuantizeOptions) -> Policy:
    """The placement policy that these options ask for.

    Raises:
        InputError: No policy has this name, a choice for int8 is made for another precision, or a
            choice is made that DLA does not leave.
    """
    is_for_dla = options.is_for_dla or options.typing is Typing.IMPLICIT
    default = default_policy("dla" if is_for_dla else "gpu")
    choices = [f"placement {options.placement}"] if options.placement else []
    choices += [f"{counted(len(options.keep), 'group')} in float"] if options.keep else []
    choices += ["bias correction"] if options.bias_correction else []
    choices += ["folded zero points"] if options.fold_zero_points else []
    if choices and options.precision is not Precision.INT8:
        raise InputError(
            f"{' and '.join(choices)}: for int8 only, got {options.precision.value}",
            hint="leave it out, or ask for --precision int8",
        )
    if options.typing is Typing.CPU and (options.fold_zero_points or options.is_for_dla):
        raise InputError(
            f"typing cpu and {'DLA' if options.is_for_dla else 'folded zero points'}",
            hint="leave it out: the uint8 tensors of this typing have zero points of their own",
        )
    chosen = policy(options.placement) if options.placement else default
    if is_for_dla and (
        options.keep or options.bias_correction or options.fold_zero_points or chosen is not default
    ):
        raise InputError(
            f"{' and '.join(choices)}: DLA wants a scale on every tensor and ties them itself",
            hint=f"leave it out where DLA is a target; its placement is {default.name}",
        )
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """The version of the TensorRT that will read a calibration cache, such as ``8.5.2``."""

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
    return stage.provenance(QUANTIZE, parents=parents, options=resolve(options, ranges))


def cache_provenance(graph: TypedGraph, ranges: RangeTable, options: CacheOptions) -> Provenance:
    """The provenance that ``write_cache`` records for these inputs."""
    parents = {"typed graph": graph.sha256, "ranges": ranges.sha256}
    return stage.provenance(CALIBRATION_CACHE, parents=parents, options=options)
