"""Typed graphs: executed by onnxruntime, compared with a second implementation in NumPy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper

from edge_inception import artifact
from edge_inception.artifact import RangeTable, SimplifiedGraph, TypedGraph
from edge_inception.data import images
from edge_inception.errors import InputError
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import FloatRest, QuantizeOptions, Typing
from edge_inception.sidecar import TypedDetails
from edge_inception.spec import Precision, Preprocess

INT8 = QuantizeOptions(precision=Precision.INT8, fold_zero_points=False)
STRONG32 = replace(INT8, float_rest=FloatRest.FP32)
WEAK = replace(INT8, typing=Typing.WEAK)
FP16 = QuantizeOptions(precision=Precision.FP16)
FP32 = QuantizeOptions(precision=Precision.FP32)
ALL = {
    "int8": INT8,
    "int8_fp32": STRONG32,
    "int8_weak": WEAK,
    "fp16": FP16,
    "fp16_weak": replace(FP16, typing=Typing.WEAK),
    "fp32": FP32,
    "fp32_weak": replace(FP32, typing=Typing.WEAK),
}


@pytest.fixture
def graph(model, save):
    return save(model)


@pytest.fixture
def ranges(graph, photos, options, tmp_path):
    return calibrate(graph, photos, options, tmp_path / "ranges.json")


@pytest.fixture
def batch(photos, options):
    return [images.load_image(item.path, options.preprocess)[None] for item in photos.items]


def run(path, inputs, output="logits"):
    """``output`` of every input, without the fusions that would hide what the graph says."""
    model = onnx.load(str(path))
    if output != "logits":
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        model.graph.output.append(value)
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = 1
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), how, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run([output], {"input": one})[0] for one in inputs])


def initializers(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize("name", ALL)
def test_every_typed_graph_is_valid_onnx_with_float32_ends(graph, ranges, tmp_path, name):
    """onnx's full check passes, input and output keep their names and are float32."""
    typed = quantize(graph, ranges, ALL[name], tmp_path / "typed.onnx")
    model = onnx.load(str(typed.path))
    onnx.checker.check_model(model, full_check=True)
    ends = [*model.graph.input, *model.graph.output]
    assert [(end.name, end.type.tensor_type.elem_type) for end in ends] == [
        ("input", TensorProto.FLOAT),
        ("logits", TensorProto.FLOAT),
    ]


@pytest.mark.parametrize(
    ("name", "stamp"), [("int8", (19, 9)), ("int8_weak", (13, 7)), ("fp16", (19, 9))]
)
def test_opset_and_ir_version_of_a_spelling(graph, ranges, tmp_path, name, stamp):
    """Strong is opset 19 with IR version 9, weak is 13 with 7; the sidecar tells the opset."""
    typed = quantize(graph, ranges, ALL[name], tmp_path / "typed.onnx")
    model = onnx.load(str(typed.path))
    assert (model.opset_import[0].version, model.ir_version) == stamp
    assert typed.details.opset == stamp[0]


def test_counts_and_details(graph, ranges, tmp_path):
    """The sidecar counts the work and carries on what the simplified graph knew."""
    typed = quantize(graph, ranges, WEAK, tmp_path / "typed.onnx")
    assert typed.counts == {
        "num_nodes": 14,
        "conv_quantized": 4,
        "conv_total": 4,
        "gemm_quantized": 1,
        "gemm_total": 1,
        "num_qdq_pairs": 7,
        "biases_corrected": 5,
    }
    assert typed.details == TypedDetails.of(
        graph.details,
        precision=Precision.INT8,
        typing="weak",
        float_rest="fp16",
        opset=13,
        input="input",
        output="logits",
        input_shape=(1, 3, 16, 16),
        output_shape=(1, 4),
    )
    assert artifact.load(TypedGraph, typed.path) == typed


def test_fp32_is_the_simplified_graph_byte_for_byte(graph, tmp_path):
    """fp32 strong is untouched."""
    typed = quantize(graph, None, FP32, tmp_path / "typed.onnx")
    assert typed.path.read_bytes() == graph.path.read_bytes()


