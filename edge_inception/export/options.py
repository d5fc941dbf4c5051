"""Options of export, simplify and baseline, and what a run with them is recorded as.

Words only: a pipeline asks whether a stage can be reused before it imports torch or
onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_inception import stage
from edge_inception.artifact import Graph, file_sha256
from edge_inception.sidecar import Provenance
from edge_inception.spec import Head, ShapeProfile
from edge_inception.stage import Stage

EXPORT = Stage(
    name="export",
    tools=("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors"),
    sources=(
        *(
            "export/export.py",
            "export/interface.py",
            "export/options.py",
            "graph/check.py",
            "graph/parity.py",
        ),
        *("checkpoints", "models", "data"),
    ),
)
ENDS = Stage(
    name="ends",
    tools=("onnx", "onnxruntime", "numpy"),
    sources=("export/ends.py", "export/interface.py", "export/options.py", "graph", "data"),
)


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
    return stage.provenance(EXPORT, parents=parents, options=options)


def ends_provenance(graph: Graph, options: EndsOptions) -> Provenance:
    """What ``ends.give_ends`` records for these inputs."""
    return stage.provenance(ENDS, parents={"graph": graph}, options=options)
