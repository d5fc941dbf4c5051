"""opsets: a graph in another opset computes the same, or its node is named.

The oracles are onnxruntime on the graph before, and ONNX's own test data of single nodes.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph import opsets
from edge_inception.graph.support_checks import OPSETS

SHAPE = (2, 4, 6, 6)
TOLERANCE = 1e-5  # float32: the same sums in another order
CONSTANTS = {
    "s": np.linspace(0.5, 1.5, 6, dtype=np.float32),
    "b": np.linspace(-0.3, 0.3, 6, dtype=np.float32),
    "c": np.linspace(0.5, 1.5, 4, dtype=np.float32),
    "axes": np.array([2, 3]),
    "sizes": np.array([2, -1, 36]),
    "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]),
    "scales": np.array([1, 1, 2, 2], np.float32),
}
# First opset of the spelling -> a graph x [2, 4, 6, 6] -> y in ONNX's text format.
BODIES = (
    (20, "y = Gelu(x)"),
    (20, 'y = Gelu<approximate="tanh">(x)'),
    (24, "y = Swish<alpha=1.5>(x)"),
    (14, "y = HardSwish(x)"),
    (18, "y = Mish(x)"),
    (17, "y = LayerNormalization<axis=-1, epsilon=1e-6>(x, s, b)"),
    (17, "y = LayerNormalization<axis=3>(x, s)"),
    (21, "y = GroupNormalization<num_groups=2>(x, c, c)"),
    (23, "y = RMSNormalization(x, s)"),
    (23, "y = Attention(x, x, x)"),
    (18, "y = ReduceL2(x, axes)"),
    (18, "y = ReduceMean<keepdims=0>(x, axes)"),
    (18, "y = ReduceMax(x)"),
    (13, "y = ReduceSum<keepdims=0>(x, axes)"),
    (14, "y = Reshape<allowzero=1>(x, sizes)"),
    (18, "p, q, r = Split<axis=2, num_outputs=3>(x) y = Add(p, r)"),
    (7, "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)"),
    (10, "y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)"),
    (13, "y = Resize(x, , scales)"),
    (13, 'y = Pad<mode="reflect">(x, pads)'),
    (13, "y = Softmax(x)"),
    (7, "y = Softmax<axis=1>(x)"),
    (7, "a = Sigmoid(x) y = Mul(a, x)"),
    (7, "y = BatchNormalization(x, c, c, c, c)"),
)
PADDED = "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"
NOT_IN_13 = ("Attention", "RMSNormalization")  # their definitions use newer ops
CASES = [
    (opset, body)
    for first, body in BODIES
    for opset in OPSETS
    if first <= opset and not (opset > 12 and body == BODIES[21][1])
]


def parse(body, opset, shape=SHAPE):
    """A model of the body, with the constants that it reads, and the shapes that follow."""
    signature = f"(float[{','.join(map(str, shape))}] x) => (float[a,b,c,d] y)"
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> graph {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in CONSTANTS.items() if name in read
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def copy(model):
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


@given(st.sampled_from(CASES), st.sampled_from([13, 18, 19]), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_a_converted_graph_computes_the_same(case, target, seed):
    """Every spelling, opset and target: onnxruntime's answers before and after, valid ONNX."""
    opset, body = case
    if target == 13 and (opset < 13 or any(f"y = {op}" in body for op in NOT_IN_13)):
        target = 18  # nothing is raised to 13
    model = parse(body, opset)
    x = np.random.default_rng(seed).normal(0, 2, SHAPE).astype(np.float32)
    (before,) = run(model, {"x": x})
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, before.shape)
    )
    opsets.convert(model, target)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [target]
    (after,) = run(model, {"x": x})
    assert before.shape == after.shape
    assert np.abs(before).max() > 0.01
    assert np.abs(before - after).max() <= TOLERANCE * max(1.0, np.abs(before).max())


@pytest.mark.parametrize("opset", [18, 19])
def test_engines_get_the_ops_they_know_by_name(opset):
    """LayerNormalization and HardSwish have kernels: they are expanded for opset 13 alone."""
    model = parse("h = HardSwish(x) y = LayerNormalization(h, s, b)", 20)
    opsets.convert(model, opset)
    assert [node.op_type for node in model.graph.node] == ["HardSwish", "LayerNormalization"]
    opsets.convert(model, 13)
    assert not {"HardSwish", "LayerNormalization"} & {node.op_type for node in model.graph.node}