@pytest.mark.parametrize("name", ["fp32_weak", "fp16_weak"])
def test_weak_float_graphs_compute_what_the_simplified_graph_does(graph, batch, tmp_path, name):
    """Restamped to opset 13, the same numbers come out."""
    typed = quantize(graph, None, ALL[name], tmp_path / "typed.onnx")
    assert (run(typed.path, batch) == run(graph.path, batch)).all()


def test_fp16_stays_within_float16_rounding(graph, batch, tmp_path):
    """Eleven roundings of 2^-11 in a row stay below 2^-7 of the largest logit."""
    typed = quantize(graph, None, FP16, tmp_path / "typed.onnx")
    wanted = run(graph.path, batch)
    assert np.abs(run(typed.path, batch) - wanted).max() <= 2.0**-7 * np.abs(wanted).max()
    types = {value.dtype for value in initializers(typed.path).values()}
    assert types == {np.dtype(np.float16)}


def test_both_spellings_compute_the_same_numbers(graph, ranges, batch, tmp_path):
    """With a float32 rest strong and weak are equal to the last bit: one scale, one weight grid."""
    strong = quantize(graph, ranges, STRONG32, tmp_path / "strong.onnx")
    weak = quantize(graph, ranges, WEAK, tmp_path / "weak.onnx")
    assert (run(strong.path, batch) == run(weak.path, batch)).all()


def test_a_float16_rest_moves_logits_by_less_than_int8_does(graph, ranges, batch, tmp_path):
    """float16 between the pairs flips a few int8 roundings; it costs less than int8 itself."""
    wanted = run(graph.path, batch)
    half = run(quantize(graph, ranges, INT8, tmp_path / "half.onnx").path, batch)
    full = run(quantize(graph, ranges, STRONG32, tmp_path / "full.onnx").path, batch)
    assert np.square(half - full).sum() < np.square(full - wanted).sum()


def test_int8_is_close_to_float(graph, ranges, batch, tmp_path):
    """Signal to noise of the logits is above 25 dB: five layers of 8 bits lose a few per cent."""
    typed = quantize(graph, ranges, STRONG32, tmp_path / "typed.onnx")
    wanted = run(graph.path, batch)
    noise = np.square(run(typed.path, batch) - wanted).sum()
    assert 10 * np.log10(np.square(wanted).sum() / noise) > 25


