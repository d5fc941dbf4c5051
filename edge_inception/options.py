"""Options of export, simplify and baseline, and what a run with them is recorded as.

Words only: a pipeline asks whether a stage can be reused before it imports torch or
onnx.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_inception import stage
from edge_inception.artifact import Graph, Provenance, file_sha256
from edge_inception.imageset import ImageSet
from edge_inception.spec import Head, ShapeProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is exported.

    ``preprocess`` and ``model_options`` are what is asked for on top of the checkpoint family's
    own, such as ``{"crop_fraction": 1.0}``; ``checkpoint_format`` names the family. ``element``
    uint8 in ``preprocess`` puts the normalisation into the graph. ``num_classes`` None is what the
    checkpoint's head has. ``classes`` are names by logit index, empty when unknown. ``profile`` min
    = max is a static batch of that size.
    """

    model: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_format: str = "auto"
    num_classes: int | None = None
    classes: tuple[str, ...] = ()
    profile: ShapeProfile = field(default_factory=ShapeProfile)
    head: Head = field(default_factory=Head)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How a foreign ONNX file is imported.

    ``preprocess`` are fields of ``Preprocess``; mean and std must be among them, since the file
    does not say. The others are as in ``ExportOptions``.
    """

    preprocess: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    classes: tuple[str, ...] = ()
    profile: ShapeProfile = field(default_factory=ShapeProfile)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplifyOptions:
    """How simplify proves that it changed nothing.

    Both graphs run on seeded normal images. ``tolerance`` is the largest accepted difference of a
    logit, as a share of the largest logit.
    """

    # Both run the same kernels on the same weights, only the head sums in another order: 1.6e-7 of
    # the largest logit on the full Inception-v4. A batch norm folded here rounds weights once more:
    # up to 1.5e-6: docs/models.md, "Rounding between implementations".
    tolerance: float = 1e-5
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions:
    """How the baseline is recorded: PyTorch in float32, ``threads`` 0 = all the process may use.

    ``preprocess``, ``model_options`` and ``checkpoint_format`` are as in ``ExportOptions``.
    """

    model: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_format: str = "auto"
    num_classes: int | None = None
    batch: int = 8
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxBaselineOptions:
    """How the baseline of an imported graph is recorded, in onnxruntime at float32."""

    batch: int = 8
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsOptions:
    """What an imported graph takes and answers: pixels where ``element`` is uint8, and the head."""

    element: str = "float32"
    layout: str = "NCHW"
    head: Head = field(default_factory=Head)


def export_provenance(checkpoint: Path, options: ExportOptions) -> Provenance:
    """What ``export`` records for these inputs.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    parents = {"checkpoint": file_sha256(checkpoint)}
    return stage.provenance("export", parents=parents, options=options)


def simplify_provenance(graph: Graph, options: SimplifyOptions) -> Provenance:
    """What ``simplify`` records for these inputs."""
    return stage.provenance("simplify", parents={"graph": graph}, options=options)


def baseline_provenance(checkpoint: Path, images: ImageSet, options: BaselineOptions) -> Provenance:
    """What ``record_baseline`` records for these inputs.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    parents = {"checkpoint": file_sha256(checkpoint), **_rows(images)}
    return stage.provenance("baseline", parents=parents, options=options)


def onnx_baseline_provenance(
    graph: Graph, images: ImageSet, options: OnnxBaselineOptions
) -> Provenance:
    """What ``onnx_baseline.record_baseline`` records for these inputs."""
    parents: stage.Parents = {"graph": graph, **_rows(images)}
    return stage.provenance("onnx_baseline", parents=parents, options=options)


def _rows(images: ImageSet) -> dict[str, str]:
    # The set's own digest is order free; the rows of a baseline are in the order of the images.
    order = hashlib.sha256("\n".join(item.sha256 for item in images.items).encode()).hexdigest()
    return {"images": images.sha256, "order": order}


def ends_provenance(graph: Graph, options: EndsOptions) -> Provenance:
    """What ``ends.give_ends`` records for these inputs."""
    return stage.provenance("ends", parents={"graph": graph}, options=options)
