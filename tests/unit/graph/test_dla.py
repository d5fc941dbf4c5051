"""Plans for DLA: one row per published rule, and subgraphs counted by hand and by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph import dla
from edge_inception.graph.dla_rules import ORIN, XAVIER

IMAGE = "float[1,8,16,16] x"
ONES = {
    "w": (8, 8, 3, 3),
    "w1": (8, 8, 1, 1),
    "w33": (8, 8, 33, 1),
    "w32": (8, 8, 32, 1),
    "w8": (8, 8, 8, 1),
    "wide": (8193, 8, 1, 1),
    "m": (8, 5),
    "scalar": (),
    "channel": (1, 8, 1, 1),
    "bare": (8, 1, 1),
    "element": (1, 8, 16, 16),
    "pixel": (1, 1, 16, 16),
    "batches": (2, 8, 16, 16),
}
NUMBERS = {"zero": 0.0, "one": 1.0, "six": 6.0, "lots": 128.0}


def parse(body, signature=f"({IMAGE}) => (y)", opset=18):
    """A model in ONNX's text format; constants of ones, where the body reads them."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> graph {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    arrays = {name: np.ones(shape, np.float32) for name, shape in ONES.items() if name in read}
    arrays |= {name: np.float32(value) for name, value in NUMBERS.items() if name in read}
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    return model


def reason(body, generation=ORIN, signature=f"({IMAGE}) => (y)", at=-1):
    """Why one node of a graph, its last, goes to the GPU."""
    return dla.plan(parse(body, signature), generation).verdicts[at].reason