def test_the_first_convolution_equals_integer_arithmetic(graph, ranges, batch, tmp_path):
    """Rounded pixels times rounded weights, summed as integers, scaled once: plain NumPy."""
    plain = replace(STRONG32, bias_correction=False)
    typed = quantize(graph, ranges, plain, tmp_path / "typed.onnx")
    found = run(typed.path, batch[5:6], "stem.c")[0]
    values = initializers(typed.path)
    pixels = np.clip(np.rint(batch[5][0] / values["input.scale"]), -128, 127).astype(np.int64)
    padded = np.pad(pixels, [(0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    sums = np.einsum("chwij,ocij->ohw", windows, values["stem.w.int8"].astype(np.int64))
    scale = values["input.scale"] * values["stem.w.scale"]
    wanted = sums * scale[:, None, None] + values["stem.b"][:, None, None]
    # 27 float32 products are summed in another order.
    np.testing.assert_allclose(found, wanted, atol=27 * 2.0**-23 * np.abs(wanted).max())


def test_scales_are_those_of_the_range_table(graph, ranges, tmp_path):
    """Every activation scale is amax / 127 of the table, rounded to float16."""
    typed = quantize(graph, ranges, INT8, tmp_path / "typed.onnx")
    table = json.loads(ranges.path.read_text())["tensors"]
    values = initializers(typed.path)
    for name in ("input", "stem", "mean", "joined", "last", "flat"):
        assert values[f"{name}.scale"] == np.float16(table[name]["amax"] / 127)


def test_a_max_pool_stands_between_two_pairs_of_one_scale(graph, ranges, tmp_path):
    """Both pairs read the same scale initializer."""
    model = onnx.load(str(quantize(graph, ranges, INT8, tmp_path / "typed.onnx").path))
    made = {node.output[0]: node for node in model.graph.node}
    pool = made["pooled"]
    before = made[pool.input[0]]
    after = next(node for node in model.graph.node if node.input[0] == "pooled")
    assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")
    assert before.input[1] == after.input[1] == "stem.scale"


def test_strong_stores_int8_weights_and_weak_stores_floats_on_the_same_grid(
    graph, ranges, tmp_path
):
    """int8 * scale of one typing is the float weight of the other."""
    strong = initializers(quantize(graph, ranges, STRONG32, tmp_path / "strong.onnx").path)
    weak = initializers(quantize(graph, ranges, WEAK, tmp_path / "weak.onnx").path)
    assert strong["right.w.int8"].dtype == np.int8
    assert "right.w" not in strong
    scale = strong["right.w.scale"].reshape(-1, 1, 1, 1)
    assert (strong["right.w.int8"] * scale == weak["right.w.grid"]).all()


@pytest.mark.parametrize("name", ALL)
def test_the_same_input_gives_the_same_bytes(graph, ranges, tmp_path, name):
    """A second run writes an identical file."""
    first = quantize(graph, ranges, ALL[name], tmp_path / "first.onnx")
    second = quantize(graph, ranges, ALL[name], tmp_path / "second.onnx")
    assert first.sha256 == second.sha256


def test_int8_without_a_range_table_is_refused(graph, tmp_path):
    """The message says what is missing."""
    with pytest.raises(InputError, match="needs a range table"):
        quantize(graph, None, INT8, tmp_path / "typed.onnx")


def test_a_range_table_of_another_graph_is_refused(ranges, model, save, tmp_path):
    """It belongs to one graph, by sha256."""
    model.doc_string = "another"
    other = save(model)
    wanted = f"another graph: got {json.loads(ranges.path.read_text())['graph']}"
    with pytest.raises(InputError, match=f"{wanted}, wanted {other.sha256}") as caught:
        quantize(other, ranges, INT8, tmp_path / "typed.onnx")
    command = f"calibrate {other.path} --calibrator mse --calibration IMAGES --out {ranges.path}"
    assert caught.value.hint == f"edge-inception {command}"
    assert not (tmp_path / "typed.onnx").exists()


def test_a_range_table_of_other_preprocessing_is_refused(ranges, model, save, tmp_path):
    """The same graph, fed with other pixels, has other ranges; the key is named."""
    other = save(model, preprocess=Preprocess(input_size=(16, 16), mean=(0.0, 0.0, 0.0)))
    message = r"preprocess.mean: got \[0.5, 0.5, 0.5\], wanted \[0.0, 0.0, 0.0\]"
    with pytest.raises(InputError, match=message):
        quantize(other, ranges, INT8, tmp_path / "typed.onnx")


def test_a_range_table_of_another_library_is_refused(graph, ranges, tmp_path):
    """What another release of OpenVINO measured is measured again."""
    record = ranges.provenance
    stale = replace(
        ranges, provenance=structs.replace(record, tools={**record.tools, "openvino": "2020.1"})
    )
    with pytest.raises(InputError, match=r"version of openvino: got 2020.1, wanted 20\d\d"):
        quantize(graph, stale, INT8, tmp_path / "typed.onnx")


def test_one_shard_is_no_range_table(graph, photos, options, tmp_path):
    """It has seen a part of the images only."""
    part = calibrate(graph, photos, replace(options, shard=(2, 3)), tmp_path / "part.json")
    with pytest.raises(InputError, match="is shard 2 of 3 alone") as caught:
        quantize(graph, part, INT8, tmp_path / "typed.onnx")
    assert "--merge" in caught.value.hint


def test_a_tensor_without_a_range_is_named(graph, ranges, tmp_path):
    """A table that lost an entry is not silently taken."""
    record = json.loads(ranges.path.read_text())
    del record["tensors"]["mean"]
    ranges.path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="first 'mean'"):
        quantize(graph, ranges, INT8, tmp_path / "typed.onnx")


def test_a_graph_without_quantizable_conv_is_an_error(ranges, tmp_path, save, model):
    """Zero quantized Conv is not a success."""
    keep = [node for node in model.graph.node if node.op_type in {"Flatten", "Gemm"}]
    keep[0].input[0] = "input"
    del model.graph.node[:]
    model.graph.node.extend(keep)
    values = np.zeros((4, 768), np.float32)
    head = next(t for t in model.graph.initializer if t.name == "head.w")
    head.CopyFrom(numpy_helper.from_array(values, "head.w"))
    graph = save(model)
    record = json.loads(ranges.path.read_text()) | {"graph": graph.sha256}
    ranges.path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="0 of 0 Conv"):
        quantize(graph, ranges, INT8, tmp_path / "typed.onnx")


def test_values_beyond_float16_need_a_float32_rest(graph, ranges, tmp_path):
    """A tensor that reached 70000 cannot be float16 between its pairs; fp32 rest takes it."""
    record = json.loads(ranges.path.read_text())
    record["tensors"]["joined"]["observed_amax"] = 70000.0
    ranges.path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="'joined' reaches 70000") as caught:
        quantize(graph, ranges, INT8, tmp_path / "typed.onnx")
    assert "--float-rest fp32" in caught.value.hint
    quantize(graph, ranges, STRONG32, tmp_path / "typed.onnx")


