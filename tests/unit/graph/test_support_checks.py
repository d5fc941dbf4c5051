"""import refuses what it cannot handle: the exact line names the node, its op and the reason.

Each is one command line: exit code 3, the error line, a hint, no file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
HALF = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")


@pytest.fixture
def refused(refusal):
    """``refused(model, *flags)``: error line and hint of building it, from a file called m.onnx."""

    def run(model, *flags, how=HALF):
        onnx.save(model, "m.onnx")
        return refusal("export", "--onnx", "m.onnx", "--out", "graph.onnx", *how, *flags)

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
    "RandomNormalLike": (["logits_"], {}, "its output is random"),
    "NonZero": (["logits_"], {}, "the size of its output depends on the pixels"),
    "Convolute": (["logits_"], {}, "opset 13 has no such operator"),
    "Gelu": (["logits_"], {}, "opset 13 has no such operator"),
}


@pytest.mark.parametrize("op", NODES)
def test_nodes_that_cannot_be_handled_are_named(foreign_classifier, refused, op):
    """Node, op and reason, in one line."""
    inputs, attributes, why = NODES[op]
    node = helper.make_node(op, inputs, ["out"], **attributes)
    line, _ = refused(after(foreign_classifier, node))
    assert line == f"m.onnx: node 'odd' is {op}: {why}"


def test_operators_of_others_are_named(foreign_classifier, refused):
    """A fused operator of onnxruntime's own."""
    node = helper.make_node("FusedConv", ["logits_"], ["out"], domain="com.microsoft")
    assert refused(after(foreign_classifier, node, domain="com.microsoft")) == (
        "m.onnx: node 'odd' is FusedConv: operator of domain 'com.microsoft', not of ONNX",
        "export without custom operators; save before onnxruntime optimises the graph",
    )


def test_a_node_without_name_goes_by_its_output(foreign_classifier, refused):
    """Caffe2 names no node."""
    model = after(foreign_classifier, helper.make_node("NonZero", ["logits_"], ["out"]))
    model.graph.node[-1].name = ""
    assert refused(model) == (
        "m.onnx: node '-> out' is NonZero: the size of its output depends on the pixels",
        "export the classifier alone, without pre- or postprocessing",
    )


def test_training_mode_is_refused(foreign_classifier, refused):
    """BatchNormalization that updates its statistics, Dropout that drops."""
    model = foreign_classifier(15, are_weights_inputs=False)
    model.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    model.graph.node[1].name = "norm"
    assert refused(model) == (
        "m.onnx: node 'norm' is BatchNormalization: it is in training mode",
        "export for inference, after model.eval()",
    )

    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.bool_), "yes"))
    (drop,) = (node for node in model.graph.node if node.op_type == "Dropout")
    drop.input.extend(["", "yes"])
    assert refused(model)[0] == "m.onnx: node '-> drop' is Dropout: it is in training mode"


@pytest.mark.parametrize(("opset", "got"), [(6, 6), (25, 25), (0, "none")])
def test_other_opsets_are_refused(foreign_classifier, refused, opset, got):
    """Older than 7, newer than 24, or only another domain's."""
    model = foreign_classifier(13, are_weights_inputs=False)
    model.opset_import[0].version = opset
    if not opset:
        model.opset_import[0].CopyFrom(helper.make_opsetid("com.microsoft", 1))
    assert refused(model) == (
        f"m.onnx is of opset {got}, wanted 7 to 24",
        "export with opset_version=18",
    )


def with_input(classifier, kind, shape):
    model = classifier(13, are_weights_inputs=False)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("data_0", kind, shape))
    return model


CLASSIFIER = "an image classifier maps one [N, 3, H, W] to [N, classes]"
INPUTS = {
    "uint8": (
        TensorProto.UINT8,
        [1, 3, SIDE, SIDE],
        "m.onnx: input 'data_0' is uint8, wanted float32 [N, 3, H, W]",
        "export without preprocessing; --fold-preprocessing adds it to the graph",
    ),
    "NHWC": (
        TensorProto.FLOAT,
        [1, SIDE, SIDE, 3],
        "m.onnx: input 'data_0' is [1, 8, 8, 3], channels last, wanted [N, 3, H, W]",
        "export with channels first (tf2onnx: --inputs-as-nchw)",
    ),
    "gray": (
        TensorProto.FLOAT,
        [1, 1, SIDE, SIDE],
        "m.onnx has input 'data_0' [1, 1, 8, 8], wanted [N, 3, H, W]",
        CLASSIFIER,
    ),
    "rank 3": (
        TensorProto.FLOAT,
        [3, SIDE, SIDE],
        "m.onnx has input 'data_0' [3, 8, 8], wanted [N, 3, H, W]",
        CLASSIFIER,
    ),
    "free sides": (
        TensorProto.FLOAT,
        ["N", 3, "h", "w"],
        "m.onnx: input 'data_0' is ['N', 3, 'h', 'w'], its sides are dynamic",
        "pass --input-size",
    ),
}


@pytest.mark.parametrize("case", INPUTS)
def test_other_inputs_are_refused(foreign_classifier, refused, case):
    """Element type, layout, channels, rank and sides, each by the input's name."""
    kind, shape, line, hint = INPUTS[case]
    assert refused(with_input(foreign_classifier, kind, shape)) == (line, hint)


def test_several_inputs_or_outputs_are_listed(foreign_classifier, refused):
    """Which ones they are."""
    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.input.append(helper.make_tensor_value_info("phase", TensorProto.FLOAT, [1]))
    assert refused(model) == (
        "m.onnx has inputs 'data_0' [1, 3, 8, 8], 'phase' [1], wanted one image",
        CLASSIFIER,
    )
    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, [1, 4]))
    assert refused(model) == (
        "m.onnx has outputs 'prob_1' [1, 5], 'flat' [1, 4], wanted one, the logits",
        CLASSIFIER,
    )


