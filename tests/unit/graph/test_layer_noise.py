"""compare-layers: figures in closed form on small graphs, and the layer that is to blame."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
import sidecars
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edge_inception import artifact
from edge_inception.artifact import Provenance, SimplifiedGraph, TypedGraph
from edge_inception.cli import main
from edge_inception.data import imageset
from edge_inception.data.images import batches
from edge_inception.errors import InputError
from edge_inception.graph import dla
from edge_inception.graph.layer_noise import LIMIT_DB, compare_layers, decibels, first_jump
from edge_inception.spec import Preprocess

SIDE = 8
HOW = Preprocess(input_size=(SIDE, SIDE))
ORIGIN = Provenance(stage="quantize", parents={}, options={}, tools={}, source="test")


def model(scales=None, *, is_half=False, weight=1.0, batch=1):
    """input -> one -> two -> three, 1 x 1 convolutions that each double and keep three channels.

    ``scales`` maps a tensor to the scale of its Q/DQ pair; ``weight`` multiplies those of ``two``.
    """
    double = 2 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    arrays = {"w": double, "w2": double * np.float32(weight), "zero": np.int8(0)}
    nodes, source = [], "input"
    kind = np.float16 if is_half else np.float32
    if is_half:
        nodes.append(helper.make_node("Cast", ["input"], ["input.h"], to=TensorProto.FLOAT16))
        source = "input.h"
    for name in ("one", "two", "three"):
        root = source.removesuffix(".h")
        if root in (scales or {}):
            arrays[f"{root}.s"] = np.asarray(scales[root], kind)
            pair = [f"{root}.s", "zero"]
            nodes.append(helper.make_node("QuantizeLinear", [source, *pair], [f"{root}.q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{root}.q", *pair], [f"{root}.d"]))
            source = f"{root}.d"
        w = "w2" if name == "two" else "w"
        last = f"{name}.h" if is_half and name == "three" else name
        nodes.append(helper.make_node("Conv", [source, w], [last], name=f"conv {name}"))
        source = last
    if is_half:
        nodes.append(helper.make_node("Cast", [source], ["three"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("three", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [
            numpy_helper.from_array(v if v.dtype == np.int8 else v.astype(kind), k)
            for k, v in arrays.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.fixture
def photos(tmp_path):
    """Three grey images; pixel 64, 128 and 255 of 255 become -0.5, 0 and 1 within 1/255."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for value in (64, 160, 255):
        Image.new("RGB", (SIDE, SIDE), (value,) * 3).save(folder / f"{value:03}.png")
    return imageset.open_set(folder)


def pictures(photos):
    return (group.images for group in batches(photos.items, HOW, 1))


def values():
    return np.array([64, 160, 255]) / 255 * 2 - 1


def expected(scale):
    """Noise to signal of a pair with ``scale`` on the images, worked out by hand."""
    exact = values()
    rounded = np.clip(np.rint(exact / scale), -128, 127) * scale
    return ((rounded - exact) ** 2).sum() / (exact**2).sum(), ((rounded - exact) / exact) ** 2


def test_one_pair_gives_the_noise_of_its_rounding(photos):
    """A pair on the input alone: every layer carries exactly the rounding error of the input."""
    total, each = expected(0.125)
    layers = compare_layers((model(), model({"input": 0.125})), pictures(photos)).layers
    assert [layer.name for layer in layers] == ["conv one", "conv two", "conv three"]
    for layer in layers:
        # float32 pixels against float64 ones
        assert layer.output == pytest.approx(total, rel=1e-4)
        assert layer.worst_image == each.argmax()
    assert [layer.inputs for layer in layers] == pytest.approx([0.0, total, total], rel=1e-4)
    assert [layer.read for layer in layers] == pytest.approx([total] * 3, rel=1e-4)
    assert decibels(layers[0].output) == pytest.approx(-10 * math.log10(total), abs=1e-3)


def test_a_graph_against_itself_has_no_noise(photos):
    """The same graph twice: exact everywhere, no jump, and that is said as the limit."""
    layers = compare_layers((model(), model()), pictures(photos)).layers
    assert [decibels(layer.output) for layer in layers] == [LIMIT_DB] * 3
    assert first_jump(layers) is None