# every row: body, what the reason holds; empty where the layer runs on the DLA
ROWS = [
    # Convolution: kernel [1,32], stride [1,8], dilation [1,32], padding [0,31] and < kernel,
    # output maps [1,8192]
    ("y = Conv<pads=[1,1,1,1]>(x, w)", ""),
    ("y = Conv<strides=[8,1]>(x, w)", ""),
    ("y = Conv<strides=[9,1]>(x, w)", "stride 9, wanted 1 to 8"),
    ("y = Conv<pads=[30,0,30,0]>(x, w32)", ""),
    ("y = Conv<pads=[30,0,30,0]>(x, w33)", "kernel 33, wanted 1 to 32"),
    ("y = Conv<pads=[31,0,31,0]>(x, w32)", ""),
    ("y = Conv<pads=[32,0,32,0]>(x, w32)", "padding 32, wanted 0 to 31"),
    ("y = Conv<pads=[0,1,0,1]>(x, w8)", "padding as large as the kernel"),
    ("y = Conv<dilations=[7,7]>(x, w)", ""),
    ("y = Conv<dilations=[33,1],pads=[2,0,2,0]>(p, w)", "dilation 33, wanted 1 to 32"),
    ("y = Conv(x, wide)", "size 8193, wanted 1 to 8192"),
    ("v = Abs(w) y = Conv(x, v)", "its weight is computed"),
    # Pooling: window [1,8], stride [1,16], padding [0,7]
    ("y = MaxPool<kernel_shape=[8,8],strides=[16,16],pads=[7,0,0,0]>(x)", ""),
    ("y = MaxPool<kernel_shape=[9,1]>(x)", "window 9, wanted 1 to 8"),
    ("y = MaxPool<kernel_shape=[2,2],strides=[17,1]>(x)", "stride 17, wanted 1 to 16"),
    ("y = MaxPool<kernel_shape=[2,2],dilations=[2,1]>(x)", "dilation 2, wanted 1 to 1"),
    ("y = AveragePool<kernel_shape=[8,8]>(x)", ""),
    ("y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(x)", ""),
    ("y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)", "it averages real pixels only"),
    ("y = GlobalAveragePool(x)", "TensorRT does not offer it"),
    ("y = ReduceMean<keepdims=1>(x)", "TensorRT does not offer it"),
    # Concatenation: channel axis, at least two inputs
    ("y = Concat<axis=1>(x, x)", ""),
    ("y = Concat<axis=-3>(x, x)", ""),
    ("y = Concat<axis=2>(x, x)", "axis 2, wanted that of the channels"),
    ("y = Concat<axis=1>(x)", "a single input"),
    ("y = Concat<axis=1>(x, element)", "an input is a constant"),
    # ElementWise and Scale
    ("r = Relu(x) y = Add(x, r)", ""),
    ("r = Relu(x) y = Sub(r, x)", ""),
    ("r = Relu(x) y = Max(r, x)", ""),
    ("r = Relu(x) y = Div(r, x)", "TensorRT 8.4 has no such layer on DLA"),
    ("r = Relu(x) y = Pow(r, x)", "no such layer"),
    ("r = MaxPool<kernel_shape=[16,16]>(x) y = Mul(r, x)", "its inputs differ in size"),
    ("r = Relu(x) y = Sum(r, x, x)", "3 inputs, wanted 2"),
    ("y = Mul(x, scalar)", ""),
    ("y = Mul(channel, x)", ""),
    ("y = Add(x, bare)", ""),
    ("y = Mul(x, element)", ""),
    ("y = Mul(x, pixel)", "its constant is not one per graph, channel or element"),
    ("y = Sub(x, scalar)", ""),
    ("y = Sub(scalar, x)", "with a constant, DLA scales and shifts only"),
    ("y = Max(x, scalar)", "with a constant, DLA scales and shifts only"),
    # Activation
    ("y = Relu(x)", ""),
    ("y = Sigmoid(x)", ""),
    ("y = Tanh(x)", ""),
    ("y = LeakyRelu<alpha=0.1>(x)", ""),
    ("y = LeakyRelu<alpha=-0.1>(x)", "slope -0.1 is negative"),
    ("y = Clip(x, zero, six)", ""),
    ("y = Clip(x, one, six)", "it clips from 1, wanted from 0"),
    ("y = Clip(x, zero, lots)", "it clips at 128, wanted 1 to 127"),
    ("y = Elu(x)", "DLA has no such layer"),
    # LRN: window 3, 5, 7 or 9
    ("y = LRN<size=5>(x)", ""),
    ("y = LRN<size=4>(x)", "window 4, wanted one of 3, 5, 7, 9"),
    # Softmax: Orin only; 8192 where its axis is alone, else 1024
    ("y = Softmax<axis=1>(x)", ""),
    ("y = Softmax<axis=0>(x)", "it is over the batch"),
    # Fully connected
    ("f = Flatten(x) y = MatMul(f, k)", ""),
    ("f = Flatten(x)  y = Relu(f)", "rank 2, wanted 4"),
    ("y = Flatten(x)", "a view of rank 2"),
    ("y = Cast<to=10>(x)", "DLA has no such layer"),
    ("y = QuantizeLinear(x, one)", "no explicit quantization"),
]


@pytest.mark.parametrize(("body", "wanted"), ROWS, ids=[row[0] for row in ROWS])
def test_one_rule(body, wanted):
    """A layer inside a published limit runs on the DLA, the first one outside does not."""
    model = parse(body)
    if "(p, w)" in body:
        model.graph.input[0].CopyFrom(
            onnx.parser.parse_graph("g (float[1,8,80,80] p) => (p) {}").input[0]
        )
    if "(f, k)" in body:
        model.graph.initializer.append(numpy_helper.from_array(np.ones((2048, 5), np.float32), "k"))
    (found, source) = [(v.reason, v.source) for v in dla.plan(model, ORIN).verdicts][-1]
    assert (wanted in found) if wanted else (found == "")
    assert source


