"""Rooflines in closed form, and against NVIDIA's published figures of Inception-v4."""

from __future__ import annotations

import json
import math

import onnx
import pytest
from onnx import TensorProto, helper

from edge_inception import registry
from edge_inception.cli import main
from edge_inception.errors import InputError
from edge_inception.estimate import roofline as rooflines
from edge_inception.estimate.roofline import CHECK_POINTS, Peaks, estimate, memory_need, peaks_of
from edge_inception.graph.statistics import statistics
from edge_inception.hardware import targets
from edge_inception.models._layers import Concat, Conv, MaxPool
from edge_inception.spec import Precision

FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8
ONE_OF_ALL = Peaks(macs_per_s=1.0, bytes_per_s=1.0, bytes_per_element=2)


def parsed(body, weights=(), signature="(float[N,4,8,8] x) => (float[N,?,?,?] y)"):
    """A graph in ONNX's text; ``weights`` are (name, *sizes), zeros."""
    held = ",".join(
        f"float{list(sizes) if sizes else ''} {name} = {{{','.join(['0'] * math.prod(sizes))}}}"
        for name, *sizes in weights
    )
    text = f'<ir_version: 8, opset_import: ["" : 18]> g {signature} <{held}> {{ {body} }}'
    return onnx.parser.parse_model(text)


def bound_of(model, peaks=ONE_OF_ALL, batch=None):
    return estimate(statistics(model, batch=batch), peaks)


# --- an independent ONNX spelling of our own Inception-v4; only its sizes matter


class _Writer:
    """Nodes and weights without data, from the records that describe an architecture."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def node(self, op, inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *sizes):
        name = f"w{len(self.weights)}"
        self.weights.append(TensorProto(name=name, dims=sizes, data_type=TensorProto.FLOAT))
        return name

    def unit(self, unit, x, channels):
        if isinstance(unit, tuple):
            for part in unit:
                x, channels = self.unit(part, x, channels)
            return x, channels
        if isinstance(unit, Conv):
            pads = [0, 0] if unit.padding == "valid" else [side // 2 for side in unit.kernel]
            out = unit.out_channels
            names = [x, self.weight(out, channels, *unit.kernel), self.weight(out)]
            y = self.node("Conv", names, pads=pads * 2, strides=[unit.stride] * 2)
            return self.node("Relu", [y]), unit.out_channels
        if isinstance(unit, MaxPool):
            return self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2]), channels
        return self.node("AveragePool", [x], kernel_shape=[3, 3], pads=[1] * 4), channels

    def concat(self, layer, x, channels):
        done = {(): (x, channels)}
        for route in layer.routes:
            for depth, name in enumerate(route, start=1):
                if route[:depth] not in done:
                    done[route[:depth]] = self.unit(layer.units[name], *done[route[: depth - 1]])
        ends = [done[route] for route in layer.routes]
        return self.node("Concat", [e[0] for e in ends], axis=1), sum(e[1] for e in ends)


@pytest.fixture(scope="module")
def inception_v4():
    """Statistics of the whole network by batch."""
    architecture = registry.model("inception_v4").describe(num_classes=1000)
    writer, x, channels = _Writer(), "x", 3
    for layer in architecture.layers.values():
        add = writer.concat if isinstance(layer, Concat) else writer.unit
        x, channels = add(layer, x, channels)
    x = writer.node("Flatten", [writer.node("GlobalAveragePool", [x])])
    names = [x, writer.weight(1000, channels), writer.weight(1000)]
    y = writer.node("Gemm", names, transB=1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        writer.nodes,
        "inception_v4",
        [value("x", TensorProto.FLOAT, ["N", 3, 299, 299])],
        [value(y, TensorProto.FLOAT, ["N", 1000])],
        writer.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return lambda batch: statistics(model, batch=batch)


def test_the_network_of_the_check_points_is_whole(inception_v4):
    """149 Conv with 12.25e9 multiply-adds, and the published parameters but batch norm's second."""
    found = inception_v4(1)
    assert found.ops["Conv"] == 149
    convs = [layer for layer in found.layers if layer.op == "Conv"]
    # docs/hardware.md, "Roofline", to 4 figures
    assert sum(layer.macs for layer in convs) == pytest.approx(12.254e9, rel=2e-4)
    # a bias for each channel where timm's checkpoint has a weight and a bias of batch norm
    channels = sum(layer.sizes[1] for layer in convs)
    assert sum(layer.num_parameters for layer in found.layers) + channels == 42_679_816


