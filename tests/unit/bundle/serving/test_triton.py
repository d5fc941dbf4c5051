"""Triton's repository, read back with Triton's own schema."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from onnx import TensorProto, helper

from edge_inception.bundle.serving import triton
from edge_inception.bundle.serving.served_model import served_model
from edge_inception.errors import InputError
from edge_inception.export import interface
from edge_inception.hardware import targets
from edge_inception.spec import Head, Preprocess

CLASSES = ("functional", "defective", "unknown")
ELEMENTS = {
    "tensor(float)": "TYPE_FP32",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int64)": "TYPE_INT64",
}


def _load_schema():
    """tritonclient's messages, without its package, which imports grpc."""
    (folder,) = importlib.util.find_spec("tritonclient").submodule_search_locations
    path = Path(folder) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCHEMA = _load_schema()


def read(files, name="solar"):
    """The config as Triton reads it; unknown fields and wrong types raise."""
    return text_format.Parse(files[f"triton/{name}/config.pbtxt"], SCHEMA.ModelConfig())


def type_name(tensor):
    return SCHEMA.DataType.Name(tensor.data_type)


def test_dynamic_batch_is_batched_by_the_server(served):
    """Dims leave the batch out; the batcher prefers the sizes that kernels were tuned for."""
    config = read(triton.render(served(batch=(1, 4, 8))))
    assert (config.name, config.backend, config.max_batch_size) == ("solar", "tensorrt", 8)
    assert list(config.input[0].dims) == [3, 299, 289]
    assert list(config.output[0].dims) == [3]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0


@pytest.mark.parametrize("size", [1, 2])
def test_static_batch_is_part_of_the_dims(served, size):
    """max_batch_size 0: the shapes are the engine's, batch and all, and nothing is batched."""
    config = read(triton.render(served(batch=(size, size, size))))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [size, 3, 299, 289]
    assert list(config.output[0].dims) == [size, 3]
    assert config.WhichOneof("scheduling_choice") is None
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 1  # model_config.proto wants 1 of models that do not batch
    assert list(warmup.inputs["input"].dims) == [size, 3, 299, 289]


def test_every_size_that_is_preferred_is_warmed_up(served):
    """One sample of random data per size, of the input's own shape and element."""
    config = read(triton.render(served(batch=(1, 4, 8), element="uint8", layout="NHWC")))
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4, 8]
    for sample in config.model_warmup:
        assert list(sample.inputs) == ["input"]
        image = sample.inputs["input"]
        assert (list(image.dims), type_name(image)) == ([299, 289, 3], "TYPE_UINT8")
        assert image.WhichOneof("input_data_type") == "random_data"


@pytest.mark.parametrize("head", ["logits", "softmax"])
def test_labels_stand_in_a_file_one_a_line(served, head):
    """label_filename names a file that is written, with one class per line in logit order."""
    files = triton.render(served(head=head))
    name = read(files).output[0].label_filename
    assert files[f"triton/solar/{name}"].split("\n") == [*CLASSES, ""]


@pytest.mark.parametrize("changes", [{"head": "embedding"}, {"head": "topk:2"}, {"classes": ()}])
def test_no_labels_where_positions_are_no_classes(served, changes):
    """An embedding, a top-k answer or unknown classes get neither a file nor its name."""
    files = triton.render(served("thor-t5000", **changes))
    assert list(files) == ["triton/solar/config.pbtxt"]
    assert not any(output.label_filename for output in read(files).output)


@pytest.mark.parametrize("head", ["logits", "softmax", "topk:2"])
@pytest.mark.parametrize(
    ("element", "layout"), [("float32", "NCHW"), ("uint8", "NCHW"), ("uint8", "NHWC")]
)
def test_inputs_and_outputs_are_those_of_the_graph(served, head, element, layout):
    """Names, types and shapes are what onnxruntime reads from a graph with these ends."""
    size = (299, 289)
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Identity", ["mean"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    how = Preprocess(input_size=size, element=element, layout=layout)
    interface.add_preprocessing_and_head(model, how, Head.of(head))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    config = read(
        triton.render(served("cpu", head=head, batch=(1, 1, 1), element=element, layout=layout))
    )
    for ours, real in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [(t.name, type_name(t), list(t.dims)) for t in ours] == [
            (t.name, ELEMENTS[t.type], t.shape) for t in real
        ]


