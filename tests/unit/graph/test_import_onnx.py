"""import: a foreign classifier keeps its function, and what is assumed is said."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_inception import artifact
from edge_inception.artifact import Graph
from edge_inception.errors import InputError
from edge_inception.graph.batch import possible_batch
from edge_inception.graph.import_onnx import import_graph, import_provenance
from edge_inception.graph.opsets import OPSET
from edge_inception.graph.options import ImportOptions
from edge_inception.graph.simplify import SimplifyOptions, simplify
from edge_inception.spec import ShapeProfile

SIDE, CLASSES = 8, 5
NUM_WEIGHTS = 9
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
FREE = ShapeProfile(min=1, opt=2, max=4)


@pytest.fixture
def classifier(foreign_classifier):
    return foreign_classifier


def imported(model, folder, *, save=onnx.save, **choices):
    source = folder / "their model.onnx"
    save(model, str(source))
    options = ImportOptions(**{"preprocess": HALF, **choices})
    return import_graph(source, options, folder / "model.onnx")


def answers(path, images):
    """onnxruntime as its users run it, with its optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (first, *_) = session.get_inputs()
    return session.run(None, {first.name: images})[0]


def photos(count):
    return np.random.default_rng(1).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 15, 17, 18, 19, 20, 21, 23, 24])
def test_every_opset_keeps_the_function(classifier, tmp_path, opset):
    """Opset 7 to 24: the import's softmaxed logits are the file's own probabilities."""
    graph = imported(classifier(opset, are_weights_inputs=opset < 10), tmp_path)
    theirs = answers(tmp_path / "their model.onnx", photos(1))
    ours = answers(graph.path, photos(1))
    # both are onnxruntime in float32; its fusions move a probability by a rounding or two
    assert np.abs(softmax(ours) - theirs).max() < 1e-6
    assert ours.std() > 0.1  # the network says something
    assert graph.details.opset == OPSET
    assert graph.details.source_opset == opset


def test_the_sidecar_says_what_later_stages_need(classifier, tmp_path):
    """Name, classes, preprocessing, shapes and the head that was cut off."""
    graph = imported(classifier(), tmp_path, classes=tuple("abcde"))
    assert artifact.load(Graph, graph.path).details == graph.details
    assert graph.details.model == "their model"
    assert graph.details.num_classes == CLASSES
    assert graph.details.classes == tuple("abcde")
    assert graph.details.input_shape == (1, 3, SIDE, SIDE)
    assert graph.details.cut_head == "softmax"
    assert graph.details.preprocess.input_size == (SIDE, SIDE)
    assert graph.details.checkpoint_notes == (
        "crop_fraction 0.875 is assumed; --crop-fraction changes it",
        "interpolation bilinear is assumed; --interpolation changes it",
        "its Softmax is cut off, the engine answers logits; --head softmax keeps it",
    )
    assert graph.counts["Conv"] == 2


def test_what_is_given_is_not_assumed(classifier, tmp_path):
    """With crop and interpolation given, nothing is assumed and nothing is said."""
    how = {**HALF, "crop_fraction": 1.0, "interpolation": "bicubic"}
    graph = imported(classifier(ending="logits"), tmp_path, preprocess=how)
    assert graph.details.checkpoint_notes == ()
    assert graph.details.preprocess.crop_fraction == 1.0


def test_weights_are_no_inputs_any_more(classifier, tmp_path):
    """IR version 3 with initialisers as inputs becomes one input and one output, by our names."""
    graph = imported(classifier(9), tmp_path)
    model = onnx.load(str(graph.path))
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert model.ir_version == 8
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    ("ending", "cut"),
    [("logits", ""), ("softmax", "softmax"), ("logits4", ""), ("softmax4", "softmax")],
)
@pytest.mark.parametrize("opset", [9, 13])
def test_endings(classifier, tmp_path, ending, cut, opset):
    """[N, classes] or [N, classes, 1, 1], with a Softmax or without: logits [N, classes]."""
    graph = imported(classifier(opset, ending=ending, are_weights_inputs=False), tmp_path)
    theirs = answers(tmp_path / "their model.onnx", photos(1)).reshape(1, CLASSES)
    ours = answers(graph.path, photos(1))
    assert ours.shape == (1, CLASSES)
    assert np.abs((softmax(ours) if cut else ours) - theirs).max() < 2e-6
    assert graph.details.cut_head == cut


def test_softmax_over_another_axis_is_no_head(classifier, tmp_path):
    """A Softmax over a single row is not a head; it stays."""
    node = helper.make_node("Softmax", ["logits_"], ["odd"], axis=0)
    model = classifier(13, ending="logits", are_weights_inputs=False, extra=[node])
    graph = imported(model, tmp_path)
    assert graph.details.cut_head == ""
    assert graph.counts["Softmax"] == 1


