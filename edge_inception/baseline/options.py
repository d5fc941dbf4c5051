"""Options and provenance of the two baselines, by PyTorch and by onnxruntime.

This module imports neither library: a pipeline reads it to decide whether to reuse a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_inception import stage
from edge_inception.artifact import Graph, file_sha256
from edge_inception.data.imageset import ImageSet
from edge_inception.sidecar import Provenance
from edge_inception.stage import Stage

BASELINE = Stage(
    name="baseline",
    tools=("torch", "numpy", "Pillow"),
    sources=(
        *("baseline/pytorch.py", "baseline/record.py", "baseline/options.py"),
        *("checkpoints", "models", "data", "engines/_backend.py"),
    ),
)
ONNX_BASELINE = Stage(
    name="onnx_baseline",
    tools=("onnxruntime", "numpy", "Pillow"),
    sources=(
        *("baseline/onnx.py", "baseline/record.py", "baseline/options.py"),
        *("engines", "data"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions:
    """Options of a baseline by PyTorch in float32; ``batch`` is the number of images per run.

    ``threads`` 0 means all cores that the process may use. The other fields are as in
    ``ExportOptions``.
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
    """Options of a float32 baseline by onnxruntime; the fields are as in ``BaselineOptions``."""

    batch: int = 8
    threads: int = 0


def baseline_provenance(checkpoint: Path, images: ImageSet, options: BaselineOptions) -> Provenance:
    """The provenance that ``pytorch.record_baseline`` records for these inputs.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    parents = {"checkpoint": file_sha256(checkpoint), **_image_parents(images)}
    return stage.provenance(BASELINE, parents=parents, options=options)


def onnx_baseline_provenance(
    graph: Graph, images: ImageSet, options: OnnxBaselineOptions
) -> Provenance:
    """The provenance that ``onnx.record_baseline`` records for these inputs."""
    parents: stage.Parents = {"graph": graph, **_image_parents(images)}
    return stage.provenance(ONNX_BASELINE, parents=parents, options=options)


def _image_parents(images: ImageSet) -> dict[str, str]:
    # The rows of a baseline follow the order of the images, which the set's own hash ignores.
    order = hashlib.sha256("\n".join(item.sha256 for item in images.items).encode()).hexdigest()
    return {"images": images.sha256, "order": order}