@pytest.mark.parametrize("bad", ["input", "one", "two"])
@pytest.mark.parametrize("is_half", [False, True])
def test_the_reader_of_a_bad_scale_is_named(photos, bad, is_half):
    """One scale eight times too coarse: the layer that reads it is the jump, and it the cause."""
    scales = {"input": 1 / 127, "one": 2 / 127, "two": 4 / 127}
    fine = compare_layers((model(), model(scales, is_half=is_half)), pictures(photos)).layers
    assert first_jump(fine) is None
    scales[bad] = {"input": 1, "one": 2, "two": 4}[bad] * 1.6
    layers = compare_layers((model(), model(scales, is_half=is_half)), pictures(photos)).layers
    jump = first_jump(layers)
    reader = {"input": "conv one", "one": "conv two", "two": "conv three"}[bad]
    assert (jump.name, jump.noisiest, jump.is_pair_to_blame) == (reader, bad, True)


def test_bad_weights_are_told_from_bad_scales(photos):
    """A weight that is half of what it was: noise to signal 1/4, and no pair is blamed."""
    jump = first_jump(compare_layers((model(), model(weight=0.5)), pictures(photos)).layers)
    assert (jump.name, jump.is_pair_to_blame) == ("conv two", False)
    assert jump.output == pytest.approx(0.25, rel=1e-6)


def test_a_static_batch_gives_the_same(photos):
    """A graph of batch 4 sees each image alone."""
    one = compare_layers((model(), model({"input": 0.1})), pictures(photos))
    four = compare_layers((model(batch=4), model({"input": 0.1}, batch=4)), pictures(photos))
    assert one == four


def test_what_cannot_be_compared_is_refused(photos):
    """The graphs in the wrong order, and graphs of different networks."""
    with pytest.raises(InputError, match="quantized itself"):
        compare_layers((model({"input": 0.1}), model()), pictures(photos))
    other = model()
    for node in other.graph.node:
        node.output[:] = [f"x/{name}" for name in node.output]
        node.input[:] = [f"x/{n}" if n in {"one", "two", "three"} else n for n in node.input]
    other.graph.output[0].name = "x/three"
    with pytest.raises(InputError, match="no tensor"):
        compare_layers((model(), other), pictures(photos))


def headed(weight=1.0):
    """input -> conv -> GlobalAveragePool -> Flatten -> Gemm, which has ``weight`` everywhere."""
    arrays = {
        "w": 2 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "g": np.full((2, 3), weight, np.float32),
    }
    body = (
        "c = Conv(input, w) mean = GlobalAveragePool(c) flat = Flatten(mean) "
        "logits = Gemm<transB=1>(flat, g)"
    )
    signature = f"(float[1,3,{SIDE},{SIDE}] input) => (float[1,2] logits)"
    text = f'<ir_version: 8, opset_import: ["" : 18]> graph {signature} {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in arrays.items())
    return made


def test_a_head_rewritten_for_dla_is_compared_in_its_own_shapes(photos):
    """The same function: [1, 3, 1, 1] and [1, 3] agree, and the pool that is gone is named."""
    typed = dla.rewrite(headed())
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in shapes_of(typed)}
    assert shapes["flat"] == 4  # else this tests nothing
    found = compare_layers((headed(), typed), pictures(photos))
    assert [layer.name for layer in found.layers] == ["c", "flat", "logits"]
    # float32 sums in another order
    assert max(layer.output for layer in found.layers) < 1e-10
    assert found.left_out == ("mean",)


def shapes_of(made):
    return onnx.shape_inference.infer_shapes(made, strict_mode=True).graph.value_info


def test_noise_before_a_layer_that_is_gone_is_not_blamed_on_the_next(photos):
    """A convolution of half its weight: it is the jump, not the pool's reader behind it."""
    halved = headed()
    halved.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w")
    )
    found = compare_layers((headed(), dla.rewrite(halved)), pictures(photos))
    assert [layer.name for layer in found.layers if layer.is_jump] == ["c"]
    # half of each value is missing from the convolution on
    assert [layer.inputs for layer in found.layers] == pytest.approx([0.0, 0.25, 0.25], rel=1e-5)


