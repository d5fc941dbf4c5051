"""A graph as a PyTorch module: the same numbers as onnxruntime, in float and in int8."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph.parity import run
from edge_inception.quant import scales
from edge_inception.training import graph_module as subject

# Two float32 programs add in different orders; 1e-4 of the largest logit is 1000 roundings.
TOLERANCE = 1e-4
SIDE = 9


def close(got, wanted):
    return np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def images(count=1, side=SIDE, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32)


def single(op, *, inputs=(), constants=None, **attributes):
    """A graph of one node that reads the image, then the constants."""
    arrays = dict(constants or {})
    names = [name for name in arrays if name not in inputs]
    node = helper.make_node(op, ["input", *names], ["logits"], name="node", **attributes)
    return helper.make_model(
        helper.make_graph(
            [node],
            "single",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


FORMS = {
    "conv": single("Conv", constants={"w": normal(4, 3, 3, 3), "b": normal(4)}, pads=[1] * 4),
    "conv, uneven pads": single("Conv", constants={"w": normal(4, 3, 3, 2)}, pads=[0, 1, 2, 0]),
    "conv, strides and dilations": single(
        "Conv", constants={"w": normal(4, 3, 3, 3)}, strides=[2, 1], dilations=[1, 2]
    ),
    "conv of groups": single("Conv", constants={"w": normal(6, 1, 3, 3), "b": normal(6)}, group=3),
    "max pool": single("MaxPool", kernel_shape=[3, 3], strides=[2, 2]),
    "max pool, ceiling": single("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "max pool, padded": single("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "max pool, uneven pads": single("MaxPool", kernel_shape=[3, 3], pads=[0, 0, 2, 1]),
    "average pool": single("AveragePool", kernel_shape=[3, 3], pads=[1] * 4),
    "average pool, pads counted": single(
        "AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    ),
    "average pool, uneven pads": single(
        "AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0]
    ),
    "global average pool": single("GlobalAveragePool"),
    "flatten": single("Flatten", axis=2),
    "reshape": single("Reshape", constants={"shape": np.array([0, -1, SIDE])}),
    "lrn": single("LRN", size=3, alpha=0.3, beta=0.6, bias=1.5),
    "softmax": single("Softmax", axis=1),
    "scale": single("Mul", constants={"k": normal(1, 3, 1, 1)}),
    "shift": single("Sub", constants={"k": normal(1, 3, 1, 1)}),
}


@pytest.mark.parametrize("name", FORMS)
def test_operations_are_those_of_onnxruntime(name):
    """Every op answers as onnxruntime's, in every form that our networks use."""
    got = subject.GraphModule(FORMS[name])(torch.from_numpy(images())).detach().numpy()
    wanted = run(FORMS[name], images())
    assert got.shape == wanted.shape
    assert close(got, wanted)


@pytest.mark.parametrize(
    "matrix", [{"transB": 1}, {"transB": 0, "alpha": 0.5, "beta": 2.0}], ids=["plain", "scaled"]
)
def test_gemm(matrix):
    """A Gemm takes its matrix turned or not, and scales product and bias."""
    shape = (4, 3) if matrix["transB"] else (3, 4)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("GlobalAveragePool", ["input"], ["mean"], name="mean"),
                helper.make_node("Flatten", ["mean"], ["flat"], name="flat"),
                helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], name="fc", **matrix),
            ],
            "head",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
            [numpy_helper.from_array(normal(*shape), "w"), numpy_helper.from_array(normal(4), "b")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    module = subject.GraphModule(model)
    assert close(module(torch.from_numpy(images(5))).detach().numpy(), run(model, images(5)))
    assert set(module.arrays()) == {"w", "b"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (single("Erf"), "node 'node': Erf cannot be trained"),
        (single("LRN", size=4), "an even number"),
        (single("AveragePool", kernel_shape=[2, 2], ceil_mode=1), "with ceil_mode"),
        (single("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_UPPER"), "with auto_pad"),
    ],
)
def test_refused(model, message):
    """What has no counterpart is refused by the name of its node, and those that have are named."""
    with pytest.raises(InputError, match=message) as caught:
        subject.GraphModule(model)
    assert "AveragePool, Concat, Conv" in caught.value.hint


