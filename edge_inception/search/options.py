"""Options of the search for groups that stay float, and the provenance of its result."""

from __future__ import annotations

from dataclasses import dataclass

from edge_inception import stage
from edge_inception.artifact import RangeTable, SimplifiedGraph
from edge_inception.data.imageset import ImageSet
from edge_inception.quant.options import QuantizeOptions
from edge_inception.sidecar import Provenance
from edge_inception.spec import Budget
from edge_inception.stage import Stage

SEARCH = Stage(
    name="search",
    tools=("onnx", "openvino", "numpy", "Pillow"),
    sources=("search", "quant", "graph", "engines", "device/outputs.py", "data"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Choices of one search for the groups that stay float.

    ``quantize`` describes the int8 graph; its ``keep`` names the groups that stay float in any
    case. ``max_images`` is the largest number of images that score a graph, ``batch`` the number of
    images per forward pass. ``threads`` 0 means all cores the process may use.
    """

    budget: Budget
    quantize: QuantizeOptions
    max_images: int = 512
    batch: int = 8
    threads: int = 0


def search_provenance(
    graph: SimplifiedGraph, ranges: RangeTable, images: ImageSet, options: SearchOptions
) -> Provenance:
    """The provenance that ``scoring.search_precision`` records for these inputs."""
    parents: stage.Parents = {"graph": graph, "ranges": ranges, "images": images.sha256}
    return stage.provenance(SEARCH, parents=parents, options=options)
