"""int8 without Q/DQ: the graph, the scales, and the calibration cache as text.

A second reader of the text, and a second implementation of what an engine would compute with it,
stand in this file.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec import structs
from onnx import helper, numpy_helper

from edge_inception import artifact
from edge_inception.artifact import CalibrationCache, TypedGraph
from edge_inception.cli import main
from edge_inception.data import images
from edge_inception.engines import onnxruntime as reference
from edge_inception.engines import openvino
from edge_inception.engines._backend import CompileOptions
from edge_inception.errors import InputError
from edge_inception.graph import dla
from edge_inception.quant import placement
from edge_inception.quant.calibration_cache import cache_text, header, write_cache
from edge_inception.quant.implicit import implicit_scales, tensors_to_observe
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import CacheOptions, FloatRest, QuantizeOptions, Typing
from edge_inception.quant.ranges import TensorRange, read_table
from edge_inception.spec import Precision, ShapeProfile

IMPLICIT = QuantizeOptions(precision=Precision.INT8, typing=Typing.IMPLICIT)
# TensorRT rounds the float weights of an implicit graph itself, and nothing corrects its biases.
TYPED = QuantizeOptions(
    precision=Precision.INT8,
    float_rest=FloatRest.FP32,
    fold_zero_points=False,
    bias_correction=False,
)
ORIN = CacheOptions(tensorrt="8.5.2")
LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-f]{8})")


def read_cache(path):
    """Header, and tensor -> float32, from the text alone."""
    header, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    found = {}
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        assert match["name"] not in found
        found[match["name"]] = np.array(int(match["bits"], 16), np.uint32).view(np.float32)[()]
    return header, found


def run(model, inputs, outputs=("logits",)):
    """Named tensors of every input, without fusions that would hide what the graph says."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {value.name for value in model.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in outputs
        if name not in have
    )
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = 1
    how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), how, providers=["CPUExecutionProvider"]
    )
    rows = [session.run(list(outputs), {"input": one}) for one in inputs]
    return {name: np.concatenate(parts) for name, *parts in zip(outputs, *rows, strict=True)}


def emulate(model, scale_of, step_type=np.float32):
    """The float graph with every scaled tensor rounded to int8, and weights of int8 layers too.

    A layer is int8 when its input and its output have scales; its weights get one scale per output
    channel, their largest magnitude over 127, as TensorRT derives it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    nodes = []

    def rounded(name):
        graph.initializer.append(numpy_helper.from_array(np.float32(scale_of[name]), f"{name}.s"))
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}.s", "zero"], [f"{name}.q"]))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s", "zero"], [f"{name}.d"])
        )

    for name in [value.name for value in graph.input if value.name in scale_of]:
        rounded(name)
    for node in graph.node:
        if node.op_type == "Conv" and {node.input[0], node.output[0]} <= set(scale_of):
            values = numpy_helper.to_array(weights[node.input[1]])
            step = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
            step = step.astype(step_type).astype(np.float32)
            grid = (np.clip(np.rint(values / step), -127, 127) * step).astype(np.float32)
            weights[node.input[1]].CopyFrom(numpy_helper.from_array(grid, node.input[1]))
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [f"{name}.d" if name in scale_of else name for name in node.input]
        nodes.append(made)
        for name in node.output:
            if name in scale_of:
                rounded(name)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return copy


def sqnr_db(found, wanted):
    """Signal to noise of answers."""
    return 10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum())


class Made:
    """Everything of one network: simplified graph, ranges, implicit graph and cache."""

    def __init__(self, model, save, photos, options, folder):
        self.plain = save(model, profile={"min": 1, "opt": 1, "max": 1})
        self.ranges = calibrate(self.plain, photos, options, folder / "ranges.json")
        self.typed = quantize(self.plain, self.ranges, IMPLICIT, folder / "implicit.onnx")
        self.cache = write_cache(self.typed, self.ranges, ORIN, folder / "implicit.cache")
        self.model = onnx.load(str(self.typed.path))
        self.header, self.scale_of = read_cache(self.cache.path)
        self.batch = [images.load_image(i.path, options.preprocess)[None] for i in photos.items]


@pytest.fixture
def prepare(model, residual, save, photos, options, tmp_path):
    """``prepare(network, calibrator)``: everything of the block or of the residual network."""

    def run_stages(name, calibrator):
        network = model if name == "block" else residual()
        return Made(network, save, photos, replace(options, calibrator=calibrator), tmp_path)

    return run_stages


@pytest.fixture(params=["block", "residual"])
def made(request, prepare):
    return prepare(request.param, "max")


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("8.2.1", "TRT-8201-EntropyCalibration2"),
        ("8.5.2", "TRT-8502-EntropyCalibration2"),
        ("8.6.2.3", "TRT-8602-EntropyCalibration2"),
        ("10.3.0", "TRT-100300-EntropyCalibration2"),
        ("10.7.0.23", "TRT-100700-EntropyCalibration2"),
        ("10.14.1", "TRT-101401-EntropyCalibration2"),
    ],
)
def test_header_of_a_version(version, wanted):
    """As in public caches: three digits behind the major version up to 8, four from 10 on."""
    assert header(version) == wanted


@pytest.mark.parametrize("version", ["11.1.0", "7.1.3", "10.3", "ten", "8.x.1", ""])
def test_versions_without_a_cache_are_refused(version):
    """TensorRT 11 has no calibrators; what is no version is said to be none."""
    with pytest.raises(InputError, match="TensorRT"):
        header(version)


def test_text_of_the_documented_example():
    """The lines of sampleINT8's README come out of their own scales."""
    scales = {"data": 0x3C008912, "conv1": 0x3C88EDFC, "a: b": 0x3F800000}
    arrays = {name: np.uint32(bits).view(np.float32) for name, bits in scales.items()}
    assert cache_text(arrays, "8.2.1") == (
        "TRT-8201-EntropyCalibration2\ndata: 3c008912\nconv1: 3c88edfc\na: b: 3f800000\n"
    )
    with pytest.raises(InputError, match="is not one line"):
        cache_text({"a\nb": np.float32(1)}, "8.2.1")