@pytest.mark.parametrize("point", CHECK_POINTS, ids=lambda p: f"{p.target}-{p.images_per_s:.0f}")
def test_published_figures_fall_within_the_band(point, inception_v4):
    """Nano, TX2, Xavier NX and AGX Xavier: every published figure is in the range to plan with."""
    peaks = peaks_of(targets.target(point.target), point.precision, dla=point.dla)
    low, middle, high = estimate(inception_v4(point.batch), peaks).expected
    assert low <= point.images_per_s <= high
    assert (low, high) == pytest.approx((0.6 * middle, 1.4 * middle))


def shares(inception_v4):
    """Target -> published figures as shares of the bound."""
    found = {}
    for point in CHECK_POINTS:
        peaks = peaks_of(targets.target(point.target), point.precision, dla=point.dla)
        bound = estimate(inception_v4(point.batch), peaks).bound
        found.setdefault(point.target, []).append(point.images_per_s / bound)
    return found


def mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def test_share_is_the_mean_of_the_devices(inception_v4):
    """SHARE is the geometric mean over the four devices, each of its own figures."""
    found = shares(inception_v4)
    assert len(found) == 4
    assert mean([mean(values) for values in found.values()]) == pytest.approx(
        rooflines.SHARE, abs=0.005
    )


def test_band_holds_for_a_device_that_was_left_out(inception_v4):
    """The mean of three devices predicts the fourth within 32 %, which the band exceeds."""
    found = shares(inception_v4)
    errors = [
        abs(share / mean([mean(v) for name, v in found.items() if name != left_out]) - 1)
        for left_out in found
        for share in found[left_out]
    ]
    assert max(errors) == pytest.approx(0.32, abs=0.01)
    assert max(errors) < rooflines.BAND


@pytest.mark.parametrize(
    ("name", "precision", "dla", "batch_1", "batch_32"),
    [
        ("nano-4gb", FP16, False, 19, 19),
        ("tx2-8gb", FP16, False, 54, 54),
        ("xavier-nx-8gb", INT8, True, 611, 746),
        ("agx-xavier-32gb", INT8, True, 1115, 1231),
        ("orin-nano-8gb", INT8, False, 638, 743),
        ("orin-nano-8gb-super", INT8, False, 1011, 1214),
        ("orin-nx-16gb", INT8, False, 958, 1115),
        ("orin-nx-16gb", INT8, True, 1150, 1571),
        ("agx-orin-64gb", INT8, False, 2245, 2855),
        ("agx-orin-64gb", INT8, True, 2348, 3656),
    ],
)
def test_convolutions_alone_give_the_rooflines_of_the_facts(
    name, precision, dla, batch_1, batch_32, inception_v4
):
    """docs/hardware.md, "Roofline": by another program on timm's export, of convolutions alone."""
    peaks = peaks_of(targets.target(name), precision, dla=dla)
    for batch, wanted in ((1, batch_1), (32, batch_32)):
        layers = estimate(inception_v4(batch), peaks).layers
        seconds = sum(layer.seconds for layer in layers if layer.op == "Conv")
        # the facts round to whole images, 19 of them to 3 %
        assert batch / seconds == pytest.approx(wanted, rel=0.01, abs=0.5)


def test_convolution_in_closed_form():
    """6 filters of 4 x 3 x 3 over 6 x 6 places; input, output and weights move once."""
    (layer,) = bound_of(parsed("y = Conv(x, w)", [("w", 6, 4, 3, 3)]), batch=2).layers
    assert layer.macs == layer.compute_s == 2 * 6 * 36 * 4 * 9
    moved = 2 * 4 * 64 + 2 * 6 * 36 + 6 * 4 * 9
    assert layer.num_bytes == layer.memory_s == moved * 2
    assert (layer.seconds, layer.bound_by) == (layer.compute_s, "compute")


