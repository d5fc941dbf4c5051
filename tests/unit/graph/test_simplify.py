"""simplify: fewer nodes, the same function, portable, and proved before anything is written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import sidecars
import torch
from onnx import numpy_helper

from edge_inception import artifact, stage
from edge_inception.artifact import Graph, SimplifiedGraph
from edge_inception.errors import InputError
from edge_inception.export.export import ExportOptions, export
from edge_inception.graph import check, parity
from edge_inception.graph.simplify import SimplifyOptions, simplify, simplify_model
from edge_inception.spec import ShapeProfile
from edge_inception.stage import plain

TOLERANCE = 1e-5  # of the largest logit; see SimplifyOptions


@pytest.fixture(scope="module", params=["static", "dynamic"])
def graph(request, tiny_model, tiny_checkpoint, tmp_path_factory) -> Graph:
    profile = ShapeProfile(min=1, opt=2, max=4) if request.param == "dynamic" else ShapeProfile()
    options = ExportOptions(model=tiny_model.name, profile=profile)
    return export(tiny_checkpoint, options, tmp_path_factory.mktemp("graph") / "model.onnx")


@pytest.fixture(scope="module")
def simplified(graph) -> SimplifiedGraph:
    return simplify(graph, SimplifyOptions(), graph.path.with_name("model.simplified.onnx"))


def test_only_portable_nodes_stay_and_each_is_needed(simplified):
    """Counted from the model's description: 12 units, 3 concats, 3 pools and the head."""
    wanted = {
        "AveragePool": 2, "Concat": 3, "Conv": 12, "Flatten": 1, "Gemm": 1,
        "GlobalAveragePool": 1, "MaxPool": 1, "Relu": 12,
    }  # fmt: skip
    assert check.node_counts(onnx.load(simplified.path)) == wanted
    assert simplified.counts == {**wanted, "num_nodes": 33, "num_nodes_before": 32}


def test_logits_are_pytorchs(simplified, tiny_weights):
    """onnxruntime, with its own optimisations, gives the model's logits at every batch it takes."""
    session = onnxruntime.InferenceSession(simplified.path, providers=["CPUExecutionProvider"])
    is_dynamic = simplified.details.input_shape[0] == "batch"
    for batch in (1, 2, 4) if is_dynamic else (1,):
        rng = np.random.default_rng(batch)
        images = rng.standard_normal((batch, 3, 32, 40), dtype=np.float32)
        with torch.no_grad():
            wanted = tiny_weights(torch.from_numpy(images)).numpy()
        (logits,) = session.run(["logits"], {"input": images})
        assert np.abs(wanted).max() > 0.1
        assert np.abs(logits - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_file_is_valid_and_every_tensor_has_a_shape(simplified):
    """ONNX's checker accepts it; shapes are recorded for all tensors between the nodes."""
    onnx.checker.check_model(str(simplified.path), full_check=True)
    model = onnx.load(simplified.path)
    written = {name for node in model.graph.node for name in node.output} - {"logits"}
    assert {value.name for value in model.graph.value_info} == written
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8


def test_weights_keep_their_names(simplified, tiny_weights):
    """Kernels are found under the checkpoint's keys, with their shapes; nothing else is stored."""
    tensors = {t.name: list(t.dims) for t in onnx.load(simplified.path).graph.initializer}
    state = tiny_weights.state_dict()
    kernels = {key: list(t.shape) for key, t in state.items() if t.ndim == 4}
    assert kernels.items() <= tensors.items()
    biases = {key.removesuffix(".weight") + ".bias" for key in kernels}
    assert tensors.keys() - kernels.keys() == biases | {"last_linear.weight", "last_linear.bias"}


def test_tensors_have_the_names_of_their_modules(simplified, tiny_weights):
    """A range table of these names can be read next to the model."""
    modules = {""} | {name for name, _ in tiny_weights.named_modules()}
    for node in onnx.load(simplified.path).graph.node:
        assert node.name.rpartition("/")[0] in modules
        assert node.output[0] in {node.name, "logits"}


def test_running_again_gives_the_same_bytes(graph, simplified, tmp_path):
    """Same input, same file."""
    assert simplify(graph, SimplifyOptions(), tmp_path / "again.onnx").sha256 == simplified.sha256


def test_simplified_graph_stays_as_it_is(simplified):
    """Simplifying twice changes nothing."""
    model = onnx.load(simplified.path)
    again = simplify_model(model)
    assert again.SerializeToString(deterministic=True) == simplified.path.read_bytes()


def test_sidecar_carries_on(graph, simplified):
    """Preprocessing, classes and signature travel with the graph."""
    details = artifact.load(SimplifiedGraph, simplified.path).details
    assert plain(graph.details).items() <= plain(details).items()
    assert details.simplify_difference <= TOLERANCE
    assert simplified.provenance.parents["graph"] == graph.sha256
    assert simplified.provenance.parents.keys() == {"graph", "details of graph"}


def published(model, path) -> Graph:
    """A graph artifact of any ONNX model."""
    origin = stage.provenance(
        stage.Stage(name="export", tools=(), sources=()), parents={}, options={}
    )
    content = model.SerializeToString()
    return artifact.publish(Graph, path, content, provenance=origin, details=sidecars.graph())


def spoilt(graph, tmp_path, change) -> Graph:
    model = onnx.load(graph.path)
    change(model)
    return published(model, tmp_path / "spoilt.onnx")


def assert_refused(graph, tmp_path, said):
    out = tmp_path / "out" / "model.simplified.onnx"
    with pytest.raises(InputError, match=said):
        simplify(graph, SimplifyOptions(), out)
    assert not out.parent.exists()


def test_nan_weight_is_refused(graph, tmp_path):
    """A NaN in the graph is named and nothing is written."""

    def change(model):
        tensor = model.graph.initializer[0]
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    assert_refused(spoilt(graph, tmp_path, change), tmp_path, "1 of 216 values NaN or infinite")


def test_an_op_that_nobody_listed_passes_through(graph, tmp_path):
    """What is not quantized is not judged: onnxruntime's logits are those of the graph before."""

    def change(model):
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        relu.op_type, relu.name = "Softplus", "odd/Softplus"

    result = simplify(spoilt(graph, tmp_path, change), SimplifyOptions(), tmp_path / "s.onnx")
    assert result.counts["Softplus"] == 1
    assert result.details.simplify_difference <= TOLERANCE


def test_an_op_that_onnx_does_not_define_is_named(graph, tmp_path):
    """Nothing runs a made-up op: it is an error with the op's name, not a traceback."""

    def change(model):
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        relu.op_type, relu.name = "Bend", "odd/Bend"

    assert_refused(spoilt(graph, tmp_path, change), tmp_path, "Bend")


def test_custom_operator_sets_are_refused(graph, tmp_path):
    """A graph that needs somebody's own operators is refused before anything runs."""

    def change(model):
        model.opset_import.add(domain="com.microsoft", version=1)

    assert_refused(spoilt(graph, tmp_path, change), tmp_path, "com.microsoft")


def test_zero_logits_are_refused(graph, tmp_path):
    """Where all logits are 0 every comparison passes, so there is none."""

    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name.startswith("last_linear"):
                zeros = np.zeros_like(numpy_helper.to_array(tensor))
                tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))

    assert_refused(spoilt(graph, tmp_path, change), tmp_path, "all logits of the exported graph")


