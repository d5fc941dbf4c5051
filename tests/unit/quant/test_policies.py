"""Placement policies and groups kept in float, written out by hand and run by onnxruntime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge_inception.data import images
from edge_inception.engines import tensorrt_rtx
from edge_inception.engines._backend import CompileOptions
from edge_inception.errors import InputError
from edge_inception.quant import placement, policies
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import FloatRest, QuantizeOptions, Typing
from edge_inception.quant.ranges import read_table
from edge_inception.spec import Precision

INT8 = QuantizeOptions(precision=Precision.INT8, float_rest=FloatRest.FP32)
FP32 = QuantizeOptions(precision=Precision.FP32)
SPELLINGS = {
    "strong": INT8,
    "half": replace(INT8, float_rest=FloatRest.FP16),
    "weak": replace(INT8, typing=Typing.WEAK),
}
NAMES = [policy.name for policy in policies.POLICIES]


def readers(model, found):
    """Tensor -> output names of the nodes that read its pair."""
    return {
        name: {model.graph.node[index].output[0] for index in indices}
        for name, indices in found.readers.items()
    }


def values(path, batch, names):
    """The named tensors of every image, as onnxruntime computes the graph without fusions."""
    model = onnx.load(str(path))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in known
    )
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = 1
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), how, providers=["CPUExecutionProvider"]
    )
    found = [session.run(list(names), {"input": one}) for one in batch]
    return {name: np.concatenate(parts) for name, *parts in zip(names, *found, strict=True)}


@pytest.fixture
def graph(residual, save):
    return save(residual())


@pytest.fixture
def ranges(graph, photos, options, tmp_path):
    return calibrate(graph, photos, options, tmp_path / "ranges.json")


@pytest.fixture
def batch(photos, options):
    return [images.load_image(item.path, options.preprocess)[None] for item in photos.items]


def test_groups_are_named_after_their_scale_and_list_their_layers(residual):
    """A pooled tensor is of the group of what was pooled; layers come in graph order."""
    model = residual()
    nodes, read = model.graph.node, placement.group_readers(placement.place_pairs(model))
    found = {root: tuple(nodes[index].name for index in indices) for root, indices in read.items()}
    assert found["stem"] == ("pooled", "a1.c", "down")
    assert found["x"] == ("b1.c", "b2.c", "sum_b")
    assert "pooled" not in found


def test_weighted_only_leaves_pools_and_sums_float(residual):
    """What convolutions and the Gemm read, nothing else."""
    model = residual()
    found = placement.place_pairs(model, policies.policy("weighted-only"))
    assert readers(model, found) == {
        "input": {"stem.c"},
        "pooled": {"a1.c", "down"},
        "a1": {"a2"},
        "x": {"b1.c", "b2.c"},
        "b2": {"b3.c"},
        "joined": {"b4"},
        "y": {"c1.c"},
        "c1": {"c2"},
        "z": {"last.c"},
        "flat": {"logits"},
    }
    assert not found.identities


def test_pool_inputs_gives_a_max_pool_output_a_pair_only_where_a_layer_reads_it(model):
    """A second pool whose output only a Concat reads has none; the first has that of its input."""
    second = helper.make_node("MaxPool", ["pooled"], ["again"], kernel_shape=[1, 1])
    model.graph.node.insert(3, second)
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    concat.input.append("again")
    found = placement.place_pairs(model, policies.policy("pool-inputs")).group_of
    assert found["pooled"] == "stem"
    assert "again" not in found


@pytest.mark.parametrize(
    ("name", "sums"),
    [
        ("residual-float", {"sum_a": set(), "sum_b": set(), "z": set()}),
        ("sandwich", {"sum_a": {"down"}, "sum_b": {"x"}, "z": {"y"}}),
        ("residual-both", {"sum_a": {"a2", "down"}, "sum_b": {"x", "b4"}, "z": {"c2", "y"}}),
    ],
)
def test_what_a_sum_reads_through_pairs(residual, name, sums):
    """Neither, the identity, or both inputs."""
    model = residual()
    found = readers(model, placement.place_pairs(model, policies.policy(name)))
    assert {
        total: {name for name, outputs in found.items() if total in outputs} for total in sums
    } == sums


def test_a_float_sum_does_not_read_a_max_pool_through_its_pair(residual):
    """A ResNet without projection adds what its stem pooled."""
    model = residual()
    add = next(node for node in model.graph.node if node.output[0] == "sum_a")
    add.input[1] = "pooled"
    found = placement.place_pairs(model, policies.policy("residual-float"))
    assert "sum_a" not in readers(model, found)["pooled"]
    assert "sum_a" in readers(model, placement.place_pairs(model))["pooled"]


def test_tied_concat_gives_branches_the_scale_of_what_leaves(model):
    """One group around the Concat, a pair on each branch, which the Concat reads."""
    found = placement.place_pairs(model, policies.policy("tied-concat"))
    assert {n for n, root in found.group_of.items() if root == "joined"} == {
        "joined",
        "left",
        "right",
    }
    assert readers(model, found)["left"] == readers(model, found)["right"] == {"joined"}


def test_tied_concat_ties_a_pooled_branch_and_an_inner_concat(model):
    """The groups that meet at a Concat become one, named after the first."""
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    index = list(model.graph.node).index(concat)
    concat.output[0] = "inner"
    outer = helper.make_node("Concat", ["inner", "pooled"], ["joined"], axis=1)
    model.graph.node.insert(index + 1, outer)
    found = placement.place_pairs(model, policies.policy("tied-concat")).group_of
    tied = {name for name, root in found.items() if root == "stem"}
    assert tied == {"stem", "pooled", "joined", "inner", "left", "right"}


def test_a_tied_group_has_the_largest_scale_of_its_tensors(model, save, photos, options, tmp_path):
    """Whatever was seen of them is in range: the branch beside what was pooled is wider."""
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    concat.input.append("pooled")  # 8 channels on top of 11
    for tensor in model.graph.initializer:
        if tensor.name == "last.w":
            weight = np.random.default_rng(1).normal(size=(8, 19, 1, 1)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, "last.w"))
        if tensor.name == "left.b":  # so that what leaves the Concat reaches beyond what was pooled
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(6, 50, np.float32), "left.b"))
    graph = save(model)
    ranges = calibrate(graph, photos, options, tmp_path / "ranges.json")
    how = replace(INT8, placement="tied-concat")
    typed = onnx.load(str(quantize(graph, ranges, how, tmp_path / "typed.onnx").path))
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in typed.graph.initializer}
    seen = read_table(ranges).tensors
    assert seen["joined"].amax > 2 * seen["stem"].amax
    assert stored["stem.scale"] == np.float32(np.float16(seen["joined"].amax / 127))
    assert "joined.scale" not in stored


def test_float_ends_leave_the_first_two_convolutions_and_the_last_layer_float(residual):
    """Their groups are kept, with what else reads them: ``down`` reads what ``a1`` does."""
    model = residual()
    found = placement.place_pairs(model, policies.policy("float-ends"))
    assert found.kept == {"input", "stem", "flat"}
    quantized = {weight.name for weight in found.weights.values()}
    later = {"b1.c.w", "b2.c.w", "b3.c.w", "b4.w", "c1.c.w", "c2.w", "last.c.w"}
    assert quantized == {"a2.w"} | later


def test_layers_in_float_are_named_for_the_engine(residual, save, photos, options, tmp_path):
    """Those whose weights have no Q/DQ, in either typing; none where nothing is kept."""
    graph = save(residual())
    table = calibrate(graph, photos, options, tmp_path / "r.json")
    for typing in (Typing.STRONG, Typing.WEAK):
        how = replace(INT8, typing=typing, bias_correction=False)
        typed = quantize(graph, table, replace(how, placement="float-ends"), tmp_path / "a.onnx")
        assert typed.details.float_layers == ("stem.c", "a1.c", "down", "logits")
        assert not quantize(graph, table, how, tmp_path / "b.onnx").details.float_layers


def test_the_whole_group_is_kept(residual):
    """No pair on any of its tensors, float weights in its readers, a sum reads it in float."""
    model = residual()
    plain, found = placement.place_pairs(model), placement.place_pairs(model, keep={"stem", "x"})
    assert set(plain.group_of) - set(found.group_of) == {"stem", "pooled", "x"}
    gone = {weight.name for weight in plain.weights.values()} - {
        weight.name for weight in found.weights.values()
    }
    assert gone == {"a1.c.w", "down.w", "b1.c.w", "b2.c.w"}
    assert sorted(found.identities.values()) == ["down", "y"]


def test_a_group_that_is_none_is_refused_with_its_neighbours(residual):
    """Exit code 3; the hint names what it may have been."""
    with pytest.raises(InputError, match="no group 'joind'") as caught:
        placement.place_pairs(residual(), keep={"joind"})
    assert "joined" in caught.value.hint


def test_an_unknown_policy_is_refused():
    """The hint has the nearest and all."""
    with pytest.raises(InputError, match="no placement named 'sandwhich'") as caught:
        policies.policy("sandwhich")
    assert "did you mean 'sandwich'" in caught.value.hint


@pytest.mark.parametrize("typing", SPELLINGS)
@pytest.mark.parametrize("name", NAMES)
def test_every_policy_is_valid_onnx_and_close_to_float(
    graph, ranges, batch, tmp_path, name, typing
):
    """onnx's full check passes; signal to noise of the logits stays above 15 dB.

    With one scale around the Concat or int8 on both sides of three sums a few per cent are lost.
    """
    options = replace(SPELLINGS[typing], placement=name)
    typed = quantize(graph, ranges, options, tmp_path / "typed.onnx")
    onnx.checker.check_model(onnx.load(str(typed.path)), full_check=True)
    wanted = values(graph.path, batch, ["logits"])["logits"]
    noise = np.square(values(typed.path, batch, ["logits"])["logits"] - wanted).sum()
    assert 10 * np.log10(np.square(wanted).sum() / noise) > 15


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tensorrt_rtx_takes_every_policy(graph, ranges, tmp_path, name):
    """NVIDIA's compiler runs as many convolutions in int8 as the typed graph says."""
    pytest.importorskip("tensorrt_rtx_bindings")
    typed = quantize(graph, ranges, replace(SPELLINGS["half"], placement=name), tmp_path / "t.onnx")
    made = tensorrt_rtx.BACKEND.compile(typed, CompileOptions(), tmp_path / "int8.engine")
    assert made.details.convolutions["Int8"] == typed.counts["conv_quantized"]


