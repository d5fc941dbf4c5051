"""statistics: multiply-adds, parameters and memory in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph.statistics import statistics


def parsed(body, signature="(float[N,4,8,8] x) => (float[N,?,?,?] y)", weights=""):
    text = f'<ir_version: 8, opset_import: ["" : 18]> g {signature} {weights} {{ {body} }}'
    return onnx.parser.parse_model(text)


def zeros(name, *sizes, kind="float"):
    count = 1
    for size in sizes:
        count *= size
    return f"{kind}[{','.join(map(str, sizes))}] {name} = {{{','.join(['0'] * count)}}}"


def test_grouped_convolution_in_closed_form():
    """6 filters of 2 x 3 x 3 over 6 x 6 places; the batch multiplies the work, not the weights."""
    model = parsed("y = Conv<group=2>(x, w)", weights=f"<{zeros('w', 6, 2, 3, 3)}>")
    one, two = statistics(model), statistics(model, batch=2)
    assert (one.macs, two.macs) == (6 * 2 * 9 * 36, 2 * 6 * 2 * 9 * 36)
    assert one.parameters == two.parameters
    assert one.parameters[0].count == 6 * 2 * 9


def test_transposed_convolution_in_closed_form():
    """Each of 4 x 8 x 8 inputs meets 5 x 2 x 2 taps."""
    model = parsed("y = ConvTranspose<strides=[2,2]>(x, w)", weights=f"<{zeros('w', 4, 5, 2, 2)}>")
    assert statistics(model).macs == 4 * 64 * 5 * 4


@pytest.mark.parametrize("body", ["y = Gemm<transB=1>(x, w)", "y = MatMul(x, w)"])
def test_products_in_closed_form(body):
    """[3, 7] times [7, 5] is 3 x 7 x 5."""
    sides = (5, 7) if "Gemm" in body else (7, 5)
    model = parsed(body, "(float[3,7] x) => (float[3,5] y)", f"<{zeros('w', *sides)}>")
    assert statistics(model).macs == 105


def test_peak_of_a_chain_and_of_a_residual():
    """A chain holds two tensors at once, a residual three; all of them are summed."""
    tensor = 4 * 8 * 8 * 4
    chain = statistics(parsed("a = Relu(x) b = Neg(a) y = Exp(b)"))
    assert (chain.activation_bytes, chain.peak_bytes) == (4 * tensor, 2 * tensor)
    residual = statistics(parsed("a = Relu(x) b = Neg(a) y = Add(a, b)"))
    assert (residual.peak_bytes, residual.peak_at) == (3 * tensor, "-> y")


@pytest.mark.parametrize("opset", [9, 18])
def test_a_mask_that_nothing_reads_is_not_written(opset):
    """Dropout's unread mask costs nothing, of whatever opset; one that is read or returned does."""
    tensor = 4 * 8 * 8
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1,4,8,8] x) =>'
    unread = onnx.parser.parse_model(f"{head} (float[1,4,8,8] y) {{ y, mask = Dropout(x) }}")
    found = statistics(unread)
    assert (found.activation_bytes, found.peak_bytes) == (2 * 4 * tensor, 2 * 4 * tensor)
    assert found.unknown_shapes == ()
    returned = onnx.parser.parse_model(
        f"{head} (float[1,4,8,8] y, bool[1,4,8,8] mask) {{ y, mask = Dropout(x) }}"
    )
    assert statistics(returned).activation_bytes == (2 * 4 + 1) * tensor


def test_every_piece_of_a_split_is_written():
    """A Split's outputs are not optional: the piece that nothing reads counts as well."""
    found = statistics(parsed("a, b, c = Split<axis=1, num_outputs=3>(x) y = Relu(c)"))
    # 4 channels in pieces of 2, 2 and 0 are what the operator's specification gives
    assert found.activation_bytes == 4 * 64 * (4 + 2 + 2 + 0 + 0)


@pytest.mark.parametrize("opset", [10, 18])
def test_sizes_behind_a_resize_are_known(opset):
    """Scales are float values that decide a shape; they are not taken for weights and dropped."""
    reads = "x, s" if opset == 10 else "x, , s"
    model = onnx.parser.parse_model(
        f'<ir_version: 5, opset_import: ["" : {opset}]> g (float[1,4,8,8] x) => '
        f"(float[?,?,?,?] y) <float[4] s = {{1, 1, 2, 3}}> {{ y = Resize({reads}) }}"
    )
    scales = np.array([1, 1, 2, 3], np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(scales, "s"))  # as bytes
    found = statistics(model)
    assert found.layers[0].sizes == (1, 4, 16, 24)
    assert found.unknown_shapes == ()


