"""The placement, written out by hand for a small Inception block."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_inception.graph.signs import non_negative
from edge_inception.quant import placement


def readers(model, found):
    """Tensor -> output names of the nodes that read its pair."""
    return {
        name: {model.graph.node[index].output[0] for index in indices}
        for name, indices in found.readers.items()
    }


def test_every_pair_and_its_readers(model):
    """One pair per tensor in front of Conv, Gemm and pools; a pooled tensor's pair serves all."""
    found = placement.place_pairs(model)
    assert readers(model, found) == {
        "input": {"stem.c"},
        "stem": {"pooled"},
        "pooled": {"left.c", "mean"},
        "mean": {"right.c"},
        "joined": {"last.c"},
        "last": {"global"},
        "flat": {"logits"},
    }


def test_a_max_pool_output_shares_the_scale_of_its_input(model):
    """All others have their own."""
    scale_of = dict(placement.place_pairs(model).group_of)
    assert scale_of.pop("pooled") == "stem"
    assert all(name == root for name, root in scale_of.items())


def test_nothing_between_conv_and_relu_nor_on_branches_nor_on_the_logits(model):
    """No pair on a Conv's output, on an input of Concat that is a Conv's, or on the output."""
    scale_of = placement.place_pairs(model).group_of
    assert not {"stem.c", "left", "right", "last.c", "global", "logits"} & set(scale_of)


def test_a_concat_behind_a_max_pool_reads_its_pair(model):
    """Everyone reads a MaxPool through its pair, so that it runs in int8."""
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    concat.input.append("pooled")
    assert "joined" in readers(model, placement.place_pairs(model))["pooled"]


def test_weights_and_their_channel_axes(model):
    """Conv and Gemm with transB have their output channels first."""
    found = placement.place_pairs(model).weights
    assert {w.name: w.axis for w in found.values()} == {
        f"{name}.w": 0 for name in ("stem", "left", "right", "last", "head")
    }


def test_a_gemm_without_trans_b_has_its_channels_second(model):
    """[I, O] instead of [O, I]."""
    gemm = model.graph.node[-1]
    del gemm.attribute[:]
    assert {w.name: w.axis for w in placement.place_pairs(model).weights.values()}["head.w"] == 1


def test_a_conv_with_computed_weights_stays_float(model):
    """It gets neither a weight nor a pair of its own."""
    stem = model.graph.node[0]
    identity = helper.make_node("Identity", ["stem.w"], ["stem.computed"])
    stem.input[1] = "stem.computed"
    model.graph.node.insert(0, identity)
    found = placement.place_pairs(model)
    assert "stem.w" not in {w.name for w in found.weights.values()}
    assert "input" not in found.group_of


def test_max_pool_into_max_pool_shares_one_scale(model):
    """The scale of a chain is that of its first input."""
    second = helper.make_node("MaxPool", ["pooled"], ["again"], kernel_shape=[1, 1])
    model.graph.node.insert(3, second)
    for node in list(model.graph.node)[4:]:
        node.input[:] = ["again" if name == "pooled" else name for name in node.input]
    scale_of = placement.place_pairs(model).group_of
    assert scale_of["pooled"] == scale_of["again"] == "stem"


def test_non_negative_follows_relu_through_pools_and_joins(model):
    """The input and bare Conv outputs may be negative, the rest of the block may not."""
    found = non_negative(model)
    assert {"stem", "pooled", "mean", "joined", "last", "global", "flat"} <= found
    assert not {"input", "stem.c", "logits"} & found


def test_a_concat_with_one_signed_branch_may_be_negative(model):
    """One branch without ReLU is enough."""
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    concat.input[1] = "right.c"
    assert "joined" not in non_negative(model)


@pytest.mark.parametrize(
    ("kind", "sources", "is_positive"),
    [
        ("Clip", ["input", "zero", "six"], True),
        ("Clip", ["input", "minus", "six"], False),
        ("Clip", ["input"], False),
        ("Max", ["input", "zero"], True),
        ("Max", ["input", "minus"], False),
        ("Min", ["stem", "six"], True),
        ("Min", ["stem", "minus"], False),
        ("HardSigmoid", ["input"], True),
        ("Mul", ["stem", "mean"], True),
        ("Mul", ["stem", "minus"], False),
        ("Mul", ["stem", "input"], False),
        ("Div", ["stem", "six"], True),
        ("Sub", ["stem", "six"], False),
    ],
)
def test_non_negative_knows_elementwise_operators(model, kind, sources, is_positive):
    """ReLU6 is a Clip; constants count by their values, and are not among the answers."""
    for name, value in {"zero": 0, "six": 6, "minus": -1}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    model.graph.node.append(helper.make_node(kind, sources, ["y"]))
    found = non_negative(model)
    assert ("y" in found) == is_positive
    assert not {"zero", "six"} & found


def test_the_block_is_a_valid_graph(model):
    """The graph these tests stand on passes ONNX's own check."""
    onnx.checker.check_model(model, full_check=True)