@pytest.mark.parametrize(
    ("batch", "profile"),
    [
        (1, ShapeProfile(min=4, opt=4, max=4)),
        (1, FREE),
        ("N", FREE),
        ("N", ShapeProfile()),
        (2, FREE),
    ],
)
def test_the_batch_is_the_recipes(classifier, tmp_path, batch, profile):
    """A Reshape that holds a batch of 1 gives way; every row is what the image alone gives."""
    graph = imported(classifier(9, batch=batch), tmp_path, profile=profile)
    images = photos(4)[: profile.max]
    ours = answers(graph.path, images)
    copies = 1 if batch == "N" else batch
    path = tmp_path / "their model.onnx"
    theirs = [answers(path, np.repeat(image[None], copies, axis=0))[0] for image in images]
    assert np.abs(softmax(ours) - np.stack(theirs)).max() < 1e-6
    want = "batch" if profile.is_dynamic else profile.max
    assert graph.details.input_shape[0] == want
    for value in (
        *onnx.load(str(graph.path)).graph.input,
        *onnx.load(str(graph.path)).graph.output,
    ):
        first = value.type.tensor_type.shape.dim[0]
        assert (first.dim_param or first.dim_value) == want


def test_a_node_that_holds_the_batch_is_named(classifier, tmp_path):
    """A Slice of the first row cannot give three: node, op, its answer and both batches."""
    model = classifier(13, ending="logits", are_weights_inputs=False)
    for name, value in (("from", 0), ("to", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "axes"))
    slice_ = helper.make_node("Slice", ["logits_", "from", "to", "axes"], ["out"], name="first")
    model.graph.node.append(slice_)
    model.graph.output[0].name = "out"
    with pytest.raises(InputError) as error:
        imported(model, tmp_path, profile=ShapeProfile(min=3, opt=3, max=3))
    assert str(error.value) == (
        f"{tmp_path}/their model.onnx: node 'first' is Slice: it gives [1, 5] for a batch of 3, "
        "the graph was made for 1"
    )
    assert error.value.hint == "use --batch 1, or export again with a dynamic batch"


def test_external_weights_are_taken_in(classifier, tmp_path):
    """Weights in a file beside it; changing that file changes the provenance."""

    def save(model, path):
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)

    source, how = tmp_path / "their model.onnx", ImportOptions(preprocess=HALF)
    graph = imported(classifier(13, are_weights_inputs=False), tmp_path, save=save)
    assert not any(t.external_data for t in onnx.load(str(graph.path)).graph.initializer)
    assert graph.provenance.parents.keys() == {"onnx", "weights w.bin"}
    before = import_provenance(source, how)
    (tmp_path / "w.bin").write_bytes(b"\0\0\0\0" + (tmp_path / "w.bin").read_bytes()[4:])
    assert import_provenance(source, how) != before
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match=r"keeps \d+ weights in 'w\.bin', which cannot be read"):
        import_graph(source, how, tmp_path / "again.onnx")


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_other_floats_become_float32(classifier, tmp_path, kind):
    """A half, bfloat16 or double graph becomes float32 of the very same weights, and says so."""
    model = classifier(13, are_weights_inputs=False)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            stored = helper.make_tensor(tensor.name, kind, values.shape, values.ravel())
            tensor.CopyFrom(stored)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    graph = imported(model, tmp_path)
    name = TensorProto.DataType.Name(kind).lower()
    assert graph.details.checkpoint_notes[0] == f"weights made float32: {NUM_WEIGHTS} of {name}"
    ours = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(graph.path)).graph.initializer}
    for tensor in model.graph.initializer:
        stored = numpy_helper.to_array(tensor)
        assert np.array_equal(ours[tensor.name], stored.astype(ours[tensor.name].dtype))
    assert all(array.dtype in (np.float32, np.int64) for array in ours.values())


def test_functions_are_inlined(classifier, tmp_path):
    """A model function becomes its nodes."""
    model = classifier(13, ending="logits", are_weights_inputs=False)
    body = [helper.make_node("Mul", ["a", "a"], ["b"])]
    square = helper.make_function(
        "mine", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 13)]
    )
    model.functions.append(square)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Square", ["logits_"], ["out"], domain="mine"))
    model.graph.output[0].name = "out"
    model.ir_version = 8
    graph = imported(model, tmp_path)
    theirs = answers(tmp_path / "their model.onnx", photos(1))
    assert np.allclose(answers(graph.path, photos(1)), theirs, rtol=1e-5)
    assert "1 functions inlined" in graph.details.checkpoint_notes