def test_the_slower_of_the_two_bounds():
    """With a hundredth of the bandwidth the same layer is bound by memory."""
    model = parsed("y = Conv(x, w)", [("w", 6, 4, 3, 3)])
    slow = Peaks(macs_per_s=1.0, bytes_per_s=0.01, bytes_per_element=2)
    (layer,) = bound_of(model, slow).layers
    assert (layer.seconds, layer.bound_by) == (layer.memory_s, "memory")
    assert bound_of(model, slow).compute_share == 0.0
    assert bound_of(model).compute_share == 1.0


@pytest.mark.parametrize(
    ("body", "moved"),
    [
        ("c = Conv(x, w) y = Relu(c)", 0),
        ("c = Conv(x, w) y = Concat<axis=1>(c, x)", 0),
        ("c = Conv(x, w) y = Add(c, x)", 4 * 64),  # x, since c is at hand
        ("c = Conv(x, w) y = Mul(c, k)", 0),  # a constant is no activation
        ("c = Conv(x, w) y = Add(c, c)", 0),
        ("c = Conv(x, w) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 4 * 64 + 4 * 16),
        ("c = Conv(x, w) y = Softmax<axis=1>(c)", 2 * 4 * 64),
        ("c = Conv(x, w) y = BatchNormalization(c, s, s, s, s)", 0),
    ],
)
def test_what_a_second_node_moves(body, moved):
    """Beyond the convolution's own traffic: nothing where engines fuse, else what it touches."""
    weights = [("w", 4, 4, 1, 1), ("k", 1), ("s", 4)]
    alone = bound_of(parsed("y = Conv(x, w)", weights))
    both = bound_of(parsed(body, weights))
    total = sum(layer.num_bytes for layer in both.layers)
    assert total - alone.layers[0].num_bytes == moved * 2
    assert len(both.layers) == 1 + bool(moved)


def test_quantized_spelling_has_the_same_bound():
    """Q/DQ nodes take no time of their own: the int8 file is estimated like the float one."""
    signature = "(float[N,4,8,8] x) => (float[N,4,8,8] y)"
    plain = parsed("y = Conv(x, w)", [("w", 4, 4, 1, 1)], signature)
    body = (
        "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) "
        "v = QuantizeLinear(w, s) u = DequantizeLinear(v, s) y = Conv(d, u)"
    )
    typed = parsed(body, [("w", 4, 4, 1, 1), ("s",)], signature)
    assert bound_of(typed, batch=3).seconds == bound_of(plain, batch=3).seconds


def test_images_per_second():
    """A batch of 4 in 8 seconds is half an image a second; the plan is half of that, +-40 %."""
    model = parsed("y = Conv(x, w)", [("w", 4, 4, 1, 1)])
    work = 4 * 4 * 4 * 64
    bound = bound_of(model, Peaks(macs_per_s=work / 8, bytes_per_s=1e9, bytes_per_element=1), 4)
    assert bound.bound == 0.5
    assert bound.expected == pytest.approx((0.15, 0.25, 0.35))
    assert bound.suspicious_below == pytest.approx(0.075)


def test_peaks_are_those_of_the_table():
    """TOPS count two operations a multiply-add; with DLA the whole module's."""
    orin = targets.target("agx-orin-64gb")
    assert peaks_of(orin, INT8).macs_per_s == 42.5e12
    assert peaks_of(orin, INT8, dla=True).macs_per_s == 68.75e12
    assert peaks_of(orin, FP16).macs_per_s == 21.25e12
    assert peaks_of(orin, FP16).bytes_per_s == 204.8e9
    sizes = [peaks_of(orin, p).bytes_per_element for p in (INT8, FP16)]
    assert sizes == [1, 2]


@pytest.mark.parametrize(
    ("name", "precision", "dla", "what"),
    [
        ("cpu", INT8, False, "int8 peak"),
        ("rtx", FP16, False, "fp16 peak"),
        ("thor-t4000", INT8, False, "int8 peak"),
        ("l4", FP32, False, "fp32 peak"),
        ("agx-orin-64gb", FP16, True, "fp16 peak of GPU and DLA"),
    ],
)
def test_unknown_peaks_are_not_guessed(name, precision, dla, what):
    """Where the table has no figure there is no estimate."""
    with pytest.raises(InputError) as caught:
        peaks_of(targets.target(name), precision, dla=dla)
    assert str(caught.value) == (
        f"{name}: its {what} is not in the table, so nothing can be estimated"
    )


def test_memory_is_the_least_that_an_engine_needs():
    """All weights, and the input and output of the largest layer, in the bytes of the precision."""
    model = parsed(
        "a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) y = MaxPool<kernel_shape=[2,2]>(b)",
        [("w", 6, 4, 3, 3)],
    )
    need = memory_need(statistics(model, batch=5), FP16, workspace=7)
    assert need.weights == 6 * 4 * 9 * 2
    assert need.activations == 5 * (6 * 64 + 6 * 49) * 2
    assert need.total == need.weights + need.activations + 7


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (
            parsed("y = Relu(x)"),
            "the graph has no Conv, Gemm or MatMul: there is nothing to estimate",
        ),
        (
            parsed(
                "y = Conv(x, w)", [("w", 4, 4, 1, 1)], "(float[N,4,h,8] x) => (float[N,4,h,8] y)"
            ),
            "shape or multiply-adds are not known of: -> y, Conv",
        ),
    ],
)
def test_a_graph_without_known_work_is_refused(model, line):
    """No work, or work that cannot be counted, is one line."""
    with pytest.raises(InputError) as caught:
        bound_of(model)
    assert str(caught.value) == line


