"""export: the model as ONNX, the same bytes from anywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

import edge_inception.export.export as subject
from edge_inception import artifact, registry
from edge_inception.artifact import Graph
from edge_inception.errors import InputError
from edge_inception.export.export import ExportOptions, export
from edge_inception.spec import ShapeProfile

# Two implementations of float32 convolution differ by the order of their sums: 1.5e-6 of the
# largest logit at worst for 150 layers in docs/models.md, "Rounding between implementations".
TOLERANCE = 1e-5
NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def options(tiny_model):
    return ExportOptions(model=tiny_model.name)


@pytest.fixture(scope="module")
def graph(tiny_checkpoint, options, tmp_path_factory) -> Graph:
    return export(tiny_checkpoint, options, tmp_path_factory.mktemp("export") / "model.onnx")


def logits_of(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": images})[0]


def image_set(num_images, height=32, width=40):
    rng = np.random.default_rng(3)
    return rng.standard_normal((num_images, 3, height, width), dtype=np.float32)


def assert_same(ours, theirs):
    assert np.abs(theirs).max() > 0.1, "logits too small to compare"
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def test_onnxruntime_gives_pytorchs_logits(graph, tiny_weights):
    """The exported graph answers as the model it came from."""
    images = image_set(1)
    with torch.no_grad():
        assert_same(logits_of(graph.path, images), tiny_weights(torch.from_numpy(images)).numpy())


def test_graph_is_valid_at_the_opset_it_states(graph):
    """ONNX's own checker accepts the file, which states opset 18 and IR version 8."""
    onnx.checker.check_model(str(graph.path), full_check=True)
    model = onnx.load(graph.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8


def test_sidecar_tells_what_later_stages_need(graph):
    """Sidecar: signature, preprocessing and counts, checked against the file itself."""
    loaded = artifact.load(Graph, graph.path)
    model = onnx.load(graph.path)
    assert loaded.details.input == model.graph.input[0].name == "input"
    assert loaded.details.output == model.graph.output[0].name == "logits"
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert loaded.details.input_shape == tuple(dims) == (1, 3, 32, 40)
    assert loaded.details.num_classes == 5
    assert loaded.details.preprocess.input_size == (32, 40)
    assert sum(loaded.counts.values()) == len(model.graph.node)
    assert loaded.counts["Conv"] == 12
    assert loaded.provenance.parents.keys() == {"checkpoint"}


def test_nothing_in_the_file_tells_where_it_was_made(graph):
    """No stack trace, path, doc string or metadata is left."""
    content = graph.path.read_bytes()
    assert not [trace for trace in (b".py", b"torch", b"File ", b"home") if trace in content]
    model = onnx.load(graph.path)
    items = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.initializer]
    assert not any(len(item.metadata_props) or item.doc_string for item in items)


def test_nodes_are_named_by_module_and_op(graph, tiny_weights):
    """Every node is named module/op, with a module that exists in the model."""
    modules = dict(tiny_weights.named_modules())
    names = [node.name for node in onnx.load(graph.path).graph.node]
    assert len(set(names)) == len(names)
    assert {name.rpartition("/")[0] for name in names} <= modules.keys()
    assert "features.2.branch2.0/AveragePool" in names


def test_nodes_of_one_module_are_told_apart():
    """Two nodes of the same module and op get a number; ONNX wants unique names."""
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[2] x) => (float[2] y)'
    model = onnx.parser.parse_model(f"{text} {{ a = Relu(x) b = Relu(a) y = Sigmoid(b) }}")
    subject._strip(model)
    assert [node.name for node in model.graph.node] == ["/Relu", "/Relu_1", "/Sigmoid"]


def test_second_export_is_silent_and_gives_the_same_bytes(
    graph, tiny_checkpoint, options, tmp_path, capfd
):
    """The process may have exported before; stdout and stderr are for results and errors."""
    assert export(tiny_checkpoint, options, tmp_path / "again.onnx").sha256 == graph.sha256
    assert capfd.readouterr() == ("", "")


def test_weights_decide_the_bytes(graph, tiny_weights, options, tmp_path):
    """Another weight gives another file; the hash of the test above could differ."""
    state = {key: tensor.clone() for key, tensor in tiny_weights.state_dict().items()}
    state["last_linear.bias"][0] += 1
    save_file(state, tmp_path / "other.safetensors")
    other = export(tmp_path / "other.safetensors", options, tmp_path / "other.onnx")
    assert other.sha256 != graph.sha256