def test_the_cache_gives_back_the_scales_bit_for_bit(made):
    """The second reader finds every tensor and every bit, in graph order, as float16 numbers."""
    wanted = implicit_scales(made.model, read_table(made.ranges).tensors).scale_of
    assert made.header == "TRT-8502-EntropyCalibration2"
    assert list(made.scale_of) == list(wanted)
    for name, scale in made.scale_of.items():
        assert scale.tobytes() == wanted[name].tobytes()
        assert scale == np.float16(scale) > 0


def test_the_graph_computes_what_the_simplified_one_does(made):
    """onnxruntime finds the same logits: sums and products with 9/4 round once more."""
    wanted = run(onnx.load(str(made.plain.path)), made.batch)["logits"]
    found = run(made.model, made.batch)["logits"]
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_the_graph_is_what_tensorrt_8_parses(made):
    """Opset 13, IR version 7, float32, no Q/DQ, ends as before, nothing that DLA lacks inside."""
    onnx.checker.check_model(made.model, full_check=True)
    assert (made.model.opset_import[0].version, made.model.ir_version) == (13, 7)
    ops = [node.op_type for node in made.model.graph.node]
    assert not {"QuantizeLinear", "DequantizeLinear", "GlobalAveragePool", "Gemm"} & set(ops)
    assert made.typed.details.typing == "implicit"
    ends = [made.model.graph.input[0].name, made.model.graph.output[0].name]
    assert ends == ["input", "logits"]
    found = dla.plan(made.model, "NVDLA 1.0")
    assert [layer.op for layer in found.gpu_layers] == ["Flatten"]
    assert made.typed.counts["dla_layers"] == len(ops) - 1
    assert (made.typed.counts["dla_subgraphs"], made.typed.counts["gpu_layers"]) == (1, 1)


def test_only_what_follows_the_last_layer_has_no_scale(made):
    """No scale on the output, one on everything between; what has none is listed."""
    every = {"input", *(name for node in made.model.graph.node for name in node.output)}
    assert every - set(made.scale_of) == {"logits", "logits.maps"}
    assert made.cache.details.unscaled == ("logits.maps", "logits")
    assert made.cache.counts["num_scaled"] == len(made.scale_of)
    assert made.cache.counts["num_unscaled"] == 2


def test_nvidias_parser_gives_tensors_the_names_of_the_cache(made):
    """Every line of the cache finds its tensor; without one are the ends, and constants.

    The parser is that of TensorRT-RTX, which needs no GPU.
    """
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(made.typed.path.read_bytes())
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    constants = {x.get_output(0).name for x in layers if x.type == trt.LayerType.CONSTANT}
    names = {x.get_output(i).name for x in layers for i in range(x.num_outputs)}
    names |= {network.get_input(0).name}
    assert set(made.scale_of) <= names
    assert names - set(made.scale_of) - constants == {"logits.maps", "logits"}


def components(model, scale_of):
    """Tensors that documents want to have one scale, as sets: a slow second version."""
    sets = [{name} for name in scale_of]
    for node in model.graph.node:
        names = {name for name in (*node.input, *node.output) if name in scale_of}
        if node.op_type == "Add":
            names -= set(node.output)
        if node.op_type not in {"MaxPool", "AveragePool", "Concat", "Relu", "Add"}:
            continue
        hit = [one for one in sets if one & names]
        sets = [one for one in sets if not one & names] + [set().union(names, *hit)]
    return sets