def test_kept_groups_compute_what_the_float_graph_does(graph, ranges, batch, tmp_path):
    """All but the last group kept: what enters it equals the float graph's to the last bit."""
    groups = {one.scale_of for one in read_table(ranges).tensors.values()}
    placed = placement.place_pairs(onnx.load(str(graph.path)))
    keep = sorted(groups & set(placed.group_of.values()) - {"z"})
    options = replace(INT8, keep=tuple(keep))
    typed = quantize(graph, ranges, options, tmp_path / "typed.onnx")
    names = ["x", "y", "z", "logits"]
    found, wanted = values(typed.path, batch, names), values(graph.path, batch, names)
    for name in names[:-1]:
        assert (found[name] == wanted[name]).all()
    assert (found["logits"] != wanted["logits"]).any()
    assert typed.counts["groups_float"] == len(keep)
    assert (typed.counts["conv_quantized"], typed.counts["conv_total"]) == (1, 11)


@pytest.mark.parametrize("typing", SPELLINGS)
def test_a_weight_that_a_kept_layer_shares_is_float_there(
    residual, save, photos, options, tmp_path, typing
):
    """One initializer, two convolutions, one of them kept: it reads the floats as they were."""
    model = residual()
    add = {node.output[0]: node for node in model.graph.node}
    add["last.c"].input[1:] = ["shared.w", "shared.b"]
    twin = helper.make_node("Conv", ["y", "shared.w", "shared.b"], ["twin"], name="twin")
    for tensor in model.graph.initializer:
        if tensor.name in {"last.c.w", "last.c.b"}:
            tensor.name = f"shared.{tensor.name[-1]}"
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "c1.c")
    model.graph.node.insert(index, twin)
    add["z"].input[1] = "twin"
    graph = save(model)
    ranges = calibrate(graph, photos, options, tmp_path / "ranges.json")
    how = replace(SPELLINGS[typing], keep=("y",))
    typed = onnx.load(str(quantize(graph, ranges, how, tmp_path / "typed.onnx").path))
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in typed.graph.initializer}
    wanted = next(t for t in model.graph.initializer if t.name == "shared.w")
    found = next(node for node in typed.graph.node if node.output[0] == "twin")
    exact = onnx.numpy_helper.to_array(wanted)
    if typing == "half":
        exact = exact.astype(np.float16)
    assert (stored[found.input[1]] == exact).all()


