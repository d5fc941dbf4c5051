"""import refuses what it cannot handle: the exact line names the node, its op and the reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph.foreign import import_graph
from edge_inception.options import ImportOptions
from edge_inception.spec import ShapeProfile

SIDE = 8
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """``refused(model, ...)``: the error of importing it, from a file called m.onnx."""
    monkeypatch.chdir(tmp_path)

    def run(model, **choices):
        from pathlib import Path

        onnx.save(model, "m.onnx")
        options = ImportOptions(**{"preprocess": HALF, **choices})
        with pytest.raises(InputError) as error:
            import_graph(Path("m.onnx"), options, Path("out.onnx"))
        assert error.value.exit_code == 3
        assert not Path("out.onnx").exists()
        return error.value

    return run


def after(classifier, node, *, opset=13, domain="", **arrays):
    """A classifier with one more node behind its logits."""
    node.name = "odd"
    model = classifier(opset, ending="logits", are_weights_inputs=False, extra=[node])
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


SUBGRAPH = helper.make_graph([], "body", [], [])
NODES = {
    "QuantizeLinear": (["logits_", "fc_b"], {}, "the graph is already quantized"),
    "DynamicQuantizeLinear": (["logits_"], {}, "the graph is already quantized"),
    "If": (["logits_"], {"then_branch": SUBGRAPH}, "engines take no control flow"),
    "Loop": (["logits_", ""], {"body": SUBGRAPH}, "engines take no control flow"),
    "SequenceConstruct": (
        ["logits_"],
        {},
        "it handles sequences or optionals, not tensors",
    ),
    "RandomNormalLike": (["logits_"], {}, "its answer is random"),
    "NonZero": (["logits_"], {}, "the size of its answer depends on the pixels"),
    "Convolute": (["logits_"], {}, "opset 13 has no such operator"),
    "Gelu": (["logits_"], {}, "opset 13 has no such operator"),
}


@pytest.mark.parametrize("op", NODES)
def test_nodes_that_cannot_be_handled_are_named(foreign_classifier, refused, op):
    """Node, op and reason, in one line."""
    inputs, attributes, why = NODES[op]
    node = helper.make_node(op, inputs, ["out"], **attributes)
    error = refused(after(foreign_classifier, node))
    assert str(error) == f"m.onnx: node 'odd' is {op}: {why}"
    assert error.hint


def test_operators_of_others_are_named(foreign_classifier, refused):
    """A fused operator of onnxruntime's own."""
    node = helper.make_node("FusedConv", ["logits_"], ["out"], domain="com.microsoft")
    error = refused(after(foreign_classifier, node, domain="com.microsoft"))
    assert str(error) == (
        "m.onnx: node 'odd' is FusedConv: operator of domain 'com.microsoft', not of ONNX"
    )


def test_a_node_without_name_goes_by_its_output(foreign_classifier, refused):
    """Caffe2 names no node."""
    model = after(foreign_classifier, helper.make_node("NonZero", ["logits_"], ["out"]))
    model.graph.node[-1].name = ""
    assert "node '-> out' is NonZero" in str(refused(model))


def test_training_mode_is_refused(foreign_classifier, refused):
    """BatchNormalization that updates its statistics, Dropout that drops."""
    model = foreign_classifier(15, are_weights_inputs=False)
    model.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    model.graph.node[1].name = "norm"
    error = refused(model)
    assert str(error) == "m.onnx: node 'norm' is BatchNormalization: it is in training mode"
    assert error.hint == "export for inference, after model.eval()"

    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.bool_), "yes"))
    (drop,) = (node for node in model.graph.node if node.op_type == "Dropout")
    drop.input.extend(["", "yes"])
    assert str(refused(model)) == "m.onnx: node '-> drop' is Dropout: it is in training mode"


@pytest.mark.parametrize(("opset", "got"), [(6, 6), (22, 22), (0, "none")])
def test_other_opsets_are_refused(foreign_classifier, refused, opset, got):
    """Older than 7, newer than 21, or only another domain's."""
    model = foreign_classifier(13, are_weights_inputs=False)
    model.opset_import[0].version = opset
    if not opset:
        model.opset_import[0].CopyFrom(helper.make_opsetid("com.microsoft", 1))
    assert str(refused(model)) == f"m.onnx is of opset {got}, wanted 7 to 21"


def with_input(classifier, kind, shape):
    model = classifier(13, are_weights_inputs=False)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("data_0", kind, shape))
    return model