class TestPair:
    def test_forward_is_quantize_linear(self):
        """A pair gives what onnxruntime's QuantizeLinear and DequantizeLinear give, to the bit."""
        scale = np.float32(0.0123)
        values = np.linspace(-3, 3, 3 * SIDE * SIDE, dtype=np.float32).reshape(1, 3, SIDE, SIDE)
        ties = scale * np.arange(-130.5, 130, dtype=np.float32)
        values.reshape(-1)[: ties.size - 20] = ties[: values.size][: ties.size - 20]
        zero = numpy_helper.from_array(np.int8(0), "z")
        step = numpy_helper.from_array(np.array(scale), "s")
        model = helper.make_model(
            helper.make_graph(
                [
                    helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]),
                    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["logits"]),
                ],
                "pair",
                [helper.make_tensor_value_info("input", TensorProto.FLOAT, values.shape)],
                [helper.make_tensor_value_info("logits", TensorProto.FLOAT, values.shape)],
                [step, zero],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=8,
        )
        got = subject.fake_quantize(torch.from_numpy(values), torch.tensor(scale), -128.0)
        assert np.array_equal(got.numpy(), run(model, values))

    def test_gradient_goes_straight_through(self):
        """The gradient of a pair is that of the identity within -128.5 .. 127.5 steps, else 0."""
        values = torch.tensor([-70.0, -64.3, -64.1, -0.2, 0.0, 63.6, 63.8, 90.0])
        values.requires_grad_()
        weights = torch.arange(1.0, 9.0)
        (subject.fake_quantize(values, torch.tensor(0.5), -128.0) * weights).sum().backward()
        assert values.grad.tolist() == [0, 0, 3, 4, 5, 6, 0, 0]

    def test_gradient_of_a_layer(self):
        """d/dw of 0.5 * (Q(w) Q(x))^2 is Q(w) Q(x)^2, and d/dx is Q(w)^2 Q(x): chain rule, Q' = 1.

        One weight has the scale |w| / 127, so that Q(w) is w up to the float16 of the scale.
        """
        weight = torch.tensor([[0.37]], requires_grad=True)
        x = torch.tensor([[1.23]], requires_grad=True)
        rounded = subject.fake_quantize_weight(weight, 0)
        seen = subject.fake_quantize(x, torch.tensor(0.1), -128.0)
        (0.5 * (seen @ rounded.T) ** 2).sum().backward()
        w, q = rounded.item(), 1.2
        assert weight.grad.item() == pytest.approx(w * q * q)
        assert x.grad.item() == pytest.approx(w * w * q)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_weights_are_those_of_the_typed_graph(self, axis):
        """Weights are rounded as quantize_weight stores them, and their scale follows them."""
        for values in (normal(5, 7), 3 * normal(5, 7)):
            steps, scale = scales.quantize_weight(values, axis=axis)
            wanted = steps * scales.along(scale, axis=axis, ndim=2)
            got = subject.fake_quantize_weight(torch.from_numpy(values), axis)
            assert np.array_equal(got.numpy(), wanted)


def test_parameters_are_weights_and_biases():
    """Weights and biases of layers are trained, other constants are not, and changes are read."""
    fixed = {"w": normal(4, 3, 3, 3), "b": normal(4)}
    module = subject.GraphModule(single("Conv", constants=fixed))
    assert {name: value.shape for name, value in module.arrays().items()} == {
        "w": (4, 3, 3, 3),
        "b": (4,),
    }
    with torch.no_grad():
        module.weights[1].zero_()
    assert not module.arrays()["b"].any()
    assert subject.GraphModule(FORMS["scale"]).arrays() == {}
