"""The stage ``simplify``: a graph of the same function with fewer nodes."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import onnx

from edge_inception import artifact
from edge_inception._version import __version__
from edge_inception.artifact import Graph, SimplifiedGraph
from edge_inception.errors import InputError
from edge_inception.graph import check, opsets, parity
from edge_inception.graph.opsets import OPSET
from edge_inception.graph.options import SimplifyOptions, simplify_provenance
from edge_inception.graph.passes import (
    explicit_padding,
    fold_affine,
    fold_input_affine,
    fold_pad,
    join_channels,
    join_reshapes,
    matmul_to_gemm,
    name_tensors,
    norm_to_affine,
    plain_reshape,
    pool_behind_conv,
    pool_head,
    remove_identity,
    remove_unused,
    sum_to_add,
)
from edge_inception.graph.passes._contract import run_passes
from edge_inception.graph.support_checks import opset_of
from edge_inception.sidecar import SimplifiedDetails

__all__ = ["PASSES", "SimplifyOptions", "simplify", "simplify_model"]

IR_VERSION = 8  # the one that came with opset 18: onnx/docs/Versioning.md
MAX_ROUNDS = 10  # rounds of all passes; more would mean that two passes undo each other

PASSES = (
    remove_identity.PASS,  # first: a Dropout between Conv and norm would prevent folding
    explicit_padding.PASS,  # before the passes that read pads as numbers
    plain_reshape.PASS,
    sum_to_add.PASS,
    matmul_to_gemm.PASS,  # before fold_affine, which folds the bias into the Gemm
    join_reshapes.PASS,  # after matmul_to_gemm: its Reshapes meet those of the network
    join_channels.PASS,  # before fold_input_affine, which folds the Mul and Add of this pass
    fold_pad.PASS,  # before fold_input_affine, which asks whether the first Conv is padded
    fold_affine.PASS,  # leaves unused weights of norms
    norm_to_affine.PASS,  # after fold_affine: for norms that no convolution took in
    fold_input_affine.PASS,
    pool_behind_conv.PASS,  # after fold_affine: a norm would stand between both
    pool_head.PASS,  # leaves the unused axes of a ReduceMean
    remove_unused.PASS,  # removes what the passes above left unused
    name_tensors.PASS,  # last: names only the nodes that stay
)


def simplify(graph: Graph, options: SimplifyOptions, out: Path) -> SimplifiedGraph:
    """A graph of the same function with fewer nodes, in opset 18.

    ``options`` are those of the check that both graphs compute the same.

    Raises:
        InputError: ``graph`` is no image classifier in plain ONNX, weights are NaN or infinite, or
            the logits differ from ``graph``'s.
    """
    original = check.load_graph(graph.path)
    check.require_plain_opset(original)
    check.require_image_classifier(original)
    check.require_finite(original)
    simplified = simplify_model(original)
    check.require_finite(simplified)
    difference = parity.largest_difference(original, simplified, seed=options.seed)
    allowed = options.tolerance
    if difference > allowed:  # rounding may explain the difference; measuring it takes two runs
        allowed = parity.MAX_ROUNDING * parity.rounding_difference(original, seed=options.seed)
    parity.require_tolerance(difference, max(allowed, options.tolerance))
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
    """A copy, simplified by onnxsim and then by rounds of ``PASSES`` until nothing changes.

    Raises:
        InputError: A node cannot be written in opset 18, onnxsim refuses the graph, or the result
            is not valid.
    """
    model = original
    if opset_of(original) != OPSET:
        model = copy.deepcopy(original)
        opsets.convert(model, OPSET)
    model = _run_onnxsim(model)
    number = 1
    while run_passes(PASSES, model, round_number=number):
        assert number < MAX_ROUNDS, "two passes undo each other"
        number += 1
    _stamp(model)
    return _with_shapes(model)


def _import_onnxsim() -> Any:
    """Import onnxsim without torch, which only its other tools need: 0.6 s instead of 3 s."""
    if "torch" in sys.modules:
        return importlib.import_module("onnxsim")
    sys.modules["torch"] = None  # type: ignore[assignment]  # None lets an import fail
    try:
        return importlib.import_module("onnxsim")
    finally:
        del sys.modules["torch"]


def _run_onnxsim(original: onnx.ModelProto) -> onnx.ModelProto:
    """A copy simplified by onnxsim, without onnxsim's check: ``simplify`` compares the logits."""
    try:
        model, _ = _import_onnxsim().simplify(original, check_n=0)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"onnxsim refuses the graph: {error}", hint="check it with onnx.checker"
        ) from error
    assert isinstance(model, onnx.ModelProto)
    return model


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A valid copy with the shape of every tensor; a dynamic batch keeps its name."""
    del model.graph.value_info[:]
    try:
        shaped = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(shaped, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        raise InputError(
            f"shapes of the graph do not fit: {error}", hint="export the model again"
        ) from error
    except onnx.checker.ValidationError as error:
        raise InputError(
            f"the simplified graph is not valid ONNX: {str(error).splitlines()[0]}",
            hint="report it with the graph; nothing was written",
        ) from error
    return shaped


def _stamp(model: onnx.ModelProto) -> None:
    """Set IR version and producer, and drop all metadata that depends on the run."""
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
