"""Records of a sidecar, the file ``<artifact>.json``.

Each kind of artifact has its record of details, which inherits the fields of the kind before it in
the build. A field that a stage may leave out has a default, and defaults are not written.
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
"""Size of an axis, or the name of a free axis."""

HeadText = Annotated[str, msgspec.Meta(pattern="^(logits|softmax|embedding|topk:[1-9][0-9]{0,8})$")]
D = TypeVar("D", bound="Details")


class Provenance(Record, frozen=True, kw_only=True):
    """All that decides the content of an artifact; with equal provenance it can be reused.

    ``parents`` maps a role to the sha256 of that input; ``source`` digests the stage's own code.
    """

    stage: str
    parents: Mapping[str, str]
    options: Any
    tools: Mapping[str, str]
    source: str


class Details(SparseRecord, frozen=True, kw_only=True):
    """Facts that later stages need.

    ``beside`` maps a suffix such as ``.npz`` to the sha256 of the file beside the artifact.
    """

    beside: Mapping[str, Sha256] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, parent: Details, **facts: Any) -> Self:
        """A record with the fields of ``parent``, replaced or extended by ``facts``."""
        return cls(**{**msgspec.structs.asdict(parent), **facts})

    @classmethod
    def kind_of(cls, unread: Mapping[str, Any]) -> type[Details]:
        """The class to read the plain values ``unread`` of a file into."""
        del unread
        return cls


class Sidecar(Provenance, frozen=True, kw_only=True):
    """A whole sidecar; ``details`` stay plain until their kind is known."""

    schema: Literal[1]
    kind: Annotated[str, msgspec.Meta(min_length=1)]
    sha256: Sha256
    counts: Mapping[str, Count]
    details: dict[str, Any]


class ModelDetails(Details, frozen=True, kw_only=True):
    """Facts about a model: its classes, its checkpoint, and its preprocessing.

    ``model`` is a name of the registry, or that of the file where the graph was imported.
    ``num_classes`` is 0 of an embedding; ``classes`` are names by logit index, or none.
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
    checkpoint, and ``error_of_pytorchs``, see ``export``. An imported graph has ``source_opset``,
    and ``cut_head``, the name of the head that was cut off or "".
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
        """The head, which decides the outputs of the graph."""
        return Head.of(self.head_text)


class QatFigures(SparseRecord, frozen=True, kw_only=True):
    """Accuracy on held-out images; the float graph has no ``agreement`` (0..1) and no SQNR."""

    accuracy: float
    balanced_accuracy: float
    auroc: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None


class QatDetails(Record, frozen=True, kw_only=True):
    """Gain of fine-tuning: figures of the float graph, and of the int8 graph before and after."""

    float32: QatFigures
    before: QatFigures
    after: QatFigures


class SimplifiedDetails(GraphDetails, frozen=True, kw_only=True):
    """Details of a simplified graph.

    ``nodes_before`` counts nodes by operator; ``simplify_difference`` is the largest difference of
    the logits from those of the exported graph.
    """

    nodes_before: Mapping[str, Count]
    simplify_difference: float
    qat: QatDetails | None = None


class TypedDetails(SimplifiedDetails, frozen=True, kw_only=True):
    """Details of a typed graph, from which compile and the engines read it without onnx.

    ``float_layers`` names the layers with weights that an int8 graph leaves in float.
    """

    precision: Precision
    typing: Literal["strong", "weak", "implicit"]
    float_rest: Literal["fp16", "fp32"]
    output_shape: Annotated[tuple[TensorSize, ...], msgspec.Meta(min_length=2)]
    float_layers: tuple[str, ...] = ()


class EngineDetails(TypedDetails, frozen=True, kw_only=True):
    """Details of an engine.

    ``tied_to`` are the library and hardware versions it depends on, ``batch`` the sizes it takes.
    """

    backend: str
    tied_to: Mapping[str, str]
    float_precision: str
    batch: ShapeProfile

    @classmethod
    def kind_of(cls, unread: Mapping[str, Any]) -> type[Details]:
        """The class of the backend, since libraries report different facts on their engines."""
        return _OF_BACKEND.get(str(unread.get("backend")), cls)


class BlobDetails(EngineDetails, frozen=True, kw_only=True):
    """Details of an OpenVINO engine: layers by type and precision, kernels by name.

    ``weighted_layers`` counts convolutions and matrix products, ``int8_layers`` those of them in
    int8; the three counts of activations say how they became int8.
    """

    executed_layers: Mapping[str, Mapping[str, Count]]
    kernels: Mapping[str, Count]
    weighted_layers: Count
    int8_layers: Count
    unsigned_activations: Count
    split_activations: Count
    float_activations: Count


class PlanDetails(EngineDetails, frozen=True, kw_only=True):
    """Details of a TensorRT engine: layers as in ``_inspection.describe_layers``, and the options.

    ``graph`` is the file name of the typed graph; ``equivalent_command`` that of NVIDIA's own tool.
    ``activation_bytes`` is negative where the library leaves a batch free, as -1 images.
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


class TrialDetails(Details, frozen=True, kw_only=True):
    """Results of the trial of the calibrator ``auto``; all SQNR are in dB.

    ``tried_sqnr_db`` is by calibrator. Bias correction is judged on ``bias_images`` images, and not
    judged where they are too few.
    """

    tried_sqnr_db: Mapping[str, float] = msgspec.field(default_factory=dict)
    bias_images: Count | None = None
    uncorrected_sqnr_db: float | None = None
    corrected_sqnr_db: float | None = None
    bias_correction_helps: bool | None = None


class RangeTableDetails(TrialDetails, frozen=True, kw_only=True):
    """Details of a range table.

    ``engine`` observed the images of the table; ``not_in_graph`` are tensors of an imported cache
    that the graph does not have.
    """

    engine: StreamEngine | None = None
    not_in_graph: tuple[str, ...] | None = None


class SearchDetails(Details, frozen=True, kw_only=True):
    """Groups to keep in float, and whether the budget is met with them."""

    keep: tuple[str, ...]
    is_met: bool


class CacheDetails(Details, frozen=True, kw_only=True):
    """Details of a calibration cache.

    ``tensorrt`` is the version that reads it, ``header`` its first line; ``unscaled`` are tensors
    without a scale.
    """

    tensorrt: str
    header: str
    unscaled: tuple[str, ...]


class BaselineDetails(ModelDetails, frozen=True, kw_only=True):
    """Details of a baseline: ``set`` names the images; ``library`` is empty for PyTorch."""

    set: str
    library: str = ""


class ReportDetails(Details, frozen=True, kw_only=True):
    """Details of a report: its verdict."""

    status: Literal["PASSED", "FAILED", "INCONCLUSIVE"]
