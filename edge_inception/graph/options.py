"""Options of import and simplify, and the provenance of their results.

This module does not import onnx, since a pipeline decides on reuse before it imports onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_inception import stage
from edge_inception.artifact import Graph
from edge_inception.sidecar import Provenance
from edge_inception.spec import ShapeProfile
from edge_inception.stage import Stage

IMPORT = Stage(name="import", tools=("onnx", "onnxruntime"), sources=("graph",))
SIMPLIFY = Stage(name="simplify", tools=("onnx", "onnxsim", "onnxruntime"), sources=("graph",))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Options of the import of an ONNX file that another exporter wrote.

    ``preprocess`` are fields of ``Preprocess``; mean and std must be among them, since an ONNX file
    does not state them. ``num_classes`` is compared with the number of logits; None compares
    nothing. The other fields are as in ``ExportOptions``.
    """

    preprocess: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    classes: tuple[str, ...] = ()
    profile: ShapeProfile = field(default_factory=ShapeProfile)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplifyOptions:
    """Options of the check that the simplified graph computes the same as the original.

    Both graphs run on normally distributed images from ``seed``. ``tolerance`` is the largest
    accepted difference of a logit, as a share of the largest logit; a larger one is accepted only
    where ``parity.MAX_ROUNDING`` explains it by rounding.
    """

    # Both graphs run the same kernels on the same weights; only the head sums in another order,
    # which changes a logit by 1.6e-7 of the largest on the full Inception-v4. Folding a batch norm
    # rounds weights once more, which changes a logit by up to 1.5e-6 of the largest. Source:
    # docs/models.md, "Rounding between implementations".
    tolerance: float = 1e-5
    seed: int = 0


def simplify_provenance(graph: Graph, options: SimplifyOptions) -> Provenance:
    """The provenance that ``simplify`` records for these inputs."""
    return stage.provenance(SIMPLIFY, parents={"graph": graph}, options=options)
