"""The stage ``ends``: it puts preprocessing before an imported graph and a head after it.

The preprocessing is the normalisation of uint8 pixels; the head is a softmax or a top-k.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from msgspec.structs import replace

from edge_inception import artifact
from edge_inception.artifact import Graph
from edge_inception.export import interface
from edge_inception.export.options import EndsOptions, ends_provenance
from edge_inception.graph import check


def give_ends(graph: Graph, options: EndsOptions, out: Path) -> Graph:
    """Write a copy of an imported graph with the preprocessing and head that ``options`` ask for.

    Args:
        graph: A graph that ``import_graph`` wrote.
        options: Preprocessing and head; the default options add no node.
        out: Path of the .onnx file.

    Raises:
        InputError: The graph cannot be read, the head asks for more classes than the graph has, or
            the graph's outputs from uint8 pixels are not exactly those from normalised floats.
    """
    model = check.load_graph(graph.path)
    facts = graph.details
    preprocess = replace(facts.preprocess, element=options.element, layout=options.layout)
    interface.require_k(options.head, facts.num_classes)
    interface.add_ends(model, preprocess, options.head)
    content: bytes = model.SerializeToString(deterministic=True)
    return artifact.publish(
        Graph,
        out,
        content,
        provenance=ends_provenance(graph, options),
        counts=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        details=replace(
            facts,
            preprocess=preprocess,
            head_text=str(options.head),
            output=options.head.outputs[0],
            input_shape=(facts.input_shape[0], *preprocess.image_shape),
        ),
    )
