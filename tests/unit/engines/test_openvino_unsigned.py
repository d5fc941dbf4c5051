"""OpenVINO computes symmetric int8 as the ONNX specification says, for any sign on any CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")
onnxruntime = pytest.importorskip("onnxruntime")

from hypothesis import given, settings  # noqa: E402 -- after the skips
from hypothesis import strategies as st  # noqa: E402 -- after the skips
from hypothesis.extra.numpy import arrays  # noqa: E402 -- after the skips
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 -- after the skips

from edge_inception.engines import _openvino  # noqa: E402
from edge_inception.engines._openvino_unsigned import (  # noqa: E402
    Respelled,
    SharedWeights,
    limited_steps,
    saturates,
    unsigned_activations,
)

pytestmark = pytest.mark.cpu_isa

SIDE = 12


class Net:
    """A weak-spelled int8 graph, built node by node."""

    def __init__(self) -> None:
        self.nodes, self.constants = [], []
        self.rng = np.random.default_rng(0)

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(self, source, scale, name):
        scale = self.constant(f"{name}.s", np.float32(scale))
        zero = self.constant(f"{name}.z", np.int8(0))
        self.nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [f"{name}.q"]))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [name]))
        return name

    def weights(self, shape, name):
        steps = self.rng.integers(-127, 128, shape).astype(np.int8)
        spread = np.sqrt(np.prod(shape[1:]) / 16)
        scales = (self.rng.uniform(0.5, 1.5, shape[0]) / 127 / spread).astype(np.float32)
        names = [
            self.constant(f"{name}.w", steps),
            self.constant(f"{name}.ws", scales),
            self.constant(f"{name}.wz", np.zeros(shape[0], np.int8)),
        ]
        self.nodes.append(helper.make_node("DequantizeLinear", names, [f"{name}.wd"], axis=0))
        return f"{name}.wd"

    def linear(self, source, shape, name, **attributes):
        pads = [shape[2] // 2, shape[3] // 2] * 2
        operands = [source, self.weights(shape, name)]
        return self.op("Conv", operands, name, pads=pads, **attributes)

    def relu6(self, source, name):
        ends = [self.constant(f"{name}.{end}", np.float32(end)) for end in (0, 6)]
        return self.op("Clip", [source, *ends], name)

    def conv(self, source, shape, name):
        return self.op("Relu", [self.linear(source, shape, f"{name}.c")], name)

    def op(self, kind, sources, name, **attributes):
        self.nodes.append(helper.make_node(kind, sources, [name], **attributes))
        return name

    def model(self, output, shape=(1, 8, SIDE, SIDE)):
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 13)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=7)


def concat_net():
    """Two int8 convolutions and a pool, concatenated, quantized, read by a third convolution."""
    net = Net()
    x = net.pair("input", 0.03, "x")
    left, right = net.conv(x, (8, 8, 1, 1), "left"), net.conv(x, (8, 8, 3, 3), "right")
    kept = net.pair(right, 0.01, "kept")
    pool = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    pooled = net.pair(net.op("MaxPool", [kept], "pool", **pool), 0.01, "pooled")
    joined = net.pair(net.op("Concat", [left, right, pooled], "cat", axis=1), 0.013, "joined")
    return net.model(net.conv(joined, (16, 24, 1, 1), "last"))


def mobilenet():
    """Two inverted residuals of MobileNetV2: ReLU6, depthwise convolutions, one sum."""
    net = Net()
    x = net.relu6(net.linear(net.pair("input", 0.03, "x"), (16, 8, 3, 3), "stem"), "stem.r")
    sizes = [(96, 16, 24), (144, 24, 24)]
    for index, (wide, narrow, out) in enumerate(sizes):
        block = net.pair(x, 0.05, f"{index}.x")
        expanded = net.relu6(net.linear(block, (wide, narrow, 1, 1), f"{index}.a"), f"{index}.ar")
        expanded = net.pair(expanded, 0.02, f"{index}.aq")
        depthwise = net.linear(expanded, (wide, 1, 3, 3), f"{index}.d", group=wide)
        depthwise = net.pair(net.relu6(depthwise, f"{index}.dr"), 0.02, f"{index}.dq")
        block_output = net.linear(depthwise, (out, wide, 1, 1), f"{index}.b")
        x = net.op("Add", [block, block_output], "sum") if index else block_output
    pooled = net.op("GlobalAveragePool", [net.pair(x, 0.05, "last")], "pool")
    return net.model(pooled)


def by_openvino(model, *, saturating, is_for_cpu=False):
    """The compiled graph, and what was respelled."""
    core = openvino.Core()
    network = core.read_model(model.SerializeToString())
    if network.input(0).partial_shape.is_dynamic:
        network.reshape([(1, 4), *list(network.input(0).partial_shape)[1:]])
    respelled = unsigned_activations(network, saturates=saturating, is_for_cpu=is_for_cpu)
    how = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core.compile_model(network, "CPU", how), respelled


def by_onnxruntime(model, images):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"input": images})[0]


def relative_error(got, wanted):
    return float(np.sqrt(np.square(got - wanted).sum() / np.square(wanted).sum()))


def check(model, images, *, unsigned=0, offset=0, split=0, floating=0):
    """Compare with onnxruntime and count, in the form for saturating sums, which is right on every
    CPU, and in this CPU's form.
    """
    wanted = {True: Respelled(unsigned=unsigned, split=split, floating=floating)}
    if not saturates():
        wanted[False] = Respelled(unsigned=unsigned, offset=offset)
    expected = by_onnxruntime(model, images)
    for saturating, counts in wanted.items():
        compiled, respelled = by_openvino(model, saturating=saturating)
        assert respelled == counts
        # One value rounded to the other neighbour somewhere is far above this; a saturated sum or
        # a lost scale, the faults this guards against, are above 0.05. Float32 sums differ by 1e-6.
        assert relative_error(compiled({0: images})[0], expected) < 1e-5
    check_for_cpu(model, images)


def for_cpu(model):
    """The same graph with the typing of CPUs: uint8 with zero point 128 has the levels of int8."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for tensor in twin.graph.initializer:
        if tensor.name.endswith(".z"):
            tensor.CopyFrom(numpy_helper.from_array(np.uint8(128), tensor.name))
    return twin


