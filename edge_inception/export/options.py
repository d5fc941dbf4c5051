"""Options and provenance of the stages ``export`` and ``interface``.

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
INTERFACE = Stage(
    name="interface",
    tools=("onnx", "onnxruntime", "numpy"),
    sources=("export/interface.py", "export/options.py", "graph", "data"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of ``export``.

    ``preprocess`` and ``model_options`` replace defaults of the checkpoint's family, such as
    ``{"crop_fraction": 1.0}``; ``checkpoint_format`` names the family. With ``element`` uint8 in
    ``preprocess``, the graph normalises the pixels. ``num_classes`` None means the number in the
    checkpoint. ``classes`` are names by logit index, empty when unknown. ``profile`` is the range
    of batch sizes; min = max makes the batch static.
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
class InterfaceOptions:
    """Options of ``interface``: the head to add, and ``element`` type and ``layout`` of the input.

    With ``element`` uint8 the graph takes pixels and normalises them.
    """

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


def interface_provenance(graph: Graph, options: InterfaceOptions) -> Provenance:
    """The provenance that ``interface.add_interface`` records for these inputs."""
    return stage.provenance(INTERFACE, parents={"graph": graph}, options=options)
