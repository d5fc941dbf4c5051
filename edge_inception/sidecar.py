"""Records of a sidecar, the file ``<artifact>.json`` beside an artifact.

Each kind of artifact has a record of its details, which inherits the fields of the kind before it
in the build. A field that a stage may leave out has a default, and defaults are not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from edge_inception.records import Count, Positive, Record, Sha256, SparseRecord
from edge_inception.spec import Head, Options, Precision, Preprocess, ShapeProfile

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

SCHEMA = 1

TensorSize = int | str
"""Size of an axis, or the name of an axis whose size is free."""

HeadText = Annotated[str, msgspec.Meta(pattern="^(logits|softmax|embedding|topk:[1-9][0-9]{0,8})$")]
D = TypeVar("D", bound="Details")


class Provenance(Record, frozen=True, kw_only=True):
    """All that decides the content of an artifact; with equal provenance it can be reused.

    ``parents`` maps the role of each input to its sha256, ``tools`` a distribution to its version;
    ``source`` is the sha256 of the stage's own code.
    """

    stage: str
    parents: Mapping[str, str]
    options: Any
    tools: Mapping[str, str]
    source: str


class Details(SparseRecord, frozen=True, kw_only=True):
    """Facts that later stages need.

    ``beside`` maps a suffix, such as ``.npz``, to the sha256 of the artifact's second file.
    """

    beside: Mapping[str, Sha256] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, parent: Details, **facts: Any) -> Self:
        """A record with the fields of ``parent``, replaced or extended by ``facts``."""
        return cls(**{**msgspec.structs.asdict(parent), **facts})

    @classmethod
    def kind_of(cls, unread: Mapping[str, Any]) -> type[Details]:
        """The record class for the details ``unread``, plain values from a file."""
        del unread
        return cls


class Sidecar(Provenance, frozen=True, kw_only=True):
    """A whole sidecar; ``details`` stay plain values until their record class is known."""

    schema: Literal[1]
    kind: Annotated[str, msgspec.Meta(min_length=1)]
    sha256: Sha256
    counts: Mapping[str, Count]
    details: dict[str, Any]


class ModelDetails(Details, frozen=True, kw_only=True):
    """Facts about a model: its classes, its checkpoint, and its preprocessing.

    ``model`` is a name of the registry, or the name of the file that the graph was imported from.
    ``num_classes`` is 0 for an embedding; ``classes`` are names in logit order, empty if unknown.
    """

    model: str
    num_classes: Count
    classes: tuple[str, ...]
    preprocess: Preprocess
    checkpoint_family: str = ""
    checkpoint_notes: tuple[str, ...] | None = None


class GraphDetails(ModelDetails, frozen=True, kw_only=True):
    """Details of a graph; ``input_shape`` is [N, ...], ``profile`` the batch sizes of its engines.

    An exported graph has ``checkpoint_types``, the number of tensors of each type in its
    checkpoint, and ``error_of_pytorchs``, the error of its logits as a multiple of the error that
    PyTorch's float32 makes. An imported graph has ``source_opset``, its opset before the import,
    and ``cut_head``, the name of the head that was cut off, or "" where none was.
    """

    model_options: Options
    profile: ShapeProfile
    head_text: HeadText = msgspec.field(name="head")
    input: str
    output: str
    input_shape: tuple[TensorSize, Positive, Positive, Positive]
    opset: Positive
    checkpoint_types: Mapping[str, Count] = msgspec.field(default_factory=dict)
    error_of_pytorchs: float | None = None
    source_opset: Positive | None = None
    cut_head: str | None = None

    @property
    def head(self) -> Head:
        """The head: the last part of the graph, which decides its outputs."""
        return Head.of(self.head_text)


class QatFigures(SparseRecord, frozen=True, kw_only=True):
    """Figures on held-out images, 0..1 and dB; the float graph has no ``agreement`` and no SQNR."""

    accuracy: float
    balanced_accuracy: float
    auroc: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None


class QatDetails(Record, frozen=True, kw_only=True):
    """Figures of the float graph, and of the int8 graph before and after fine-tuning (QAT)."""

    float32: QatFigures
    before: QatFigures
    after: QatFigures


class SimplifiedDetails(GraphDetails, frozen=True, kw_only=True):
    """Details of a simplified graph.

    ``nodes_before`` counts the graph's nodes before simplification by operator;
    ``simplify_difference`` is the largest difference between the logits before and after.
    """

    nodes_before: Mapping[str, Count]
    simplify_difference: float
    qat: QatDetails | None = None


class TypedDetails(SimplifiedDetails, frozen=True, kw_only=True):
    """Details of a typed graph, in which the precision of every tensor is explicit.

    compile and the engines read these details, so that they need no onnx. ``float_rest`` is the
    precision of what int8 leaves in float; ``float_layers`` names such layers that have weights.
    """

    precision: Precision
    typing: Literal["strong", "weak", "implicit", "cpu"]
    float_rest: Literal["fp16", "fp32"]
    output_shape: Annotated[tuple[TensorSize, ...], msgspec.Meta(min_length=2)]
    float_layers: tuple[str, ...] = ()


class EngineDetails(TypedDetails, frozen=True, kw_only=True):
    """Details of an engine.

    ``tied_to`` are the library and hardware versions that the engine depends on, ``batch`` the
    batch sizes that it takes, ``float_precision`` the precision of its float arithmetic.
    """

    backend: str
    tied_to: Mapping[str, str]
    float_precision: str
    batch: ShapeProfile

    @classmethod
    def kind_of(cls, unread: Mapping[str, Any]) -> type[Details]:
        """The record class of the engine's backend, since each library reports other facts."""
        return _OF_BACKEND.get(str(unread.get("backend")), cls)


