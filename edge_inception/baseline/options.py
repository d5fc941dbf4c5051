"""Options and provenance of the two baselines.

This module imports neither torch nor onnxruntime, since a pipeline needs it to decide on reuse.
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
        *("checkpoints", "models", "data"),
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
    """Options of a baseline by PyTorch in float32; ``threads`` 0 means all the process may use.

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
    """Options of a baseline of an imported graph by onnxruntime in float32."""

    batch: int = 8
    threads: int = 0


def baseline_provenance(checkpoint: Path, images: ImageSet, options: BaselineOptions) -> Provenance:
    """The provenance that ``pytorch.record_baseline`` records for these inputs.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    parents = {"checkpoint": file_sha256(checkpoint), **_rows(images)}
    return stage.provenance(BASELINE, parents=parents, options=options)


def onnx_baseline_provenance(
    graph: Graph, images: ImageSet, options: OnnxBaselineOptions
) -> Provenance:
    """The provenance that ``onnx.record_baseline`` records for these inputs."""
    parents: stage.Parents = {"graph": graph, **_rows(images)}
    return stage.provenance(ONNX_BASELINE, parents=parents, options=options)


def _rows(images: ImageSet) -> dict[str, str]:
    # The digest of a set ignores its order, in which the rows of a baseline are.
    order = hashlib.sha256("\n".join(item.sha256 for item in images.items).encode()).hexdigest()
    return {"images": images.sha256, "order": order}
