"""Estimate of a graph's speed on a target: a roofline bound per layer, and a range to plan with.

Nothing is measured. A layer takes at least the time of its operations at the target's dense peak,
and at least the time to move its bytes at the memory's bandwidth. The longer of the two times is
the layer's bound, and their sum over the layers is the graph's bound (Williams, Waterman,
Patterson: Roofline, CACM 2009). Caches that hold a whole layer and Winograd's algorithm could beat
the bound; the time to launch kernels is not in it.

Engines reach only a share of the speed at the bound. ``SHARE`` is one number for every target and
precision: the geometric mean of that share over the four devices of ``CHECK_POINTS``, 0.50. If the
share of each device is predicted from the other three, the error is up to 32 %; ``BAND`` is
somewhat more, since four devices are few. Two of the seven figures are recalled and not confirmed,
and the band is untested on Orin, Thor and discrete GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_inception.errors import InputError, listed
from edge_inception.graph.statistics import Layer, Statistics
from edge_inception.hardware.feasibility import MemoryNeed
from edge_inception.hardware.target import Fact, Target
from edge_inception.hardware.targets import TARGETS
from edge_inception.spec import Precision

SHARE = 0.50
BAND = 0.40
"""The range to plan with is SHARE x (1 - BAND) to SHARE x (1 + BAND) of the speed at the bound."""
MIN_SHARE = 0.15
"""A measured speed below this share of the bound, or above the bound, suggests a wrong peak, power
mode, precision or batch. Source: docs/hardware.md, "Roofline"."""

KERNEL_LAUNCH_S = 5e-6
"""Rough time in seconds to launch one GPU kernel; it has no source and serves a warning alone."""

BYTES_PER_ELEMENT = {Precision.INT8: 1, Precision.FP16: 2, Precision.FP32: 4}
_OPERATIONS_PER_MAC = 2

# Ops that engines fuse into the layer before or run in place, so that they move no bytes.
_FUSED = frozenset(
    (
        "BatchNormalization", "Cast", "Clip", "Concat", "DequantizeLinear", "Dropout", "Elu",
        "Flatten", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "PRelu", "QuantizeLinear",
        "Relu", "Reshape", "Sigmoid", "Squeeze", "Tanh", "Unsqueeze",
    )
)  # fmt: skip
# Ops that engines fuse too; they also read an operand that the layer before did not compute.
_FUSED_WITH_OPERAND = frozenset(("Add", "Div", "Mul", "Sub", "Sum"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPoint:
    """A published speed of Inception-v4; ``batch`` is the batch size on the GPU.

    ``dla`` is whether the DLA ran too. ``sure`` grades the source: a key of ``target.SURE``.
    """

    target: str
    precision: Precision
    dla: bool
    batch: int
    images_per_s: float
    sure: str
    source: str


_FIGURES = 'docs/hardware.md, "Published figures"'
_README = f"tf_to_trt_image_classification README, with copies, TensorRT 3, {_FIGURES}"
_ISSUE = f"jetson_benchmarks issue 23, {_FIGURES}"
_WEB = f"NVIDIA's table of Jetson benchmarks, {_FIGURES}"
CHECK_POINTS = (
    CheckPoint(
        target="nano-4gb", precision=Precision.FP16, dla=False, batch=1, images_per_s=11, sure="S",
        source=f"NVIDIA's blog on Jetson Nano, quoted by jkjung-avt, {_FIGURES}",
    ),
    CheckPoint(
        target="tx2-8gb", precision=Precision.FP16, dla=False, batch=1, images_per_s=1 / 52.1e-3,
        sure="V", source=_README,
    ),
    CheckPoint(
        target="tx2-8gb", precision=Precision.FP16, dla=False, batch=1, images_per_s=24, sure="R",
        source=_WEB,
    ),
    CheckPoint(
        target="xavier-nx-8gb", precision=Precision.INT8, dla=True, batch=2, images_per_s=311.73,
        sure="V", source=f"jetson_benchmarks README, {_FIGURES}",
    ),
    CheckPoint(
        target="agx-xavier-32gb", precision=Precision.INT8, dla=True, batch=4, images_per_s=528,
        sure="R", source=_WEB,
    ),
    CheckPoint(
        target="agx-xavier-32gb", precision=Precision.INT8, dla=True, batch=4, images_per_s=470,
        sure="S", source=f"a user's measurement, {_ISSUE}",
    ),
    CheckPoint(
        target="agx-xavier-32gb", precision=Precision.INT8, dla=True, batch=4, images_per_s=704,
        sure="S", source=f"what that user was told to expect, {_ISSUE}",
    ),
)  # fmt: skip
"""Figures with a DLA are of the GPU and both DLA cores running at once, the DLA at batch 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """Peak rates of a target, per second; ``description`` states both rates and their sources."""

    macs_per_s: float
    bytes_per_s: float
    bytes_per_element: int
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBound:
    """The least time of a layer for the whole batch: ``_s`` fields are in seconds."""

    name: str
    op: str
    macs: int
    num_bytes: int
    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The longer of the times for compute and for memory."""
        return max(self.compute_s, self.memory_s)

    @property
    def bound_by(self) -> str:
        """``compute`` or ``memory``."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bounds of all layers that take time; rates are the target's images per second in all."""

    batch: int
    layers: tuple[LayerBound, ...]

    @property
    def seconds(self) -> float:
        """Least time of a batch in seconds."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def bound(self) -> float:
        """Images per second that cannot be exceeded."""
        return self.batch / self.seconds

    @property
    def is_launch_bound(self) -> bool:
        """Whether the time to launch the kernels, left out here, may exceed the bound."""
        return self.seconds < KERNEL_LAUNCH_S * len(self.layers)

    @property
    def compute_share(self) -> float:
        """Share, 0..1, of ``seconds`` that layers bound by compute take."""
        bound = (layer.seconds for layer in self.layers if layer.bound_by == "compute")
        return sum(bound) / self.seconds

    @property
    def expected(self) -> tuple[float, float, float]:
        """Images per second to plan with: lower end, middle, upper end."""
        middle = SHARE * self.bound
        return middle * (1 - BAND), middle, middle * (1 + BAND)

    @property
    def suspicious_below(self) -> float:
        """Images per second below which a measurement is suspicious, by ``MIN_SHARE``."""
        return MIN_SHARE * self.bound


def has_check_point(target: Target) -> bool:
    """Whether a check point was measured on a module with the same GPU."""
    checked = {TARGETS[point.target].compute_capabilities for point in CHECK_POINTS}
    return target.compute_capabilities in checked


def peaks_of(target: Target, precision: Precision, *, dla: bool = False) -> Peaks:
    """Peaks of the target's GPU, or with ``dla`` of the GPU and all its DLA cores together.

    A target whose peak or bandwidth is unknown is refused.
    """
    figures = {Precision.INT8: target.int8_tops, Precision.FP16: target.fp16_tflops}
    if dla:
        figures = {Precision.INT8: target.module_int8_tops}
    what = f"{precision.value} peak{' of GPU and DLA' if dla else ''}"
    peak = _require_fact(figures.get(precision), target, what)
    bandwidth = _require_fact(target.bandwidth_gb_s, target, "bandwidth")
    return Peaks(
        macs_per_s=peak.value * 1e12 / _OPERATIONS_PER_MAC,
        bytes_per_s=bandwidth.value * 1e9,
        bytes_per_element=BYTES_PER_ELEMENT[precision],
        description=(
            f"{peak.value:g} {precision.value.upper()} tera-operations/s dense [{peak.sure}] "
            f"{peak.source}; {bandwidth.value:g} GB/s [{bandwidth.sure}] {bandwidth.source}"
        ),
    )


def _require_fact(fact: Fact | None, target: Target, what: str) -> Fact:
    if fact is None:
        raise InputError(
            f"{target.name}: its {what} is not in the table, so nothing can be estimated",
            hint=f"`edge-inception targets {target.name}` shows what is known; or measure: bench",
        )
    return fact


def batch_size(statistics: Statistics) -> int:
    """The batch, which is the first size of the first input; it must be static."""
    sizes = statistics.inputs[0].sizes if statistics.inputs else None
    if not sizes or not isinstance(sizes[0], int):
        raise InputError("the graph has no input with a batch", hint="export with a first size")
    return sizes[0]


def estimate(statistics: Statistics, peaks: Peaks) -> Estimate:
    """The bound of a graph with a fixed batch.

    Every layer is assumed to run at ``peaks``, whatever precision the file has; each element of
    activations and weights has ``peaks.bytes_per_element`` and is read or written once. Ops that
    engines fuse move no bytes; an Add reads only the branch that the layer before did not compute.

    Raises:
        InputError: A shape or the multiply-adds of a layer are unknown, there are no multiply-adds
            in the graph, or its batch is dynamic.
    """
    if statistics.unknown_shapes or statistics.unknown_macs:
        unknown = listed((*statistics.unknown_shapes, *statistics.unknown_macs))
        raise InputError(
            f"shape or multiply-adds are not known of: {unknown}",
            hint="`edge-inception inspect` shows all; export with fixed sizes but the batch's",
        )
    if not statistics.macs:
        raise InputError(
            "the graph has no Conv, Gemm or MatMul: there is nothing to estimate",
            hint="name a network's ONNX file",
        )
    bounds = (_bound(layer, peaks) for layer in statistics.layers)
    timed = tuple(bound for bound in bounds if bound.seconds)
    return Estimate(batch=batch_size(statistics), layers=timed)


def _bound(layer: Layer, peaks: Peaks) -> LayerBound:
    num_bytes = _num_moved(layer) * peaks.bytes_per_element
    macs = layer.macs or 0
    return LayerBound(
        name=layer.name,
        op=layer.op,
        macs=macs,
        num_bytes=num_bytes,
        compute_s=macs / peaks.macs_per_s,
        memory_s=num_bytes / peaks.bytes_per_s,
    )


def _num_moved(layer: Layer) -> int:
    """Number of elements that a layer reads from memory and writes to it."""
    read, written = layer.num_read or 0, layer.num_written or 0
    if layer.op in _FUSED:
        return 0
    if layer.op in _FUSED_WITH_OPERAND:
        return max(0, read - written)
    return read + written + layer.num_parameters


def memory_need(statistics: Statistics, precision: Precision, *, workspace: int = 0) -> MemoryNeed:
    """Bytes that any engine needs: all weights, and inputs and outputs of the largest layer.

    ``workspace`` is the number of bytes of scratch memory to add.
    """
    size = BYTES_PER_ELEMENT[precision]
    kept = (layer for layer in statistics.layers if layer.op not in _FUSED | _FUSED_WITH_OPERAND)
    largest = max(((layer.num_read or 0) + (layer.num_written or 0) for layer in kept), default=0)
    weights = sum(layer.num_parameters for layer in statistics.layers)
    return MemoryNeed(weights=weights * size, activations=largest * size, workspace=workspace)