def test_a_second_conversion_changes_nothing():
    """A graph in the opset that is asked for stays as it is."""
    model = parse("g = Gelu(x) y = ReduceMean(g, axes)", 20)
    opsets.convert(model, 18)
    before = copy(model)
    opsets.convert(model, 18)
    assert model == before


@pytest.mark.parametrize(
    ("body", "opset", "target", "words"),
    [
        ("y = Trilu(x)", 18, 13, ["Trilu", "opset 13", "new in opset 14"]),
        ("y = DeformConv(x, x)", 22, 18, ["DeformConv", "opset 18", "new in opset"]),
        ("y = Cast<to=1, saturate=0>(x)", 19, 18, ["Cast", "saturate"]),
        (
            "y = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(x)",
            19,
            18,
            ["AveragePool", "dilations"],
        ),
        (
            f"y = AveragePool<{PADDED}, ceil_mode=1, count_include_pad=1>(x)",
            18,
            19,
            ["AveragePool", "opset 19 changed"],
        ),
        ("y = Pad(x, pads, , axes)", 18, 13, ["Pad", "4 inputs"]),
        ("y = GridSample(x, x)", 20, 18, ["GridSample", "opset 20 changed"]),
    ],
)
def test_what_the_opset_lacks_is_named(body, opset, target, words):
    """Node, op, opset and reason; the hint says which opset to export with."""
    model = parse(body, opset)
    model.graph.node[0].name = "bent"
    with pytest.raises(InputError) as error:
        opsets.convert(model, target)
    assert all(word in str(error.value) for word in ["'bent'", *words])
    assert f"opset_version={target}" in error.value.hint


# Ops of ONNX's test data that a float classifier may have, and whose schema changed from 13 on.
NODES = frozenset(
    (
        "Attention", "AveragePool", "BatchNormalization", "Cast", "Clip", "Dropout", "Elu",
        "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GroupNormalization",
        "HardSigmoid", "HardSwish", "InstanceNormalization", "LayerNormalization",
        "LpNormalization", "MaxPool", "Mish", "PRelu", "Pad", "RMSNormalization", "ReduceL1",
        "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare",
        "Reshape", "RotaryEmbedding", "Selu", "Shape", "Slice", "Softplus", "Split", "Squeeze",
        "Swish", "TopK", "Transpose", "Unsqueeze", "Where",
    )
)  # fmt: skip


def node_cases():
    """ONNX's test data of single nodes in opset 19 to 24: name, model, inputs, answers."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases divide by zero on purpose
        cases = load_model_tests(kind="node")
    for case in cases:
        nodes = case.model.graph.node
        if nodes[0].op_type not in NODES or len(nodes) > 1 or len(case.model.opset_import) > 1:
            continue
        model = copy(case.model)
        opset = model.opset_import[0].version
        since = onnx.defs.get_schema(nodes[0].op_type, opset, "").since_version
        if since > OPSETS[-1]:
            continue
        model.opset_import[0].version = min(opset, OPSETS[-1])
        inputs, answers = case.data_sets[0]
        kinds = {np.asarray(value).dtype.name for value in inputs}
        if not kinds <= {"float32", "int64", "bool"} or "training" in case.name:
            continue
        yield case.name, model, inputs, answers


@pytest.mark.slow
def test_onnx_own_answers_are_those_of_the_converted_node():
    """Hundreds of nodes with all attributes: what converts gives ONNX's answer."""
    right, wrong = 0, []
    for name, model, inputs, answers in node_cases():
        names = (value.name for value in model.graph.input)
        feeds = dict(zip(names, map(np.asarray, inputs), strict=True))
        for target in (13, 18):
            converted = copy(model)
            try:
                opsets.convert(converted, target)
                got = run(converted, feeds)
            except InputError:
                continue
            except Exception as error:  # onnxruntime lacks some types; its classes share no base
                if type(error).__module__.startswith("onnxruntime"):
                    continue
                raise
            same = all(
                np.shape(a) == np.shape(b)
                and np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)
                for a, b in zip(got, answers, strict=True)
                if np.asarray(b).dtype.kind in "fiub"
            )
            right += same
            wrong += [] if same else [(name, target)]
    assert not wrong
    assert right > 400
