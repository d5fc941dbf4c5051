"""Options and provenance of the stages ``export`` and ``ends``.

This module imports neither torch nor onnx, since a pipeline needs it to decide on reuse.
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
        *("export/export.py", "export/interface.py", "export/options.py"),
        *("graph/check.py", "graph/parity.py", "checkpoints", "models", "data"),
    ),
)
ENDS = Stage(
    name="ends",
    tools=("onnx", "onnxruntime", "numpy"),
    sources=("export/ends.py", "export/interface.py", "export/options.py", "graph", "data"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of ``export``.

    ``preprocess`` and ``model_options`` replace values of the checkpoint's family, such as
    ``{"crop_fraction": 1.0}``; ``checkpoint_format`` names the family. ``element`` uint8 in
    ``preprocess`` puts the normalisation into the graph. ``num_classes`` None takes the number of
    the checkpoint's head. ``classes`` are names by logit index, empty when unknown. A ``profile``
    with min = max is a static batch of that size.
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
    """Options of ``ends``: the graph takes pixels where ``element`` is uint8; its head."""

    element: str = "float32"
    layout: str = "NCHW"
    head: Head = field(default_factory=Head)


def export_provenance(checkpoint: Path, options: ExportOptions) -> Provenance:
    """The provenance that ``export`` records for these inputs.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    parents = {"checkpoint": file_sha256(checkpoint)}
    return stage.provenance(EXPORT, parents=parents, options=options)


def ends_provenance(graph: Graph, options: EndsOptions) -> Provenance:
    """The provenance that ``ends.give_ends`` records for these inputs."""
    return stage.provenance(ENDS, parents={"graph": graph}, options=options)