def test_class_numbers_are_no_logits(foreign_classifier, refused):
    """An ArgMax at the end."""
    node = helper.make_node("ArgMax", ["logits_"], ["out"], axis=1, keepdims=0)
    model = after(foreign_classifier, node)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.INT64, [1]))
    assert refused(model) == (
        "m.onnx: output 'out' is int64, wanted float32 [N, classes]",
        "export the model without ArgMax or TopK; --head topk:K adds it",
    )


def test_maps_are_no_logits(foreign_classifier, refused):
    """A network without a pooled head."""
    model = foreign_classifier(13, are_weights_inputs=False)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 4, SIDE, SIDE])
    )
    assert refused(model) == (
        "m.onnx: output 'sum' is [1, 4, 8, 8], wanted [N, classes]",
        CLASSIFIER,
    )


@pytest.mark.parametrize(
    ("given", "missing"),
    [((), "no mean and no std"), (HALF[:2], "no std")],
)
def test_preprocessing_is_not_guessed(foreign_classifier, refused, given, missing):
    """Without mean or std: refused, and the hint lists the usual ones."""
    assert refused(foreign_classifier(), how=given) == (
        f"m.onnx does not say how images become its input: {missing}",
        (
            "ImageNet: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225; -1..1: --mean 0.5,0.5,0.5 "
            "--std 0.5,0.5,0.5; Caffe, 0..255: --channel-order BGR --mean 0.408,0.459,0.482 --std "
            "0.00392,0.00392,0.00392"
        ),
    )


def test_another_size_than_the_graphs_is_refused(foreign_classifier, refused):
    """The size is in the graph."""
    assert refused(foreign_classifier(), "--input-size", "16") == (
        "m.onnx takes images of 8 x 8, 16 x 16 asked for",
        "leave --input-size out: the size is in the graph",
    )


@pytest.mark.parametrize(
    ("flags", "what"),
    [(("--labels", "two.txt"), "2 class names"), (("--num-classes", "7"), "7 classes")],
)
def test_class_counts_must_fit(foreign_classifier, refused, flags, what):
    """Names or a number of classes for another head."""
    Path("two.txt").write_text("a\nb\n", encoding="utf-8")
    assert refused(foreign_classifier(), *flags) == (
        f"{what} for m.onnx, which has 5 logits",
        "give --labels with one class name per logit, in logit order",
    )


@pytest.mark.parametrize(("value", "words"), [(0.0, "all 0"), (np.nan, "not finite")])
def test_logits_must_say_something(foreign_classifier, refused, value, words):
    """A head of zeros, and one of NaN."""
    model = foreign_classifier(13, are_weights_inputs=False)
    for tensor in model.graph.initializer:
        if tensor.name in {"fc_w", "fc_b"}:
            array = np.full(numpy_helper.to_array(tensor).shape, value, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert refused(model) == (
        f"m.onnx: logits of random images are {words}",
        "the graph holds no trained weights, or --mean and --std are another network's",
    )


def test_images_must_not_mix(foreign_classifier, refused):
    """A network whose answer for one image depends on the others of its batch."""
    node = helper.make_node("Softmax", ["logits_"], ["out"], axis=0)
    model = foreign_classifier(
        13, batch="N", ending="logits", are_weights_inputs=False, extra=[node]
    )
    line, hint = refused(model, "--batch", "2")
    assert line.startswith("m.onnx: after import, logits differ by ")
    assert hint == "export again with opset 18 and the batch size you need"


def test_a_node_that_holds_the_batch_is_named(foreign_classifier, refused):
    """A Slice of the first row cannot give three: node, op, its answer and both batches."""
    node = helper.make_node("Slice", ["logits_", "from", "to", "axes"], ["out"])
    ends = {"from": [0], "to": [1], "axes": [0]}
    held = {name: np.array(value, np.int64) for name, value in ends.items()}
    assert refused(after(foreign_classifier, node, **held), "--batch", "3") == (
        "m.onnx: node 'odd' is Slice: it gives [1, 5] for a batch of 3, the graph was made for 1",
        "use --batch 1, or export again with a dynamic batch",
    )


FILES = {
    "absent": (None, "cannot read m.onnx: No such file or directory", "check the path"),
    "empty": (b"", "m.onnx is not an ONNX graph: it has no nodes or no opset", "check the path"),
    "text": (b"hello", "m.onnx is truncated or not an ONNX file", "export the model again"),
}


@pytest.mark.parametrize("case", FILES)
def test_other_files_are_refused(refusal, case):
    """Not there, or not ONNX."""
    content, line, hint = FILES[case]
    if content is not None:
        Path("m.onnx").write_bytes(content)
    assert refusal("export", "--onnx", "m.onnx", *HALF, "--out", "o.onnx") == (line, hint)


def test_weights_beside_a_graph_must_be_there(foreign_classifier, refusal):
    """The file that holds them is named."""
    model = foreign_classifier(13, are_weights_inputs=False)
    onnx.save(model, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    Path("w.bin").unlink()
    assert refusal("export", "--onnx", "m.onnx", *HALF, "--out", "o.onnx") == (
        "m.onnx keeps 10 weights in 'w.bin', which cannot be read",
        "put that file beside it",
    )


def test_sparse_weights_are_refused(foreign_classifier, refused):
    """How many there are."""
    model = foreign_classifier(13, are_weights_inputs=False)
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [2])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    assert refused(model) == (
        "m.onnx has 1 sparse weights, wanted dense ones",
        "export without sparse initializers",
    )