def test_nothing_left_for_int8_is_refused(graph, ranges, tmp_path):
    """All groups kept is no int8 graph; the hint names the precision that is."""
    placed = placement.place_pairs(onnx.load(str(graph.path)))
    options = replace(INT8, keep=tuple(sorted(set(placed.group_of.values()))))
    with pytest.raises(InputError, match="no layer is left for int8") as caught:
        quantize(graph, ranges, options, tmp_path / "typed.onnx")
    assert "fp16" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"placement": "residual-float"},
        {"keep": ("stem",)},
        {"bias_correction": True},
    ],
)
@pytest.mark.parametrize(
    "how",
    [
        {"typing": Typing.IMPLICIT},
        {"is_for_dla": True},
    ],
)
def test_scales_of_dla_have_no_other_placement(graph, ranges, tmp_path, change, how):
    """DLA wants a scale everywhere and ties them itself: another wish is refused, not ignored."""
    options = replace(INT8, **how, **change)
    with pytest.raises(InputError, match="DLA"):
        quantize(graph, ranges, options, tmp_path / "typed.onnx")


def test_a_float_graph_has_no_placement(graph, tmp_path):
    """Asking fp32 for one is refused."""
    with pytest.raises(InputError, match="int8 only"):
        quantize(graph, None, replace(FP32, keep=("stem",)), tmp_path / "typed.onnx")
    with pytest.raises(InputError, match="bias correction: for int8 only"):
        quantize(graph, None, replace(FP32, bias_correction=True), tmp_path / "typed.onnx")