@pytest.fixture
def graph_file(tmp_path):
    """A Conv, a pool and a Gemm's worth of ONNX on disk, with a dynamic batch."""
    path = tmp_path / "small.onnx"
    body = "c = Conv(x, w) r = Relu(c) y = MaxPool<kernel_shape=[2,2]>(r)"
    onnx.save(parsed(body, [("w", 6, 4, 3, 3)]), path)
    return path


def test_command_says_that_it_is_no_measurement(graph_file, capsys, monkeypatch):
    """Bound, range, sources and the caveat, within 80 columns."""
    monkeypatch.chdir(graph_file.parent)  # a path is shown whole, however long it is
    assert main.run(["estimate", graph_file.name, "--target", "orin-nano-8gb"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    assert "an estimate, not a measurement" in words
    assert "20 INT8 tera-operations/s dense [V] NVIDIA datasheet DS-11105-001" in words
    assert "untested on orin-nano-8gb and other networks" in words
    # two layers of nanoseconds
    assert "starting a kernel takes some us, which is not counted" in words


def test_command_as_json(graph_file, capsys):
    """JSON has the same figures, and says that they are no measurement."""
    flags = ["--target", "xavier-nx-8gb", "--dla", "--batch", "3", "--json"]
    assert main.run(["estimate", str(graph_file), *flags]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["is_measurement"] is False
    assert record["is_band_tested"] is True
    assert (record["batch"], record["dla"], record["precision"]) == (3, True, "int8")
    seconds = sum(max(row["compute_s"], row["memory_s"]) for row in record["layers"])
    assert record["bound_images_per_s"] == pytest.approx(3 / seconds)
    conv, pool = record["layers"]
    assert conv["compute_s"] == pytest.approx(3 * 6 * 36 * 36 / 10.5e12)
    assert pool["memory_s"] == pytest.approx(3 * 6 * (36 + 25) / 59.7e9)
    assert pool["bound_by"] == "memory"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--target", "nano-4gb"],
            (
                "error: nano-4gb: its GPU has no fast int8 instructions (no fast INT8 at SM 5.3, "
                'docs/hardware.md, "Jetson modules")'
            ),
        ),
        (
            ["--target", "orin-nano-8gb", "--dla"],
            'error: orin-nano-8gb: it has no DLA (docs/hardware.md, "Jetson modules")',
        ),
        (
            ["--target", "nano-4gb", "--precision", "fp16", "--workspace", "4096"],
            (
                "error: nano-4gb: batch 1 needs at least 4,096 MiB (weights 0, activations 0, "
                'workspace 4,096), its memory is 4 GiB (docs/hardware.md, "Jetson modules")'
            ),
        ),
        (
            ["--target", "cpu"],
            "error: cpu: its int8 peak is not in the table, so nothing can be estimated",
        ),
    ],
)
def test_command_refuses_what_cannot_be(graph_file, flags, line, capsys):
    """The refusals of feasibility and of unknown peaks, exit 3, one exact line."""
    assert main.run(["estimate", str(graph_file), *flags]) == 3
    assert capsys.readouterr().err.splitlines()[0] == line