def test_pools_concats_and_sums_have_one_scale(made):
    """Each set has one scale, that of its largest observed amax; there is more than one set."""
    seen = read_table(made.ranges).tensors
    groups = components(made.model, made.scale_of)
    assert len(groups) > 3
    for group in groups:
        (scale,) = {made.scale_of[name].tobytes() for name in group}
        amax = max(seen[name].amax for name in group if name in seen)
        # float16 rounds to nearest: half an ulp of 11 bits
        assert np.frombuffer(scale, np.float32)[0] == pytest.approx(amax / 127, rel=2.0**-11)


def test_every_scale_holds_what_the_tensor_holds(made):
    """With the calibrator ``max`` no value of any photo lies beyond half a level over 127.

    What ReLU cuts off does not count. So no tensor borrowed a range that is not its own.
    """
    bare = {node.input[0] for node in made.model.graph.node if node.op_type == "Relu"}
    names = [name for name in made.scale_of if name != "input"]
    for name, values in run(made.model, made.batch, names).items():
        amax = (values if name in bare else np.abs(values)).max()
        assert 0 < amax <= 127.5 * made.scale_of[name], name


@pytest.mark.parametrize("calibrator", ["max", "mse"])
@pytest.mark.parametrize(("name", "allowed"), [("block", 1.0), ("residual", 7.0)])
def test_int8_by_the_cache_is_about_as_good_as_the_typed_graph(
    name, allowed, calibrator, prepare, tmp_path
):
    """A plain Inception loses less than 1 dB of SQNR by its ties.

    In a residual network sums, the input of LRN and the mean are rounded, which Q/DQ spares: 40 dB
    become 34 in one of three blocks, 5 of the 6 by LRN, which DLA computes in float16 anyway.
    """
    made = prepare(name, calibrator)
    typed = quantize(made.plain, made.ranges, TYPED, tmp_path / "typed.onnx")
    wanted = run(made.model, made.batch)["logits"]
    explicit = sqnr_db(run(onnx.load(str(typed.path)), made.batch)["logits"], wanted)
    found = sqnr_db(run(emulate(made.model, made.scale_of), made.batch)["logits"], wanted)
    assert found > explicit - allowed


def test_pairs_with_the_same_scales_compute_the_same(made, tmp_path):
    """Strongly typed for DLA: onnxruntime answers as the second implementation with the cache.

    Weights of this graph have float16 scales, so those of the other are rounded here too; what is
    left is the order of float32 sums, which now and then decides a rounding: 60 dB below.
    """
    options = replace(TYPED, is_for_dla=True)
    typed = quantize(made.plain, made.ranges, options, tmp_path / "strong.onnx")
    wanted = run(emulate(made.model, made.scale_of, np.float16), made.batch)["logits"]
    found = run(onnx.load(str(typed.path)), made.batch)["logits"]
    assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()
    assert typed.details.typing == "strong"
    assert typed.counts["gpu_layers"] == 1


def test_residual_networks_observe_what_an_add_adds(residual, model):
    """The bare convolution of each block, and what LRN reads; plain Inceptions nothing more."""
    network = residual()
    assert tensors_to_observe(network, placement.place_pairs(network).group_of) == [
        "a2",
        "b4",
        "c2",
        "last",
    ]
    assert tensors_to_observe(model, placement.place_pairs(model).group_of) == []


def test_a_table_without_them_is_refused(residual):
    """A range table of an older version says so; nothing is made up."""
    network = residual()
    seen = {
        name: TensorRange(amax=1.0, observed_amax=1.0, scale_of=name)
        for name in placement.place_pairs(network).group_of
    }
    with pytest.raises(InputError, match=r"no amax for 4 tensors .* first 'a2'") as caught:
        implicit_scales(network, seen)
    assert "calibrate" in caught.value.hint