def check_for_cpu(model, images):
    """Compare the graph for CPUs with onnxruntime: as it is where sums do not saturate.

    Where they do, with weights that ``limited_steps`` has put into the graph before.
    """
    twin = for_cpu(model)
    limited = onnx.ModelProto()
    limited.CopyFrom(twin)
    stored = {tensor.name: tensor for tensor in limited.graph.initializer}
    num_limited = 0
    for name, tensor in stored.items():
        if name.endswith(".w"):
            factors, steps = limited_steps(numpy_helper.to_array(tensor))
            num_limited += bool((factors > 1).any())
            tensor.CopyFrom(numpy_helper.from_array(steps, name))
            scales = numpy_helper.to_array(stored[f"{name}s"]) * factors.astype(np.float32)
            stored[f"{name}s"].CopyFrom(numpy_helper.from_array(scales, f"{name}s"))
    wanted = {True: limited} if saturates() else {True: limited, False: twin}
    for saturating, expected in wanted.items():
        compiled, respelled = by_openvino(twin, saturating=saturating, is_for_cpu=True)
        assert respelled == Respelled(limited=num_limited if saturating else 0)
        found = compiled({0: images})[0]
        assert relative_error(found, by_onnxruntime(expected, images)) < 1e-5


_AS_SPELLED = """
import sys
import numpy as np
import openvino
core = openvino.Core()
settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
graph, images, answers = sys.argv[1:]
np.save(answers, core.compile_model(graph, "CPU", settings)({0: np.load(images)})[0])
from edge_inception.engines._openvino_unsigned import saturates
print(saturates(), *core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is an instruction set of x86")
def test_a_cpu_lowered_to_avx2_saturates(tmp_path):
    """``make test-avx2`` stands on it: without the respelling a CPU of any age is wrong there."""
    net, size = Net(), (1, 64, SIDE, SIDE)
    model = net.model(net.linear(net.pair("input", 0.03, "x"), (64, 64, 3, 3), "y"), size)
    images = random_images(*size)
    paths = [tmp_path / name for name in ("graph.onnx", "images.npy", "answers.npy")]
    onnx.save(model, paths[0])
    np.save(paths[1], images)
    lowered = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"}
    command = [sys.executable, "-c", _AS_SPELLED, *map(str, paths)]
    found, *capabilities = subprocess.check_output(command, env=lowered, text=True).split()
    assert "INT8" in capabilities
    assert not {"BF16", "FP16"} & set(capabilities)
    assert relative_error(np.load(paths[2]), by_onnxruntime(model, images)) > 0.05
    assert found == "True"


def random_images(*shape):
    # beyond 127 scales on purpose, so that clipping at both ends is part of what is compared
    return np.random.default_rng(1).normal(0, 2, shape).astype(np.float32)


@pytest.fixture
def images():
    return random_images(1, 8, SIDE, SIDE)


def test_a_concat_keeps_its_scale(images):
    """Convolutions, a pool and a concat of tensors without negative values, behind a signed one."""
    check(concat_net(), images, unsigned=3, offset=1, split=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize(
    ("shape", "group"),
    [
        ((16, 3, 3, 3), 1),
        ((8, 8, 1, 1), 1),
        ((7, 5, 3, 3), 1),
        ((64, 64, 1, 7), 1),
        ((64, 64, 7, 1), 1),
        ((64, 192, 5, 5), 1),
        ((65, 33, 1, 1), 1),
        ((32, 8, 3, 3), 4),
        ((32, 1, 3, 3), 32),
    ],
)
def test_a_convolution_of_either_sign_is_exact(shape, group, is_signed, stride):
    """Every kernel that OpenVINO picks, with weights over the whole range of int8."""
    net = Net()
    source = "input" if is_signed else net.op("Relu", ["input"], "positive")
    strides = [stride, stride]
    output = net.linear(net.pair(source, 0.03, "x"), shape, "y", group=group, strides=strides)
    size = (1, shape[1] * group, SIDE, SIDE)
    wanted = {"offset": 1, "split": 1} if is_signed else {"unsigned": 1}
    check(net.model(output, size), random_images(*size), **wanted)


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize(("num_out", "num_in"), [(10, 64), (1000, 512), (2, 33)])
def test_a_matrix_product_of_either_sign_is_exact(num_out, num_in, is_signed):
    """The classifier, also of an embedding network, whose features may be negative."""
    net = Net()
    source = "input" if is_signed else net.op("Relu", ["input"], "positive")
    operands = [net.pair(source, 0.03, "x"), net.weights((num_out, num_in), "y")]
    output = net.op("Gemm", operands, "y", transB=1)
    wanted = {"offset": 1, "split": 1} if is_signed else {"unsigned": 1}
    check(net.model(output, (4, num_in)), random_images(4, num_in), **wanted)


@pytest.mark.parametrize(
    ("reader", "wanted"),
    [
        ("Conv", {"split": 2}),
        ("Add", {"split": 2, "floating": 1}),
        ("AveragePool", {"split": 1, "floating": 1}),
        ("MaxPool", {"split": 1, "floating": 1}),
    ],
)
def test_a_concat_of_both_signs_is_exact(images, reader, wanted):
    """No ReLU before the concat; where sums saturate, layers with weights get both parts, the rest
    float values.
    """
    net = Net()
    x = net.pair("input", 0.03, "x")
    branches = [net.linear(x, (8, 8, 1, 1), "left"), net.linear(x, (8, 8, 3, 3), "right")]
    joined = net.pair(net.op("Concat", branches, "cat", axis=1), 0.01, "joined")
    if reader == "Conv":
        output = net.linear(joined, (16, 16, 1, 1), "last")
    elif reader == "Add":
        output = net.op("Add", [net.linear(joined, (16, 16, 1, 1), "last"), joined], "sum")
    else:
        output = net.op(reader, [joined], "pool", kernel_shape=[3, 3])
    check(net.model(output), images, offset=2, **wanted)


@pytest.mark.parametrize("is_relu_before", [True, False])
@pytest.mark.parametrize("is_relu_behind", [True, False])
@pytest.mark.parametrize("is_identity_first", [True, False])
def test_a_residual_block_is_exact(images, is_relu_before, is_relu_behind, is_identity_first):
    """An Inception-ResNet block; the last one of the network has no ReLU behind its sum."""
    net = Net()
    stem = net.conv if is_relu_before else net.linear
    x = net.pair(stem(net.pair("input", 0.03, "i"), (16, 8, 3, 3), "stem"), 0.01, "x")
    reduced = net.pair(net.conv(x, (8, 16, 1, 1), "b0"), 0.01, "b0.q")
    branches = [net.conv(x, (8, 16, 1, 1), "a"), net.conv(reduced, (8, 8, 3, 3), "b1")]
    joined = net.pair(net.op("Concat", branches, "cat", axis=1), 0.01, "joined")
    terms = [net.linear(joined, (16, 16, 1, 1), "up"), x]
    output = net.op("Add", terms[::-1] if is_identity_first else terms, "sum")
    if is_relu_behind:
        output = net.op("Relu", [output], "sum.relu")
    output = net.conv(net.pair(output, 0.02, "q"), (16, 16, 1, 1), "last")
    num_signed = 1 + (not is_relu_before) + (not is_relu_behind)
    counts = {"unsigned": 5 - num_signed, "offset": num_signed, "split": num_signed}
    check(net.model(output), images, **counts)


def test_a_projection_block_is_exact(images):
    """A ResNet block whose identity is a convolution: its pair is signed and only the sum reads."""
    net = Net()
    x = net.pair(net.conv(net.pair("input", 0.03, "i"), (16, 8, 3, 3), "stem"), 0.01, "x")
    reduced = net.pair(net.conv(x, (8, 16, 1, 1), "a"), 0.01, "a.q")
    down = net.pair(net.linear(x, (32, 16, 1, 1), "down"), 0.01, "down.q")
    terms = [net.linear(reduced, (32, 8, 3, 3), "up"), down]
    output = net.op("Relu", [net.op("Add", terms, "sum")], "sum.relu")
    output = net.conv(net.pair(output, 0.02, "q"), (16, 32, 1, 1), "last")
    check(net.model(output), images, unsigned=3, offset=2, split=1)


@pytest.mark.parametrize(
    ("kind", "pool"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 0}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("GlobalAveragePool", {}),
    ],
)
def test_pools_of_both_signs_are_exact(images, kind, pool):
    """Two pools in a row behind a convolution without ReLU, then a padded convolution."""
    net = Net()
    x = net.pair(net.linear(net.pair("input", 0.03, "i"), (16, 8, 3, 3), "a"), 0.01, "x")
    for index, scale in enumerate((0.0073, 0.0061)):  # no average is half a step
        x = net.pair(net.op(kind, [x], f"pool{index}", **pool), scale, f"pool{index}.q")
    model = net.model(net.linear(x, (16, 16, 3, 3), "last"))
    check(model, images, offset=4, split=2)


@pytest.mark.parametrize("kind", ["MaxPool", "Pad", "Relu", "Slice", "Transpose"])
def test_a_layer_between_a_pair_and_a_convolution_is_exact(images, kind):
    """Where sums saturate, a layer that is not split computes in float."""
    net = Net()
    x = net.pair(net.linear(net.pair("input", 0.03, "i"), (16, 8, 3, 3), "a"), 0.01, "x")
    operands = {"Pad": [[0, 0, 1, 1] * 2], "Slice": [[1], [9], [1]]}.get(kind, [])
    names = [net.constant(f"o{index}", np.int64(value)) for index, value in enumerate(operands)]
    attributes = {"MaxPool": {"kernel_shape": [3, 3]}, "Transpose": {"perm": [0, 1, 3, 2]}}
    x = net.op(kind, [x, *names], "between", **attributes.get(kind, {}))
    model = net.model(net.linear(x, (16, 8 if kind == "Slice" else 16, 3, 3), "last"))
    check(model, images, offset=2, split=1, floating=1)


@pytest.mark.parametrize("before", ["Concat", "MaxPool", "Pad"])
def test_an_average_counts_padding_as_zero(images, before):
    """Also where the pool reads its values behind another layer, or where a Pad pads them."""
    net = Net()
    x = net.pair(net.linear(net.pair("input", 0.03, "i"), (16, 8, 3, 3), "a"), 0.01, "x")
    pads = {"pads": [1, 1, 1, 1], "count_include_pad": 1}
    if before == "Pad":
        x, pads = net.op("Pad", [x, net.constant("p", np.int64([0, 0, 1, 1] * 2))], "pad"), {}
    elif before == "MaxPool":
        x = net.op("MaxPool", [x], "max", kernel_shape=[3, 3])
    else:
        x = net.op("Concat", [x, x], "cat", axis=1)
    model = net.model(net.op("AveragePool", [x], "pool", kernel_shape=[3, 3], **pads))
    check(model, images, offset=2, split=1)


@pytest.mark.parametrize("is_joined", [True, False])
def test_a_folded_zero_point_is_exact(images, is_joined):
    """A constant that is subtracted before a pair; another layer reads the tensor without it."""
    net = Net()
    x = net.pair("input", 0.03, "i")
    relu = net.conv(x, (16, 8, 3, 3), "a")
    if is_joined:
        relu = net.op("Concat", [relu, net.conv(x, (16, 8, 1, 1), "b")], "cat", axis=1)
    width = 32 if is_joined else 16
    folded = net.op("Sub", [relu, net.constant("c", np.float32(128 * 0.01))], "folded")
    last = net.linear(net.pair(folded, 0.01, "q"), (width, width, 1, 1), "last")
    model = net.model(net.op("Add", [last, relu], "sum"))
    check(model, images, offset=2, split=2)
    network = openvino.Core().read_model(model.SerializeToString())
    unsigned_activations(network, saturates=False)
    names = [node.get_friendly_name() for node in network.get_ordered_ops()]
    assert "folded" not in names


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dynamic_batch_is_exact(batch):
    """Compiled for 1 to 4 images."""
    net = Net()
    x = net.pair(net.linear(net.pair("input", 0.03, "x"), (16, 8, 3, 3), "a"), 0.01, "y")
    branches = [net.linear(x, (8, 16, 1, 1), "l"), net.linear(x, (8, 16, 3, 3), "r")]
    joined = net.pair(net.op("Concat", branches, "cat", axis=1), 0.01, "joined")
    model = net.model(net.linear(joined, (16, 16, 3, 3), "last"), ("N", 8, SIDE, SIDE))
    check(model, random_images(batch, 8, SIDE, SIDE), offset=3, split=3)


def test_a_mobilenet_runs_in_int8(images):
    """No tensor behind a ReLU6 is split, and no layer with weights is computed in float."""
    model = mobilenet()
    check(model, images, unsigned=5, offset=3, split=2)
    compiled, _ = by_openvino(model, saturating=saturates())
    layers = _openvino._executed_layers(compiled)
    assert layers["int8_layers"] == layers["weighted_layers"] == 7
    if not saturates():
        assert "Concatenation" not in layers["executed_layers"]


def _operators(net):
    """Tensors that cannot be negative, by operator."""
    positive = net.op("Relu", ["input"], "positive")
    three = net.constant("three", np.float32(3))
    two = net.constant("two", np.float32(2))
    zero = net.constant("zero", np.float32(0))
    return {
        "ReLU6": lambda: net.relu6("input", "y"),
        "Max": lambda: net.op("Max", ["input", zero], "y"),
        "Min": lambda: net.op("Min", [positive, three], "y"),
        "Sigmoid": lambda: net.op("Sigmoid", ["input"], "y"),
        "HardSigmoid": lambda: net.op("HardSigmoid", ["input"], "y"),
        "Softmax": lambda: net.op("Softmax", ["input"], "y"),
        "Add": lambda: net.op("Add", [net.op("Sigmoid", ["input"], "s"), positive], "y"),
        "Mul": lambda: net.op("Mul", [net.op("Sigmoid", ["input"], "s"), positive], "y"),
        "Div": lambda: net.op("Div", [positive, three], "y"),
        "Sub": lambda: net.op("Sub", [net.op("Max", ["input", three], "m"), two], "y"),
        "Transpose": lambda: net.op("Transpose", [positive], "y", perm=[0, 1, 3, 2]),
        "LRN": lambda: net.op("LRN", [positive], "y", size=3),
    }


@pytest.mark.parametrize("kind", _operators(Net()))
def test_operators_without_negative_values_are_known(images, kind):
    """Their pairs become unsigned, and the values are those of the signed pairs."""
    net = Net()
    net.pair(_operators(net)[kind](), 0.03, "q")
    check(net.model(net.linear("q", (8, 8, 3, 3), "last")), images, unsigned=1)


@pytest.mark.parametrize(
    ("kind", "constant"), [("Sub", 0.5), ("Mul", -1.0), ("Add", -0.5), ("Min", -1.0)]
)
def test_operators_with_negative_values_are_known(images, kind, constant):
    """A tensor without negative values may get some again."""
    net = Net()
    operands = [net.op("Relu", ["input"], "r"), net.constant("c", np.float32(constant))]
    net.pair(net.op(kind, operands, "y"), 0.03, "q")
    check(net.model(net.linear("q", (8, 8, 3, 3), "last")), images, offset=1, split=1)


@pytest.mark.parametrize("is_read_in_float", [True, False])
def test_a_relu_that_only_a_pair_reads_is_one_step_with_its_clamp(images, is_read_in_float):
    """Its values in float, where a sum reads them as well, are those before the clamp."""
    net = Net()
    relu = net.conv(net.pair("input", 0.03, "x"), (16, 8, 3, 3), "a")
    output = net.linear(net.pair(relu, 0.01, "q"), (16, 16, 1, 1), "b")
    if is_read_in_float:
        output = net.op("Add", [output, relu], "sum")
    model = net.model(output)
    check(model, images, unsigned=1, offset=1, split=1)
    network = openvino.Core().read_model(model.SerializeToString())
    unsigned_activations(network, saturates=saturates())
    kinds = [node.get_type_name() for node in network.get_ordered_ops()]
    assert kinds.count("Relu") == is_read_in_float


def test_shared_weights_of_both_signs_are_refused():
    """Two layers of one weight cannot both have it mirrored: said, with the layer's name."""
    net = Net()
    shared = net.weights((8, 8, 1, 1), "w")
    first = net.op("Conv", [net.pair("input", 0.03, "x"), shared], "first")
    output = net.op("Conv", [net.pair(first, 0.03, "y"), shared], "second")
    network = openvino.Core().read_model(net.model(output).SerializeToString())
    with pytest.raises(SharedWeights, match="shares its weights and has an input of both signs"):
        unsigned_activations(network, saturates=True)


