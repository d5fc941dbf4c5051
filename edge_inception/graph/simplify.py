"""Graph -> simplified graph: the stage ``simplify``."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxsim

from edge_inception import artifact
from edge_inception._version import __version__
from edge_inception.artifact import Graph, SimplifiedGraph
from edge_inception.errors import InputError
from edge_inception.graph import check, opset_checks, parity
from edge_inception.graph.options import SimplifyOptions, simplify_provenance
from edge_inception.graph.passes import (
    fold_affine,
    fold_input_affine,
    fold_pad,
    join_channels,
    matmul_to_gemm,
    name_tensors,
    plain_windows,
    pool_head,
    remove_identity,
    remove_unused,
    spell_norm,
    sum_to_add,
)
from edge_inception.graph.passes._contract import run_passes
from edge_inception.sidecar import SimplifiedDetails

__all__ = ["PASSES", "SimplifyOptions", "simplify", "simplify_model"]

OPSET, IR_VERSION = 18, 8  # the IR version that came with opset 18: onnx/docs/Versioning.md
# Accepted difference, in units of ``parity.rounding``: measured were 0.7 to 1.1 of them.
MAX_ROUNDING = 4.0
MAX_ROUNDS = 10  # each round removes a node or names one; more means that two passes fight

PASSES = (
    remove_identity.PASS,  # first: a Dropout between Conv and norm would hide the pair
    plain_windows.PASS,  # sizes of windows as plain numbers, for the passes that read them
    sum_to_add.PASS,
    matmul_to_gemm.PASS,  # before fold_affine, which then takes in the bias
    join_channels.PASS,  # before fold_input_affine, which reads what it writes
    fold_pad.PASS,  # before fold_input_affine, which asks whether the stem is padded
    fold_affine.PASS,  # leaves weights of the norm behind
    spell_norm.PASS,  # after fold_affine: norms that no convolution took in
    fold_input_affine.PASS,
    pool_head.PASS,  # leaves the axes of the mean behind
    remove_unused.PASS,  # takes what the passes before left
    name_tensors.PASS,  # last: names only what stays
)


def simplify(graph: Graph, options: SimplifyOptions, out: Path) -> SimplifiedGraph:
    """A graph of the same function with fewer nodes, which means the same in opsets 13 to 21.

    Args:
        graph: The graph of export or import.
        options: How it is checked that both graphs compute the same.
        out: Path of the .onnx file.

    Raises:
        InputError: Not an image classifier in plain ONNX, NaN or infinite weights, an op that is
            not portable, or logits that differ from those of ``graph``.
    """
    original = check.load_graph(graph.path)
    check.require_plain_opset(original)
    check.require_image_classifier(original)
    check.require_finite(original)
    simplified = simplify_model(original)
    check.require_finite(simplified)
    difference = parity.largest_difference(original, simplified, seed=options.seed)
    allowed = options.tolerance
    if difference > allowed:  # rounding may explain it; measuring that costs another run
        allowed = MAX_ROUNDING * parity.rounding(original, seed=options.seed)
    parity.require(difference, max(allowed, options.tolerance))
    content: bytes = simplified.SerializeToString(deterministic=True)
    before, after = check.node_counts(original), check.node_counts(simplified)
    return artifact.publish(
        SimplifiedGraph,
        out,
        content,
        provenance=simplify_provenance(graph, options),
        counts={
            "num_nodes_before": sum(before.values()),
            "num_nodes": sum(after.values()),
            **after,
        },
        details=SimplifiedDetails.of(
            graph.details, opset=OPSET, nodes_before=before, simplify_difference=difference
        ),
    )


def simplify_model(original: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, simplified by onnxsim and then by ``PASSES`` until none changes anything.

    Raises:
        InputError: onnxsim or the checker refuses the graph, or an op is not portable.
    """
    model = _onnxsim(original)
    number = 1
    while run_passes(PASSES, model, round_number=number):
        assert number < MAX_ROUNDS, "two passes undo each other"
        number += 1
    opset_checks.require_portable(model)
    _stamp(model)
    model = _with_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _onnxsim(original: onnx.ModelProto) -> onnx.ModelProto:
    """A copy simplified by onnxsim, with shapes; its own check is off, since ours comes later."""
    try:
        model, _ = onnxsim.simplify(original, check_n=0)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"onnxsim refuses the graph: {error}", hint="check it with onnx.checker"
        ) from error
    assert isinstance(model, onnx.ModelProto)
    return model


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the shape of every tensor; a free batch keeps its name."""
    del model.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise InputError(
            f"shapes of the graph do not fit: {error}", hint="export the model again"
        ) from error


def _stamp(model: onnx.ModelProto) -> None:
    """Set opset, IR version and producer, and drop all metadata that depends on the run."""
    check.set_opset(model, OPSET)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edge-inception", __version__
    model.ClearField("domain")
    model.ClearField("model_version")
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (model, graph, *graph.node, *values):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    graph.name = "graph"