@pytest.mark.parametrize(
    ("body", "generation", "wanted"),
    [
        ("y = Softmax<axis=1>(x)", XAVIER, "this DLA has no softmax"),
        ("y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)", XAVIER, "over the padding too"),
        ("y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)", ORIN, "no document says"),
    ],
)
def test_generations(body, generation, wanted):
    """NvInfer.h names Xavier for the padding, the guide names Orin for the softmax."""
    assert wanted in reason(body, generation)


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ("4096,1,1,1", ""),
        ("4097,1,1,1", "batch 4097, wanted 1 to 4096"),
        ("1,8192,1,1", ""),
        ("1,8193,1,1", "size 8193, wanted 1 to 8192"),
        ("1,8,8", "rank 3, wanted 4"),
    ],
)
def test_sizes(sizes, wanted):
    """Batch up to 4096, other sizes up to 8192, four axes."""
    assert reason("y = Relu(x)", signature=f"(float[{sizes}] x) => (y)") == wanted


def test_softmax_among_others_is_shorter():
    """1024 where other axes are larger than 1, 8192 where they are not."""
    alone, among = "(float[1,1025,1,1] x) => (y)", "(float[1,1025,2,1] x) => (y)"
    assert reason("y = Softmax<axis=1>(x)", signature=alone) == ""
    assert "1025, wanted 1 to 1024" in reason("y = Softmax<axis=1>(x)", signature=among)


def test_concat_of_different_heights_cannot_be_written():
    """ONNX refuses such a Concat already; the plan gives no answer that hides it."""
    body = "p = MaxPool<kernel_shape=[2,2]>(x) y = Concat<axis=1>(x, p)"
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(parse(body), strict_mode=True)
    assert "different heights or widths" in reason(body) or "not known" in reason(body)


def test_a_dynamic_batch_is_refused():
    """DLA takes fixed sizes only; the hint names the flag."""
    model = parse("y = Relu(x)", signature="(float[batch,8,16,16] x) => (y)")
    for ask in (lambda: dla.plan(model, ORIN), lambda: dla.rewrite(model)):
        with pytest.raises(InputError, match="free sizes batch") as caught:
            ask()
        assert "--batch" in caught.value.hint


def test_a_graph_with_two_inputs_has_a_plan():
    """Any ONNX file can be asked about; each free size is named."""
    assert reason("y = Add(x, z)", signature=f"({IMAGE}, {IMAGE[:-1]}z) => (y)") == ""
    with pytest.raises(InputError, match="free sizes h, w"):
        reason("y = Add(x, z)", signature=f"({IMAGE}, float[1,8,h,w] z) => (y)")


def test_nothing_changes_in_the_graph_that_is_asked_about():
    """Planning and rewriting leave their argument alone."""
    model = parse("a = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) y = Relu(a)")
    before = model.SerializeToString()
    dla.plan(model, ORIN)
    assert len(dla.rewrite(model).graph.node) == 3
    assert model.SerializeToString() == before


BRANCHES = """
    a = Relu(x)
    g = {op}(a)
    b = Conv(g, w1)
    c = Conv(a, w1)
    j = Concat<axis=1>(b, c)
    y = Relu(j)
"""


def groups(model):
    """Names of the layers of every subgraph."""
    verdicts = dla.plan(model, ORIN).verdicts
    numbers = sorted({v.subgraph for v in verdicts if v.subgraph is not None})
    return [[v.name for v in verdicts if v.subgraph == number] for number in numbers]


def test_a_branch_on_the_gpu_cuts_the_block_in_two():
    """What does not wait for the GPU is in the first subgraph, what does in the second."""
    assert groups(parse(BRANCHES.format(op="Sigmoid"))) == [["a", "g", "b", "c", "j", "y"]]
    assert groups(parse(BRANCHES.format(op="Elu"))) == [["a", "c"], ["b", "j", "y"]]


def test_branches_that_never_meet_are_subgraphs_of_their_own():
    """Two layers without a tensor between them share no loadable."""
    signature = f"({IMAGE}) => (y, z)"
    body = "a = Elu(x) b = Elu(x) y = Relu(a) z = Relu(b)"
    assert groups(parse(body, signature)) == [["y"], ["z"]]


