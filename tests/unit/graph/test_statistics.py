"""statistics: multiply-adds, parameters and memory in closed form."""

from __future__ import annotations

import onnx
import pytest

from edge_inception import cli
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


def test_custom_op_is_named_and_order_is_checked():
    """A custom op costs an unknown number; a node before its input is refused."""
    text = '<ir_version: 8, opset_import: ["" : 18, "me" : 1]> g (float[1,2] x) => (float[1,2] y)'
    found = statistics(onnx.parser.parse_model(f"{text} {{ a = me.Odd(x) y = Relu(a) }}"))
    assert found.unknown_macs == {"me.Odd": 1}
    assert found.unknown_shapes[0] == "-> a"
    with pytest.raises(InputError, match="reads 'a', which nothing before it makes"):
        statistics(parsed("y = Relu(a) a = Neg(x)"))


def test_command_refuses_with_one_line(tmp_path, capsys):
    """A file that is missing or empty is one exact line and exit code 3."""
    path = tmp_path / "m.onnx"
    assert cli.run(["inspect", str(path)]) == 3
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"error: cannot read graph {path}: No such file or directory"
    path.write_bytes(b"")
    assert cli.run(["inspect", str(path)]) == 3
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"error: {path} is not an ONNX graph: it has no nodes or no opset"