def test_a_node_that_cannot_be_typed_is_named(model, save, tmp_path):
    """Weak typing writes opset 13, which has no Trilu: node, op, opset and remedy."""
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.name = "Trilu", "bent"
    quantize(save(model), None, FP16, tmp_path / "typed.onnx")
    weak = QuantizeOptions(precision=Precision.FP32, typing=Typing.WEAK)
    with pytest.raises(InputError, match=r"'bent' is Trilu.*new in opset 14") as error:
        quantize(save(model), None, weak, tmp_path / "weak.onnx")
    assert "opset_version=13" in error.value.hint


def test_compile_takes_no_simplified_graph(graph):
    """An ONNX file that is not a typed graph is refused by its sidecar."""
    with pytest.raises(InputError, match="is a simplified graph, wanted a typed graph"):
        artifact.load(TypedGraph, graph.path)
    assert artifact.load(SimplifiedGraph, graph.path) == graph


def test_a_typed_graph_is_recorded_as_made_from_graph_and_ranges(graph, ranges, tmp_path):
    """Parents are the two, with what their sidecars say; the options are in the sidecar."""
    typed = quantize(graph, ranges, INT8, tmp_path / "typed.onnx")
    parents = typed.provenance.parents
    assert (parents["graph"], parents["ranges"]) == (graph.sha256, ranges.sha256)
    assert parents.keys() - {"graph", "ranges"} == {"details of graph", "details of ranges"}
    assert typed.provenance.options == {
        "precision": "int8",
        "typing": "strong",
        "float_rest": "fp16",
        "batch": None,
        "is_for_dla": False,
        "placement": "",
        "rounding": "nearest",
        "fold_zero_points": False,
        "keep": [],
        "bias_correction": None,
    }
    assert artifact.load(RangeTable, ranges.path).counts["num_tensors"] == 7


def test_a_dynamic_batch_stays_dynamic(model, save, photos, options, batch, tmp_path):
    """The int8 graph takes any batch and the sidecar names the axis."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph = save(model)
    table = calibrate(graph, photos, options, tmp_path / "ranges.json")
    typed = quantize(graph, table, INT8, tmp_path / "typed.onnx")
    assert typed.details.input_shape == ("batch", 3, 16, 16)
    together = run(typed.path, [np.concatenate(batch)])
    # float16 sums of a batch of eleven and of one may differ in the last place.
    np.testing.assert_allclose(together, run(typed.path, batch), rtol=0, atol=2.0**-8)


@pytest.mark.parametrize("precision", [INT8, STRONG32])
def test_a_scale_beyond_float16_is_refused(graph, ranges, tmp_path, precision):
    """An amax whose 127th part is no float16 is named; a float32 rest would not help."""
    record = json.loads(ranges.path.read_text())
    record["tensors"]["joined"] |= {"amax": 9e6, "observed_amax": 9e6}
    ranges.path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="'joined' reaches 9e\\+06, whose int8 scale is beyond"):
        quantize(graph, ranges, precision, tmp_path / "typed.onnx")