INPUTS = {
    "uint8": (
        TensorProto.UINT8,
        [1, 3, SIDE, SIDE],
        "m.onnx: input 'data_0' is uint8, wanted float32 [N, 3, H, W]",
    ),
    "NHWC": (
        TensorProto.FLOAT,
        [1, SIDE, SIDE, 3],
        "m.onnx: input 'data_0' is [1, 8, 8, 3], channels last, wanted [N, 3, H, W]",
    ),
    "gray": (
        TensorProto.FLOAT,
        [1, 1, SIDE, SIDE],
        "m.onnx has input 'data_0' [1, 1, 8, 8], wanted [N, 3, H, W]",
    ),
    "rank 3": (
        TensorProto.FLOAT,
        [3, SIDE, SIDE],
        "m.onnx has input 'data_0' [3, 8, 8], wanted [N, 3, H, W]",
    ),
    "free sides": (
        TensorProto.FLOAT,
        ["N", 3, "h", "w"],
        "m.onnx: input 'data_0' is ['N', 3, 'h', 'w'], its sides are free",
    ),
}


@pytest.mark.parametrize("case", INPUTS)
def test_other_inputs_are_refused(foreign_classifier, refused, case):
    """Element type, layout, channels, rank and sides, each by the input's name."""
    kind, shape, message = INPUTS[case]
    assert str(refused(with_input(foreign_classifier, kind, shape))) == message


def test_several_inputs_or_outputs_are_listed(foreign_classifier, refused):
    """Which ones they are."""
    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.input.append(helper.make_tensor_value_info("phase", TensorProto.FLOAT, [1]))
    assert str(refused(model)) == (
        "m.onnx has inputs 'data_0' [1, 3, 8, 8], 'phase' [1], wanted one image"
    )
    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, [1, 4]))
    assert str(refused(model)) == (
        "m.onnx has outputs 'prob_1' [1, 5], 'flat' [1, 4], wanted one, the logits"
    )


def test_class_numbers_are_no_logits(foreign_classifier, refused):
    """An ArgMax at the end."""
    node = helper.make_node("ArgMax", ["logits_"], ["out"], axis=1, keepdims=0)
    model = after(foreign_classifier, node)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.INT64, [1]))
    error = refused(model)
    assert str(error) == "m.onnx: output 'out' is int64, wanted float32 [N, classes]"


def test_maps_are_no_logits(foreign_classifier, refused):
    """A network without a pooled head."""
    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 4, SIDE, SIDE])
    )
    assert str(refused(model)) == "m.onnx: output 'sum' is [1, 4, 8, 8], wanted [N, classes]"


@pytest.mark.parametrize(
    ("given", "missing"),
    [({}, "no mean and no std"), ({"mean": (0.5, 0.5, 0.5)}, "no std")],
)
def test_preprocessing_is_not_guessed(foreign_classifier, refused, given, missing):
    """Without mean or std: refused, and the hint lists the usual ones."""
    error = refused(foreign_classifier(), preprocess=given)
    assert str(error) == f"m.onnx does not say how images become its input: {missing}"
    for usual in ("0.485,0.456,0.406", "0.229,0.224,0.225", "0.5,0.5,0.5", "BGR"):
        assert usual in error.hint


def test_another_size_than_the_graphs_is_refused(foreign_classifier, refused):
    """The size is in the graph."""
    error = refused(foreign_classifier(), preprocess={**HALF, "input_size": (16, 16)})
    assert str(error) == "m.onnx takes images of 8 x 8, 16 x 16 asked for"


@pytest.mark.parametrize(
    ("choices", "what"),
    [({"classes": ("a", "b")}, "2 class names"), ({"num_classes": 7}, "7 classes")],
)
def test_class_counts_must_fit(foreign_classifier, refused, choices, what):
    """Names or a number of classes for another head."""
    error = refused(foreign_classifier(), **choices)
    assert str(error) == f"{what} for m.onnx, which has 5 logits"


@pytest.mark.parametrize(("value", "words"), [(0.0, "all 0"), (np.nan, "not finite")])
def test_logits_must_say_something(foreign_classifier, refused, value, words):
    """A head of zeros, and one of NaN."""
    model = foreign_classifier(13, are_weights_inputs=False)
    for tensor in model.graph.initializer:
        if tensor.name in {"fc_w", "fc_b"}:
            array = np.full(numpy_helper.to_array(tensor).shape, value, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert str(refused(model)) == f"m.onnx: logits of ordinary images are {words}"


def test_images_must_not_mix(foreign_classifier, refused):
    """A network whose answer for one image depends on the others of its batch."""
    node = helper.make_node("Softmax", ["logits_"], ["out"], axis=0)
    model = foreign_classifier(
        13, batch="N", ending="logits", are_weights_inputs=False, extra=[node]
    )
    error = refused(model, profile=ShapeProfile(min=2, opt=2, max=2))
    assert str(error).startswith("m.onnx: after import, logits differ by ")