def test_a_result_in_another_shape_is_left_out(photos):
    """Channels last under the old name: no difference is taken, and what reads it is compared."""
    typed = model()
    first, second = typed.graph.node[:2]
    first.output[:], second.input[0] = ["one.c"], "one.c"
    turned = helper.make_node("Transpose", ["one.c"], ["one"], perm=[0, 2, 3, 1])
    typed.graph.node.insert(1, turned)
    found = compare_layers((model(), typed), pictures(photos))
    assert found.left_out == ("conv one",)
    assert [layer.output for layer in found.layers] == [0.0, 0.0]
    for node in typed.graph.node:
        node.output[:] = [n if n == "one" else f"{n}.x" for n in node.output]
        node.input[:] = [n if n in {"input", "w", "w2"} else f"{n}.x" for n in node.input]
    typed.graph.output[0].name = "three.x"
    with pytest.raises(InputError, match="its name and its shape"):
        compare_layers((model(), typed), pictures(photos))


@pytest.mark.usefixtures("photos")
def test_a_layer_that_reads_a_new_tensor_is_named_without_one(tmp_path, capsys):
    """The Gemm's weights halved behind a rewritten head: no tensor without a name is blamed."""
    first = saved(tmp_path, SimplifiedGraph, "a.onnx", headed())
    second = saved(tmp_path, TypedGraph, "b.onnx", dla.rewrite(headed(weight=0.5)))
    words = ["compare-layers", str(first), str(second), "--images", str(tmp_path / "photos")]
    assert main.run(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Gemm 'logits' falls from" in text
    assert "its own weights, or what it reads, which the first graph does not compute" in text
    assert "left out mean: not in the second graph by name and shape" in text
    assert "''" not in text
    assert main.run([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["jump"]["name"], record["jump"]["noisiest_input"]) == ("logits", "")
    assert record["left_out"] == ["mean"]


DETAILS = {SimplifiedGraph: sidecars.simplified, TypedGraph: sidecars.typed}


def saved(tmp_path, kind, name, proto, side=SIDE):
    return artifact.publish(
        kind,
        tmp_path / name,
        proto.SerializeToString(),
        provenance=ORIGIN,
        details=DETAILS[kind](preprocess=Preprocess(input_size=(side, side))),
    ).path


@pytest.mark.usefixtures("photos")
def test_command_points_at_the_layer(tmp_path, capsys):
    """Table and JSON name the layer, the scale and the images; other preprocessing is refused."""
    first = saved(tmp_path, SimplifiedGraph, "a.onnx", model())
    typed = model({"input": 1 / 127, "one": 3.2})
    second = saved(tmp_path, TypedGraph, "b.onnx", typed)
    words = ["compare-layers", str(first), str(second), "--images", str(tmp_path / "photos")]
    assert main.run(words) == 0
    text = capsys.readouterr().out
    assert "Conv 'conv two' falls" in text
    assert "the int8 scale of 'one'" in " ".join(text.split())
    assert "3 of 3 in photos: 064.png, 160.png, 255.png" in text
    assert main.run([*words, "--json", "--max-images", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["jump"]["name"] == "conv two"
    assert record["jump"]["is_scale_to_blame"] is True
    assert len(record["images"]) == 2
    assert [layer["name"] for layer in record["layers"]] == ["conv one", "conv two", "conv three"]
    third = saved(tmp_path, TypedGraph, "c.onnx", typed, side=2 * SIDE)
    assert main.run([*words[:2], str(third), *words[3:]]) == 3
    assert "differently preprocessed" in capsys.readouterr().err


@pytest.mark.usefixtures("photos")
def test_no_onnx_is_an_input_error(tmp_path, capsys):
    """A file that is no graph ends in one line."""
    first = saved(tmp_path, SimplifiedGraph, "a.onnx", model())
    other = artifact.publish(
        TypedGraph,
        tmp_path / "b.onnx",
        b"nothing",
        provenance=ORIGIN,
        details=sidecars.typed(preprocess=Preprocess(input_size=(SIDE, SIDE))),
    ).path
    words = ["compare-layers", str(first), str(other), "--images", str(tmp_path / "photos")]
    assert main.run(words) == 3
    assert "ONNX" in capsys.readouterr().err