def test_a_relu_with_company_does_not_narrow_its_input():
    """Where another node reads what ReLU reads, negative values count, so it is observed."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
        g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
            a = Conv(x, w) r = Relu(a) b = Conv(r, w) s = Add(a, b) y = Conv(s, w)
        }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w"))
    assert tensors_to_observe(model, {"x", "r", "s"}) == ["a", "b"]


def test_pixels_stay_unscaled(residual, save, photos, options, tmp_path):
    """Of raw pixels the normalised image is the first tensor with a scale."""
    how = structs.replace(options.preprocess, element="uint8")
    network = residual(element="uint8")
    plain = save(network, preprocess=how)
    ranges = calibrate(plain, photos, replace(options, preprocess=how), tmp_path / "r.json")
    typed = quantize(plain, ranges, IMPLICIT, tmp_path / "t.onnx")
    cache = write_cache(typed, ranges, ORIN, tmp_path / "t.cache")
    _, scale_of = read_cache(cache.path)
    assert next(iter(scale_of)) == "image"
    unscaled = ["input", "preprocess/cast", "preprocess/div", "preprocess/sub"]
    assert cache.details.unscaled == (*unscaled, "logits.maps", "logits")


@pytest.mark.parametrize(
    ("head", "ends"),
    [
        ("softmax", ["logits.maps", "logits", "probabilities"]),
        ("topk", ["logits.maps", "logits", "head/softmax", "scores", "classes"]),
    ],
)
def test_heads_have_no_scale(head, ends, residual):
    """From the last layer on nothing is int8: logits, probabilities, outputs."""
    network = dla.rewrite(residual(head=head))
    names = {*placement.place_pairs(residual()).group_of, *tensors_to_observe(network, ())}
    seen = {name: TensorRange(amax=1.0, observed_amax=1.0, scale_of=name) for name in names}
    assert list(implicit_scales(network, seen).unscaled) == ends


def test_a_dynamic_batch_needs_a_number(residual, save, photos, options, tmp_path):
    """DLA takes fixed sizes: refused without a batch, fixed with one, and the sidecar knows it."""
    plain = save(residual(batch="batch"), profile={"min": 1, "opt": 4, "max": 8})
    ranges = calibrate(plain, photos, options, tmp_path / "r.json")
    with pytest.raises(InputError, match="free sizes batch") as caught:
        quantize(plain, ranges, IMPLICIT, tmp_path / "t.onnx")
    assert "--batch" in caught.value.hint
    typed = quantize(plain, ranges, replace(IMPLICIT, batch=4), tmp_path / "t.onnx")
    assert typed.details.input_shape == (4, 3, 16, 16)
    assert typed.details.output_shape == (4, 6)
    assert typed.details.profile == ShapeProfile(min=4, opt=4, max=4)


def test_fp16_for_dla_needs_no_ranges(made, tmp_path):
    """The same float graph, of which the builder makes float16."""
    options = replace(IMPLICIT, precision=Precision.FP16)
    typed = quantize(made.plain, None, options, tmp_path / "half.onnx")
    assert typed.path.read_bytes() == made.typed.path.read_bytes()
    assert typed.details.precision is Precision.FP16
    with pytest.raises(InputError, match="for implicit int8"):
        write_cache(typed, made.ranges, ORIN, tmp_path / "half.cache")


def test_a_cache_belongs_to_its_graph_and_table(made, photos, options, tmp_path):
    """Other ranges are refused; the sidecar names both parents and the reader's version."""
    other = calibrate(made.plain, photos, options, tmp_path / "other.json")
    with pytest.raises(InputError, match="was not made with range table"):
        write_cache(made.typed, other, ORIN, tmp_path / "x.cache")
    found = artifact.load(CalibrationCache, made.cache.path)
    assert found == made.cache
    assert found.provenance.parents == {
        "typed graph": made.typed.sha256,
        "ranges": made.ranges.sha256,
    }
    assert found.provenance.options == {"tensorrt": "8.5.2"}


@pytest.mark.parametrize("engine", [reference, openvino])
def test_engines_that_read_no_cache_refuse_the_graph(made, engine, tmp_path):
    """It would run as float32 and be called int8."""
    with pytest.raises(InputError, match="does not read") as caught:
        engine.BACKEND.compile(made.typed, CompileOptions(), tmp_path / "engine")
    assert "--typing strong" in caught.value.hint


def test_command_writes_graph_and_cache(made, tmp_path, capsys):
    """quantize --typing implicit: both files, each with its sidecar; their paths on stdout."""
    out = tmp_path / "made" / "dla.onnx"
    words = ["quantize", made.plain.path, "--ranges", made.ranges.path, "--typing", "implicit"]
    words += ["--tensorrt", "10.3.0", "--out", out]
    assert main.run([*map(str, words)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".cache"))]
    assert artifact.load(TypedGraph, out).sha256 == made.typed.sha256
    found, scale_of = read_cache(out.with_suffix(".cache"))
    assert found == "TRT-100300-EntropyCalibration2"
    assert scale_of == made.scale_of
    record = json.loads(out.with_suffix(".cache.json").read_text())
    assert record["kind"] == "calibration cache"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--typing", "implicit"), "names the TensorRT that will read it"),
        (("--typing", "implicit", "--tensorrt", "11.4.1"), "reads no calibration cache"),
        (("--typing", "weak", "--tensorrt", "8.5.2"), "only implicit int8 has"),
    ],
)
def test_command_says_what_is_missing(made, tmp_path, capsys, flags, message):
    """Nothing is written before the flags fit."""
    out = tmp_path / "made" / "dla.onnx"
    words = ["quantize", made.plain.path, "--ranges", made.ranges.path, *flags, "--out", out]
    assert main.run([*map(str, words)]) == 3
    assert message in capsys.readouterr().err
    assert not out.exists()