@pytest.mark.parametrize("saturating", [True, False])
def test_respelling_twice_changes_nothing(saturating):
    """Idempotent: uint8 pairs are not signed pairs."""
    network = openvino.Core().read_model(concat_net().SerializeToString())
    assert unsigned_activations(network, saturates=saturating).unsigned == 3
    assert unsigned_activations(network, saturates=saturating) == Respelled()


def test_a_float_graph_is_left_alone():
    """Nothing to do, nothing changed."""
    net = Net()
    model = net.model(net.op("MaxPool", ["input"], "pool", kernel_shape=[3, 3]))
    network = openvino.Core().read_model(model.SerializeToString())
    before = [node.get_type_name() for node in network.get_ordered_ops()]
    assert unsigned_activations(network, saturates=saturates()) == Respelled()
    assert [node.get_type_name() for node in network.get_ordered_ops()] == before


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.int8, st.tuples(*(st.integers(1, n) for n in (5, 9, 3))), elements=st.integers(-127, 127)
    )
)
def test_limited_weights_fit_16_bits_and_keep_their_sums(steps):
    """By hand: no pair of inputs exceeds 128, and running sums differ by half a level."""
    factors, limited = limited_steps(steps)
    for row, new, factor in zip(steps.astype(int), limited.astype(int), factors, strict=True):
        for first in range(0, len(row), 2):
            for pixel in range(row.shape[1]):
                pair = [int(value) for value in new[first : first + 2, pixel]]
                assert sum(value for value in pair if value > 0) <= 128
                assert sum(value for value in pair if value < 0) >= -128
        gaps = np.cumsum(row.reshape(-1)) / factor - np.cumsum(new.reshape(-1))
        assert np.abs(gaps).max() <= 0.5 + 1e-9
        if factor == 1:
            assert (row == new).all()
        assert 1 <= factor <= 2.1


@pytest.mark.parametrize("is_for_cpu", [True, False])
def test_a_graph_for_cpus_is_known_by_its_activations(is_for_cpu, monkeypatch, tmp_path):
    """No caller has to say so: the search once scored such graphs with sums that saturated."""
    net = Net()
    output = net.linear(net.pair("input", 0.03, "x"), (64, 64, 3, 3), "y")
    model, path = net.model(output, (1, 64, SIDE, SIDE)), tmp_path / "net.onnx"
    onnx.save(for_cpu(model) if is_for_cpu else model, path)
    monkeypatch.setattr(_openvino, "saturates", lambda: True)
    compiled = _openvino.compile_graph(
        _openvino.read_graph(str(path)), name="net", precision="f32", threads=1, batch=(1, 1)
    )
    assert compiled.respelled == (Respelled(limited=1) if is_for_cpu else Respelled(split=1))