def test_dynamic_batch_takes_every_size(tiny_checkpoint, tiny_weights, options, tmp_path):
    """With MIN:OPT:MAX the batch is dynamic and every size gives PyTorch's logits."""
    dynamic = replace(options, profile=ShapeProfile(min=1, opt=2, max=4))
    made = export(tiny_checkpoint, dynamic, tmp_path / "dynamic.onnx")
    assert made.details.input_shape == ("batch", 3, 32, 40)
    assert onnx.load(made.path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    for batch in (1, 2, 4):
        images = image_set(batch)
        with torch.no_grad():
            theirs = tiny_weights(torch.from_numpy(images)).numpy()
        assert_same(logits_of(made.path, images), theirs)


def test_static_batch_is_the_profiles(tiny_checkpoint, options, tmp_path):
    """min = max = 3 gives a graph of batch 3."""
    static = replace(options, profile=ShapeProfile(min=3, opt=3, max=3))
    made = export(tiny_checkpoint, static, tmp_path / "static.onnx")
    assert made.details.input_shape == (3, 3, 32, 40)
    assert logits_of(made.path, image_set(3)).shape == (3, 5)


def test_class_names_must_fit_the_head(tiny_checkpoint, options, tmp_path):
    """Two names for five logits are refused with both numbers; nothing is written."""
    with pytest.raises(InputError, match="2 class names for a head of 5"):
        export(tiny_checkpoint, replace(options, classes=("a", "b")), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def named_checkpoint(tiny_weights, tmp_path):
    metadata = {"classes": '["a", "b", "c", "d", "e"]'}
    save_file(tiny_weights.state_dict(), tmp_path / "named.safetensors", metadata=metadata)
    return tmp_path / "named.safetensors"


def test_class_names_of_the_checkpoint_are_used(named_checkpoint, options, tmp_path):
    """Names that the checkpoint carries reach the sidecar, in its order."""
    assert export(named_checkpoint, options, tmp_path / "m.onnx").details.classes == (*NAMES,)


def test_class_names_in_another_order_are_refused(named_checkpoint, options, tmp_path):
    """The same names in another order would label every answer wrongly."""
    swapped = replace(options, classes=("b", "a", "c", "d", "e"))
    with pytest.raises(InputError, match="another order"):
        export(named_checkpoint, swapped, tmp_path / "m.onnx")


def test_image_too_small_for_the_model_is_refused(tiny_checkpoint, options, tmp_path):
    """An input that shrinks to nothing is the user's mistake, not a traceback of torch."""
    small = replace(options, preprocess={"input_size": (4, 4)})
    with pytest.raises(InputError, match="tiny_inception cannot take 4 x 4 images"):
        export(tiny_checkpoint, small, tmp_path / "m.onnx")


def test_another_opset_than_asked_is_refused(tiny_checkpoint, options, tmp_path, monkeypatch):
    """What the exporter wrote is checked, not what it was asked for: 17 comes out as 18."""
    monkeypatch.setattr(subject, "OPSET", 17)
    with pytest.raises(
        InputError, match=r"torch wrote opsets \{'ai.onnx': 18\}, wanted ai.onnx 17"
    ):
        export(tiny_checkpoint, options, tmp_path / "m.onnx")


def spoil(model, op, change):
    change(next(node for node in model.graph.node if node.op_type == op))


def include_padding(pool):
    next(entry for entry in pool.attribute if entry.name == "count_include_pad").i = 1


def swap_branches(concat):
    concat.input[0], concat.input[-1] = concat.input[-1], concat.input[0]


@pytest.mark.parametrize(
    ("op", "change"), [("AveragePool", include_padding), ("Concat", swap_branches)]
)
def test_graph_that_computes_something_else_is_refused(
    tiny_checkpoint, options, tmp_path, monkeypatch, op, change
):
    """A wrong border rule or order of branches is found; no file is left."""
    strip = subject._strip

    def wrong(model):
        strip(model)
        spoil(model, op, change)

    monkeypatch.setattr(subject, "_strip", wrong)
    with pytest.raises(InputError, match="times as much as PyTorch's float32, wanted at most 4"):
        export(tiny_checkpoint, options, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_zero_logits_are_refused(tiny_weights, options, tmp_path):
    """Untrained zeros compare equal to anything, so they are refused."""
    state = {key: tensor.clone() for key, tensor in tiny_weights.state_dict().items()}
    for key in ("last_linear.weight", "last_linear.bias"):
        state[key].zero_()
    save_file(state, tmp_path / "zero.safetensors")
    with pytest.raises(InputError, match="logits of a random image are all 0"):
        export(tmp_path / "zero.safetensors", options, tmp_path / "m.onnx")


_SCRIPT = """
import sys
from pathlib import Path
from edge_inception.export.export import ExportOptions, export
from edge_inception.graph.simplify import SimplifyOptions, simplify
options = ExportOptions(
    model="inception_v4", model_options={"width": 0.125}, preprocess={"input_size": (96, 96)}
)
graph = export(Path(sys.argv[1]), options, Path("model.onnx"))
simplify(graph, SimplifyOptions(), Path("model.simplified.onnx"))
"""


@pytest.mark.slow
def test_same_bytes_from_any_folder_and_process(randomise, tmp_path):
    """Two processes in two folders, with other hash seeds, write equal graphs of Inception-v4."""
    model = randomise(registry.model("inception_v4").build(num_classes=4, width=0.125), (96, 96))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    digests = []
    for seed, name in enumerate(("here", "some/where/else")):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(tmp_path / "weights.safetensors")],
            cwd=folder,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": str(seed), "PATH": ""},
            check=True,
        )
        files = (folder / "model.onnx", folder / "model.simplified.onnx")
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
