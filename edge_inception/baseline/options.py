"""Options of the two baselines, and what a run with them is recorded as.

A pipeline asks whether a stage can be reused before it imports torch or onnxruntime.
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


def baseline_provenance(checkpoint: Path, images: ImageSet, options: BaselineOptions) -> Provenance:
    """What ``record_baseline`` records for these inputs.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    parents = {"checkpoint": file_sha256(checkpoint), **_rows(images)}
    return stage.provenance(BASELINE, parents=parents, options=options)


def onnx_baseline_provenance(
    graph: Graph, images: ImageSet, options: OnnxBaselineOptions
) -> Provenance:
    """What ``onnx_baseline.record_baseline`` records for these inputs."""
    parents: stage.Parents = {"graph": graph, **_rows(images)}
    return stage.provenance(ONNX_BASELINE, parents=parents, options=options)


def _rows(images: ImageSet) -> dict[str, str]:
    # The set's own digest is order free; the rows of a baseline are in the order of the images.
    order = hashlib.sha256("\n".join(item.sha256 for item in images.items).encode()).hexdigest()
    return {"images": images.sha256, "order": order}