class BlobDetails(EngineDetails, frozen=True, kw_only=True):
    """Details of an OpenVINO engine: layers by type and precision, kernels by name.

    ``weighted_layers`` counts convolutions and matrix products, ``int8_layers`` those that run in
    int8. The four fields of activations count Q/DQ pairs that became unsigned, that got zero point
    128, that were split, and that stay in float; ``limited_layers`` counts layers whose weights
    were limited. ``sums_saturate`` is whether the sums of int8 products saturate on the CPU that
    the engine is for; older files do not record it.
    """

    executed_layers: Mapping[str, Mapping[str, Count]]
    kernels: Mapping[str, Count]
    weighted_layers: Count
    int8_layers: Count
    unsigned_activations: Count
    split_activations: Count
    float_activations: Count
    offset_activations: Count = 0
    limited_layers: Count = 0
    sums_saturate: bool | None = None


class PlanDetails(EngineDetails, frozen=True, kw_only=True):
    """Details of a TensorRT engine: its layers, its memory and the options it was compiled with.

    ``_inspection.describe_layers`` explains the figures on layers; ``float_kernels`` is a number
    here. ``graph`` is the file name of the typed graph, ``equivalent_command`` the command of
    NVIDIA's own tool that compiles the same engine. ``activation_bytes`` is for one image where the
    batch is dynamic; in files of edge-inception before that rule it may be negative.
    """

    layers: Mapping[str, Mapping[str, Count]]
    precisions: Mapping[str, Count]
    int8_layers: Count
    convolutions: Mapping[str, Count]
    float_kernels: Count
    reformat_layers: Count
    num_kernels: Count
    activation_bytes: int
    dla_islands: Count
    weight_bytes: Mapping[str, Count]
    total_weight_bytes: Count
    padding_bytes: Count
    layers_from: str
    weights_memory_bytes: Count | None
    compute_capabilities: tuple[str, ...] | Literal["library default"]
    dla_core: Count | None
    version_compatible: bool
    hardware_compatible: str
    strip_weights: bool
    graph: str
    equivalent_command: str
    fallbacks: tuple[str, ...]
    warnings: tuple[str, ...]


_OF_BACKEND: Mapping[str, type[EngineDetails]] = {
    "openvino": BlobDetails,
    "tensorrt": PlanDetails,
    "tensorrt_rtx": PlanDetails,
}


class StreamEngine(Record, frozen=True, kw_only=True):
    """The engine that observed the activations: its float precision and its threads."""

    precision: str
    threads: Positive


class TriedGraph(Record, frozen=True, kw_only=True):
    """An int8 graph of the trial, by its choices, and the SQNR of its logits in dB.

    ``sqnr_db`` is taken over all of its ``num_images``, ``median_sqnr_db`` over single images.
    ``float_share`` is the share of multiply-adds, 0..1, that the graph computes in float.
    """

    calibrator: str
    placement: str
    typing: str = "strong"
    fold_zero_points: bool
    bias_correction: bool
    float_share: float
    num_images: Count
    sqnr_db: float
    median_sqnr_db: float


class TrialDetails(Details, frozen=True, kw_only=True):
    """Results of the trial of whole int8 graphs: all graphs in order, and the one that was chosen.

    ``num_rounded`` counts the weights that were rounded by second order.
    """

    tried: tuple[TriedGraph, ...] = ()
    chosen: TriedGraph | None = None
    num_rounded: Count = 0


class RangeTableDetails(TrialDetails, frozen=True, kw_only=True):
    """Details of a range table.

    ``engine`` observed the activations on the calibration images; ``not_in_graph`` are tensors of
    an imported calibration cache that the graph does not have.
    """

    engine: StreamEngine | None = None
    not_in_graph: tuple[str, ...] | None = None


class SearchDetails(Details, frozen=True, kw_only=True):
    """The groups to keep in float, and whether the budget of the top-1 drop is met with them.

    A group is the tensors that share a scale, with the layers that read them.
    """

    keep: tuple[str, ...]
    is_met: bool


class CacheDetails(Details, frozen=True, kw_only=True):
    """Details of a calibration cache.

    ``tensorrt`` is the TensorRT version that reads the cache, ``header`` the first line of the
    cache; ``unscaled`` are tensors without a scale.
    """

    tensorrt: str
    header: str
    unscaled: tuple[str, ...]


class BaselineDetails(ModelDetails, frozen=True, kw_only=True):
    """Details of a baseline: ``set`` names its images, ``library`` what ran it (empty: PyTorch)."""

    set: str
    library: str = ""


class ReportDetails(Details, frozen=True, kw_only=True):
    """Details of a report: its verdict."""

    status: Literal["PASSED", "FAILED", "INCONCLUSIVE"]