@pytest.mark.parametrize(
    ("typing", "elements"),
    [
        ("strong", [("float16", 11, 22), ("int8", 192, 192)]),
        ("strong_fp32", [("float32", 11, 44), ("int8", 192, 192)]),
        ("weak", [("float32", 203, 812)]),
    ],
)
def test_quantized_weights_are_counted_once_and_as_stored(tiny_typed, typing, elements):
    """6 x 3 x 3 x 3 and 5 x 6 weights, 6 + 5 biases; scales and zero points are no parameters."""
    found = statistics(onnx.load(tiny_typed(typing).path))
    assert [(kind.element, kind.count, kind.num_bytes) for kind in found.parameters] == elements
    assert found.macs == 6 * 27 * 64 + 5 * 6
    weighted = {layer.op: layer.num_parameters for layer in found.layers if layer.num_parameters}
    assert weighted == {"Conv": 168, "Gemm": 35}


def test_a_weight_that_two_dequantize_is_counted_once():
    """One int8 weight behind two DequantizeLinear, and an int32 bias behind a third."""
    weights = (
        f"<{zeros('w', 4, 4, 1, 1, kind='int8')}, {zeros('b', 4, kind='int32')}, float s = {{1}}>"
    )
    body = """
        one = DequantizeLinear(w, s) two = DequantizeLinear(w, s) bias = DequantizeLinear(b, s)
        a = Conv(x, one, bias) y = Conv(a, two, bias)
    """
    found = statistics(parsed(body, weights=weights))
    assert [(kind.element, kind.count) for kind in found.parameters] == [("int32", 4), ("int8", 16)]
    assert [layer.num_parameters for layer in found.layers] == [20, 0]
    assert found.num_constant_nodes == 3
    assert found.macs == 2 * 4 * 4 * 64


def test_weights_of_four_bits_are_packed():
    """Two values of int4 share a byte; the last of 5 has one alone."""
    weights = f"<{zeros('w', 5, kind='int4')}, float s = {{1}}>"
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[5] x) => (float[5] y)'
    model = onnx.parser.parse_model(
        f"{text} {weights} {{ d = DequantizeLinear(w, s) y = Add(x, d) }}"
    )
    (kind,) = statistics(model).parameters
    assert (kind.element, kind.count, kind.num_bytes) == ("int4", 5, 3)


def test_weights_that_a_node_makes_are_parameters():
    """ConstantOfShape [6, 4, 3, 3], directly and through a Reshape; its shape is no parameter."""
    weights = "<int64[4] shape = {6, 4, 3, 3}, int64[2] flat = {216, 1}, int64[4] back = {6,4,3,3}>"
    direct = "w = ConstantOfShape(shape) y = Conv(x, w)"
    turned = "m = ConstantOfShape(shape) f = Reshape(m, flat) w = Reshape(f, back) y = Conv(x, w)"
    for body, num_constant in ((direct, 1), (turned, 3)):
        found = statistics(parsed(body, weights=weights))
        assert [(kind.element, kind.count) for kind in found.parameters] == [("float32", 216)]
        assert found.num_constant_nodes == num_constant
        assert found.macs == 216 * 36


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        # floors its pools, Caffe rounded up: maps of 27, 13 and 6 pixels and less work than 1.583
        ("light_inception_v1", 6_998_552, None),
        ("light_inception_v2", None, 2.019),  # as 576 channels; its norms are spelled otherwise
        # 26,560 channels have a mean and a variance, which PyTorch does not call parameters
        ("light_resnet50", 25_557_032 + 2 * 26_560, 4.089),
    ],
)
def test_graphs_whose_weights_are_made_by_nodes(name, parameters, gmacs):
    """Topologies of the onnx package cost what docs/models.md, "Sizes", says of them."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    found = statistics(onnx.load(str(data / f"{name}.onnx")))
    assert parameters in {None, sum(kind.count for kind in found.parameters)}
    assert gmacs in {None, round(found.macs / 1e9, 3)}
    assert found.unknown_shapes == ()


def test_functions_of_the_model_count_as_their_bodies():
    """A Conv inside a function, called twice: its work twice, its one weight once."""
    model = parsed("a = me.Twice(x, w) y = me.Twice(a, w)", weights=f"<{zeros('w', 4, 4, 1, 1)}>")
    imports = [onnx.helper.make_opsetid("", 18)]
    body = [onnx.helper.make_node("Conv", ["a", "k"], ["b"])]
    model.functions.append(
        onnx.helper.make_function("me", "Twice", ["a", "k"], ["b"], body, imports)
    )
    model.opset_import.append(onnx.helper.make_opsetid("me", 1))
    found = statistics(model)
    assert (found.ops, found.unknown_macs) == ({"Conv": 2}, {})
    assert found.macs == 2 * 16 * 64
    assert found.parameters[0].count == 16


def test_custom_op_is_named_and_order_is_checked():
    """A custom op costs an unknown number; a node before its input is refused."""
    text = '<ir_version: 8, opset_import: ["" : 18, "me" : 1]> g (float[1,2] x) => (float[1,2] y)'
    found = statistics(onnx.parser.parse_model(f"{text} {{ a = me.Odd(x) y = Relu(a) }}"))
    assert found.unknown_macs == {"me.Odd": 1}
    assert found.unknown_shapes[0] == "-> a"
    with pytest.raises(InputError, match="reads 'a', which nothing before it makes"):
        statistics(parsed("y = Relu(a) a = Neg(x)"))