def test_a_pass_that_changes_the_function_is_caught(graph, tmp_path, monkeypatch):
    """A rewrite that drops the border rule of one average pool is refused by the parity check."""
    import edge_inception.graph.simplify as subject

    def wrong(model):
        pools = [node for node in model.graph.node if node.op_type == "AveragePool"]
        entry = next(a for a in pools[0].attribute if a.name == "count_include_pad")
        is_modified = entry.i == 0
        entry.i = 1
        return is_modified

    monkeypatch.setattr(subject, "PASSES", (*subject.PASSES, wrong))
    assert_refused(graph, tmp_path, "simplified graph differs from the exported one by")


@pytest.mark.parametrize("largest", [1e-3, 1.0, 1e3])
def test_difference_is_measured_not_assumed(simplified, largest):
    """A graph with one logit moved by 1 % of the largest differs by 1 %, whatever its magnitude.

    Logits are the biases of the head, whose weights are 0.
    """
    logits = np.array([0.5, -1.0, 0.25, 0.0, 0.75], np.float32) * np.float32(largest)
    moved = logits + np.array([0, 0, 0.01 * largest, 0, 0], np.float32)
    graphs = [with_head(simplified.path, bias) for bias in (logits, moved)]
    assert parity.largest_difference(*graphs, seed=0) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(InputError, match=r"1\.0e-02 of the largest logit, wanted at most 1e-05"):
        parity.require_tolerance(0.01, TOLERANCE)


def with_head(path, bias):
    """The graph with a head of that bias and no weights."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "last_linear.weight":
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
        if tensor.name == "last_linear.bias":
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    return model


@pytest.mark.parametrize("difference", [float("nan"), float("inf")])
def test_difference_that_is_no_number_is_refused(difference):
    """NaN logits do not pass a comparison."""
    with pytest.raises(InputError):
        parity.require_tolerance(difference, TOLERANCE)


def test_other_kinds_of_graphs_are_refused(graph, tmp_path):
    """A graph without a rank-2 output is no classifier."""

    def change(model):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1

    assert_refused(spoilt(graph, tmp_path, change), tmp_path, "wanted one float32 of rank 2")


def test_a_graph_that_becomes_invalid_is_refused(graph, tmp_path):
    """A constant with the name that a bias gets: onnx.checker's refusal is an error of ours."""

    def change(model):
        gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
        bias = next(t for t in model.graph.initializer if t.name == gemm.input[2])
        taken = f"{gemm.input[1].removesuffix('.weight')}.bias"
        gemm.input[2] = "other"
        low = numpy_helper.from_array(np.full(bias.dims, -100, np.float32), taken)
        bias.name = "other"
        model.graph.initializer.append(low)
        model.graph.node[-1].output[0] = "inner"
        model.graph.node.append(onnx.helper.make_node("Max", ["inner", taken], ["logits"]))

    assert_refused(spoilt(graph, tmp_path, change), tmp_path, "not valid ONNX: .*not unique")


def test_simplify_does_not_import_torch():
    """Though onnxsim does where it can; torch can be imported afterwards."""
    code = (
        "import sys\n"
        "from edge_inception.graph import simplify\n"
        "simplify._import_onnxsim()\n"
        "assert 'onnxsim' in sys.modules and 'torch' not in sys.modules\n"
        "import torch\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