def test_a_tensor_called_logits_gives_way(classifier, tmp_path):
    """Inner tensors that have the names of our ends are renamed."""
    model = classifier(13, are_weights_inputs=False)
    for node in model.graph.node:
        node.input[:] = [{"c": "logits", "n": "input"}.get(n, n) for n in node.input]
        node.output[:] = [{"c": "logits", "n": "input"}.get(n, n) for n in node.output]
    graph = imported(model, tmp_path)
    theirs = answers(tmp_path / "their model.onnx", photos(1))
    assert np.abs(softmax(answers(graph.path, photos(1))) - theirs).max() < 1e-6


def test_free_sides_are_set(classifier, tmp_path):
    """Free height and width take the recipe's input size."""
    model = classifier(13, side="side", are_weights_inputs=False)
    graph = imported(model, tmp_path, preprocess={**HALF, "input_size": (16, 20)})
    assert graph.details.input_shape == (1, 3, 16, 20)


def test_same_file_same_bytes(classifier, tmp_path):
    """Two imports are one graph, byte for byte."""
    first = imported(classifier(), tmp_path).sha256
    assert imported(classifier(), tmp_path).sha256 == first


def test_a_network_with_a_module_called_head(classifier, tmp_path):
    """Later stages take nodes under ``head/`` for the softmax that we add, so theirs is renamed."""
    model = classifier(13, ending="logits", are_weights_inputs=False)
    for tensor in model.graph.initializer:
        tensor.name = {"fc_w": "head.weight"}.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [{"fc_w": "head.weight"}.get(name, name) for name in node.input]
    model.graph.node[0].name = "head/conv"
    graph = imported(model, tmp_path)
    simplified = simplify(graph, SimplifyOptions(), tmp_path / "simplified.onnx")
    nodes = onnx.load(str(simplified.path)).graph.node
    assert not [node.name for node in nodes if node.name.startswith("head/")]
    theirs = answers(tmp_path / "their model.onnx", photos(1))
    assert np.abs(answers(simplified.path, photos(1)) - theirs).max() < 1e-5


def test_an_op_that_our_opset_lacks_is_expanded(classifier, tmp_path):
    """Gelu came with opset 20: ONNX's definition of it, without its constants, takes its place."""
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0])
    nodes = [
        helper.make_node("Constant", [], ["two"], value=value),
        helper.make_node("Gelu", ["logits_"], ["bent"]),
        helper.make_node("Mul", ["bent", "two"], ["out"]),
    ]
    model = classifier(20, ending="logits", are_weights_inputs=False, extra=nodes)
    graph = imported(model, tmp_path)
    counts = simplify(graph, SimplifyOptions(), tmp_path / "simplified.onnx").counts
    assert counts["Erf"] == 1
    assert not {"Gelu", "Constant", "Cast", "CastLike"} & counts.keys()
    theirs = answers(tmp_path / "their model.onnx", photos(1))
    assert np.abs(answers(tmp_path / "simplified.onnx", photos(1)) - theirs).max() < 1e-5


def test_the_batch_that_calibration_may_take(classifier, tmp_path):
    """A Reshape to a batch of 1 is freed; a token that is joined to one image is not."""
    graph = imported(classifier(13, are_weights_inputs=False), tmp_path)
    assert possible_batch(graph.path, 8) == 8
    model = onnx.load(str(graph.path))
    token = np.ones((1, 1, SIDE, SIDE), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(token, "token"))
    (conv, *_) = (node for node in model.graph.node if node.op_type == "Conv")
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[1])
    wider = np.concatenate([numpy_helper.to_array(kernel)] * 2, axis=1)[:, :4]
    kernel.CopyFrom(numpy_helper.from_array(wider, kernel.name))
    model.graph.node.insert(0, helper.make_node("Concat", ["input", "token"], ["joined"], axis=1))
    conv.input[0] = "joined"
    onnx.save(model, str(graph.path))
    assert possible_batch(graph.path, 8) == 1


def test_nodes_are_named_after_the_modules_that_torch_recorded(classifier, tmp_path):
    """Groups that users keep in float are called by module, as in a graph of our own export."""
    model = classifier(13, ending="logits", are_weights_inputs=False)
    scopes = "['', 'blocks.0', 'blocks.0.attn', 'conv2d']"
    for node in model.graph.node[:2]:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    nodes = onnx.load(str(imported(model, tmp_path).path)).graph.node
    assert [node.name for node in nodes[:2]] == [
        "blocks.0.attn/Conv", "blocks.0.attn/BatchNormalization",
    ]  # fmt: skip