def test_more_subgraphs_than_a_core_holds_is_said():
    """Sixteen fit, seventeen do not."""

    def chain(count):
        body = " ".join(
            f"t{i} = Relu({f'e{i}' if i else 'x'}) e{i + 1} = Elu(t{i})" for i in range(count)
        )
        return dla.plan(parse(body + f" y = Elu(e{count})"), ORIN)

    assert len(chain(16).subgraphs) == 16
    assert chain(16).broken_limits == ()
    assert chain(17).broken_limits == ("17 subgraphs, one core holds 16",)


def test_bytes_of_a_subgraph():
    """Two tensors of 8 x 16 x 16 halves live at once; the weight has 8 x 8 of them."""
    (one,) = dla.plan(parse("a = Conv(x, w1) b = Relu(a) y = Relu(b)"), ORIN).subgraphs
    assert (one.num_layers, one.peak_bytes, one.weight_bytes) == (3, 2 * 8 * 256 * 2, 64 * 2)


def test_a_pool_of_tensors_that_is_too_small_is_said():
    """Two maps of 64 x 512 x 512 halves for 32 images are 2 GiB; the pool has 1."""
    signature = "(float[32,64,512,512] x) => (y)"
    found = dla.plan(parse("y = Relu(x)", signature), ORIN).broken_limits
    assert found == ("subgraph 0 keeps 2048 MiB of tensors, the pool has 1024 MiB",)


@st.composite
def networks(draw):
    """Random graphs of Relu (DLA), Elu (GPU) and Add (DLA)."""
    nodes, names = [], ["x"]
    for index in range(draw(st.integers(1, 9))):
        op = draw(st.sampled_from(("Relu", "Elu", "Add")))
        count = 2 if op == "Add" else 1
        sources = [draw(st.sampled_from(names)) for _ in range(count)]
        nodes.append(helper.make_node(op, sources, [f"t{index}"], f"t{index}"))
        names.append(f"t{index}")
    return nodes


@given(networks())
@settings(max_examples=150, deadline=None)
def test_subgraphs_are_legal_and_cannot_be_joined(nodes):
    """Brute force over all paths.

    Every DLA layer is in one subgraph, which is connected; the subgraphs and the GPU's layers can
    be run one after another; with any two subgraphs that share a tensor joined they cannot.
    """
    value = lambda name: helper.make_tensor_value_info(name, 1, [1, 8, 4, 4])  # noqa: E731
    graph = helper.make_graph(nodes, "g", [value("x")], [value(nodes[-1].output[0])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    found = [frozenset(group) for group in groups(model)]
    reads = {node.name: set(node.input) - {"x"} for node in nodes}
    on_gpu = {frozenset((node.name,)) for node in nodes if node.op_type == "Elu"}
    assert sorted(itertools.chain(*found, *on_gpu)) == sorted(reads)

    def touch(one, other):
        return any(reads[b] & one for b in other) or any(reads[a] & other for a in one)

    def can_run(pieces):
        waiting = {piece: set().union(*(reads[name] for name in piece)) - piece for piece in pieces}
        done = set()
        while ready := [piece for piece in waiting if waiting[piece] <= done]:
            done |= set().union(*ready)
            waiting = {piece: needs for piece, needs in waiting.items() if piece not in ready}
        return not waiting

    for group in found:
        reached = {min(group)}
        while more := {m for m in group - reached if touch(reached, {m})}:
            reached |= more
        assert reached == group
    assert can_run({*found, *on_gpu})
    for one, other in itertools.combinations(found, 2):
        joined = {*found, *on_gpu} - {one, other} | {one | other}
        assert not touch(one, other) or not can_run(joined)


def test_two_subgraphs_never_wait_for_each_other():
    """a and b would each need the other's answer if a1 were joined with a2 and b1 with b2."""
    body = """
        a1 = Relu(x) b0 = Sigmoid(x) b2 = Relu(b0)
        g = Elu(a1) h = Elu(b2)
        b1 = Add(b0, g) a2 = Add(a1, h)
        y = Elu(b1) z = Elu(a2)
    """
    assert groups(parse(body, f"({IMAGE}) => (y, z)")) == [["a1"], ["b0", "b2", "b1"], ["a2"]]