def test_cpu_runs_the_graph_in_onnxruntime(served):
    """Target cpu: onnxruntime on the CPU, with nothing that only TensorRT reads."""
    config = read(triton.render(served("cpu")))
    assert config.backend == "onnxruntime"
    assert [group.kind for group in config.instance_group] == [SCHEMA.ModelInstanceGroup.KIND_CPU]
    assert not config.HasField("optimization")
    assert "model.onnx" in triton.usage(served("cpu"))
    assert "TensorRT" not in triton.usage(served("cpu"))


def test_plan_runs_on_the_gpu_with_cuda_graphs(served):
    """A TensorRT plan: one GPU instance, CUDA graphs on, model.plan."""
    config = read(triton.render(served()))
    assert [group.kind for group in config.instance_group] == [SCHEMA.ModelInstanceGroup.KIND_GPU]
    assert config.optimization.cuda.graphs
    assert not config.cc_model_filenames
    assert "model.plan" in triton.usage(served())


def test_dla_core_is_named_and_not_captured(served):
    """An engine of a DLA core runs on that core; nothing documents CUDA graphs there."""
    config = read(triton.render(served(dla_core=1)))
    ((device,),) = (group.secondary_devices for group in config.instance_group)
    assert (device.kind, device.device_id) == (device.KIND_NVDLA, 1)
    assert not config.optimization.cuda.graphs


def test_one_repository_for_several_gpus(served):
    """Each compute capability has its own file, and the README says to copy each."""
    several = served(capabilities=("7.2", "8.7"))
    config = read(triton.render(several))
    assert dict(config.cc_model_filenames) == {"7.2": "model.sm72.plan", "8.7": "model.sm87.plan"}
    assert all(name in triton.usage(several) for name in config.cc_model_filenames.values())


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("nano-4gb", "TYPE_INT32"),  # TensorRT 8.2
        ("xavier-nx-8gb", "TYPE_INT32"),  # 8.2 to 8.5
        ("orin-nano-8gb-super", "TYPE_INT64"),  # 10.3 to 10.16
        ("thor-t5000", "TYPE_INT64"),  # 10.13 to 10.16
    ],
)
def test_classes_of_a_top_k_head_are_what_this_tensorrt_answers(served, target, expected):
    """TensorRT before 10 casts int64 to int32 (docs/tensorrt.md, "Versions")."""
    config = read(triton.render(served(target, head="topk:2")))
    assert [type_name(output) for output in config.output] == ["TYPE_FP32", expected]


@pytest.mark.parametrize(
    ("arguments", "changes", "hint"),
    [
        (("rtx",), {}, "--target cpu"),
        ((), {"batch": (2, 4, 8)}, "--dynamic-batch 1:4:8"),
        (("orin-nx-16gb",), {"head": "topk:2"}, "--head softmax"),  # TensorRT 8.5 to 10.16
        (("l4",), {"head": "topk:2"}, "--head softmax"),  # any version
    ],
)
def test_what_triton_cannot_serve_is_refused(served, arguments, changes, hint):
    """TensorRT-RTX, a batch above 1, and classes of unknown width: refused, with what works."""
    with pytest.raises(InputError) as caught:
        triton.render(served(*arguments, **changes))
    assert hint in caught.value.hint


@settings(deadline=None)  # the machine may be busy
@given(text=st.text())
def test_any_text_is_quoted_so_that_it_reads_back(text):
    """Quotes, backslashes, line breaks, controls and other scripts survive the text format."""
    if any(0xD800 <= ord(char) < 0xE000 for char in text):
        return  # lone surrogates are no text: protobuf strings are UTF-8
    parsed = text_format.Parse(f"name: {triton.quote(text)}", SCHEMA.ModelConfig())
    assert parsed.name == text


@settings(deadline=None)  # the machine may be busy
@given(text=st.text(min_size=1))
def test_odd_tensor_names_read_back(details, text):
    """Names of a foreign graph's tensors reach the config as they are, in warm-up keys too."""
    odd = structs.replace(details(), input=text, output=text[::-1])
    config = read(triton.render(served_model(odd, targets.target("cpu"), name="solar")))
    assert (config.input[0].name, config.output[0].name) == (text, text[::-1])
    assert list(config.model_warmup[0].inputs) == [text]
