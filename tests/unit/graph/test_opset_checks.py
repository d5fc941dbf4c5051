"""portable: the list of portable ops is true of ONNX itself, and what changed is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph import opset_checks


def make(nodes, shapes=None, opset=18, **weights):
    shapes = shapes or {}
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes.get("x", [1, 3, 8, 8]))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes.get("y", None))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", [source], [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Resize", ["x", "", "w"], ["y"], name="n"), "Resize is not portable"),
        (helper.make_node("Relu", ["x"], ["y"], name="n", domain="my"), "Relu is not portable"),
        (
            helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 1]),
            "dilations of AveragePool is not in opset 13",
        ),
        (
            helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], ceil_mode=1),
            "ceil_mode",
        ),
        (helper.make_node("Reshape", ["x", "w"], ["y"], allowzero=0), "allowzero of Reshape"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E5M2), "type that opset 13"),
        (helper.make_node("Cast", ["x"], ["y"], to=1, saturate=1), "saturate of Cast"),
        (helper.make_node("Pad", ["x", "w", "", "v"], ["y"]), "axes from opset 18 on"),
        (helper.make_node("Pad", ["x", "w"], ["y"], mode="wrap"), "wrap from opset 19 on"),
        (helper.make_node("Split", ["x"], ["y", "z"]), "Split without sizes"),
        (helper.make_node("ReduceMean", ["x"], ["y"]), "ReduceMean is not portable"),
    ],
)
def test_what_changed_between_opsets_is_refused(node, said):
    """Other ops, newer attributes and the pool whose size changed are refused by name."""
    with pytest.raises(InputError, match=said):
        opset_checks.require_portable(make([node]))


def test_portable_ops_compute_the_same_in_every_opset():
    """Attributes of opset 13 keep their default to opset 21, and inputs are never added."""
    for op in opset_checks.PORTABLE_OPS:
        oldest = onnx.defs.get_schema(op, opset_checks.MIN_OPSET, "")
        for opset in range(opset_checks.MIN_OPSET + 1, opset_checks.MAX_OPSET + 1):
            schema = onnx.defs.get_schema(op, opset, "")
            assert not schema.deprecated, (op, opset)
            assert schema.min_input == oldest.min_input, (op, opset)
            assert schema.max_input == oldest.max_input or op == "Pad", (op, opset)
            for name, attribute in oldest.attributes.items():
                newer = schema.attributes[name]
                assert newer.default_value == attribute.default_value, (op, opset, name)
                assert newer.required == attribute.required, (op, opset, name)


def test_portable_graph_gives_one_answer_in_every_opset():
    """ONNX's reference evaluator answers alike when a graph is stamped 13 to 21."""
    from onnx.reference import ReferenceEvaluator

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node(
            "AveragePool", ["c"], ["d"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0
        ),
        helper.make_node("Concat", ["c", "d"], ["e"], axis=1),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"], axis=1),
        helper.make_node("Gemm", ["g", "v"], ["y"], transB=1),
    ]
    rng = np.random.default_rng(5)
    kernel, matrix = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((4, 3, 3, 3), (5, 8))
    )
    images = rng.standard_normal((1, 3, 8, 8), dtype=np.float32)
    answers = []
    for opset in range(opset_checks.MIN_OPSET, opset_checks.MAX_OPSET + 1):
        model = make(nodes, opset=opset, w=kernel, v=matrix)
        opset_checks.require_portable(model)
        answers.append(ReferenceEvaluator(model).run(None, {"x": images})[0])
    assert np.abs(answers[0]).max() > 0.1
    assert all(np.array_equal(answers[0], other) for other in answers[1:])


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16),
        helper.make_node("Pad", ["x", "w", "v"], ["y"], mode="reflect"),
        helper.make_node("Split", ["x", "w"], ["y", "z"]),
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], ceil_mode=0),
    ],
    ids=lambda node: node.op_type,
)
def test_uses_that_never_changed_pass(node):
    """Only the uses that changed are refused, not the ops."""
    opset_checks.require_portable(make([node]))
