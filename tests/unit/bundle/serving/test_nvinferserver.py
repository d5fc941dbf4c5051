"""nvinferserver's configuration, read back with the fields that NVIDIA's schema has."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from edge_inception.bundle.serving import deepstream, triton

INT32, UINT32, INT64, FLOAT, BOOL, STRING = "INT32", "UINT32", "INT64", "FLOAT", "BOOL", "STRING"
# From includes/nvdsinferserver_{plugin,config,common}.proto of NVIDIA/DeepStream at c3989bd and
# 3503348: message -> {field: (number, type)}; a star marks a repeated field. No package ships them.
MESSAGES = {
    "PluginControl": {"infer_config": (1, "InferenceConfig"), "input_control": (2, "InputControl")},
    "InputControl": {"process_mode": (1, "ProcessMode")},
    "InferenceConfig": {
        "unique_id": (1, UINT32),
        "gpu_ids*": (2, INT32),
        "max_batch_size": (3, UINT32),
        "backend": (4, "BackendParams"),
        "preprocess": (5, "PreProcessParams"),
        "postprocess": (6, "PostProcessParams"),
    },
    "BackendParams": {"triton": (4, "TritonParams")},
    "TritonParams": {
        "model_name": (1, STRING),
        "version": (2, INT64),
        "model_repo": (4, "TritonModelRepo"),
    },
    "TritonModelRepo": {"root*": (1, STRING), "strict_model_config": (3, BOOL)},
    "PreProcessParams": {
        "network_format": (1, "MediaFormat"),
        "tensor_order": (2, "TensorOrder"),
        "tensor_name": (3, STRING),
        "maintain_aspect_ratio": (4, INT32),
        "frame_scaling_filter": (6, UINT32),
        "normalize": (7, "ScaleNormalize"),
    },
    "ScaleNormalize": {"scale_factor": (1, FLOAT), "channel_offsets*": (2, FLOAT)},
    "PostProcessParams": {"labelfile_path": (1, STRING), "classification": (3, "Classification")},
    "Classification": {"threshold": (1, FLOAT)},
}
ENUMS = {
    "ProcessMode": ("PROCESS_MODE_DEFAULT", "PROCESS_MODE_FULL_FRAME", "PROCESS_MODE_CLIP_OBJECTS"),
    "MediaFormat": ("MEDIA_FORMAT_NONE", "IMAGE_FORMAT_RGB", "IMAGE_FORMAT_BGR"),
    "TensorOrder": ("TENSOR_ORDER_NONE", "TENSOR_ORDER_LINEAR", "TENSOR_ORDER_NHWC"),
}
ENUM_OF = {name: number for names in ENUMS.values() for number, name in enumerate(names)}


def _schema():
    file = descriptor_pb2.FileDescriptorProto(name="nvdsinferserver", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for label, (number, kind) in fields.items():
            field = message.field.add(name=label.rstrip("*"), number=number)
            field.label = kinds.LABEL_REPEATED if label.endswith("*") else kinds.LABEL_OPTIONAL
            if kind in MESSAGES or kind in ENUMS:
                field.type = kinds.TYPE_MESSAGE if kind in MESSAGES else kinds.TYPE_ENUM
                field.type_name = f".{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("PluginControl"))


PLUGIN_CONTROL = _schema()


def read(files):
    return text_format.Parse(files["deepstream/config_inferserver.txt"], PLUGIN_CONTROL())


@pytest.mark.parametrize(
    ("layout", "order"), [("NCHW", "TENSOR_ORDER_LINEAR"), ("NHWC", "TENSOR_ORDER_NHWC")]
)
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_pixels_arrive_as_the_graph_takes_them(served, layout, order, colour):
    """Layout and channel order of the graph, the name of its input, its largest batch."""
    one = served(element="uint8", layout=layout, channel_order=colour)
    config = read(deepstream.render(one)).infer_config
    assert config.max_batch_size == 8
    assert config.preprocess.tensor_order == ENUM_OF[order]
    assert config.preprocess.network_format == ENUM_OF[f"IMAGE_FORMAT_{colour}"]
    assert config.preprocess.tensor_name == "input"
    assert config.preprocess.frame_scaling_filter == 1  # NvBufSurfTransformInter_Bilinear


def test_pixels_are_not_changed(served):
    """scale * (x - offset), saturated to uint8 as infer_preprocess_kernel.cu does, is x."""
    normalize = read(deepstream.render(served(element="uint8"))).infer_config.preprocess.normalize
    pixels = np.arange(256, dtype=np.float32)
    for offset in normalize.channel_offsets:
        value = np.float32(normalize.scale_factor) * (pixels - np.float32(offset))
        assert (np.clip(value, 0, 255).astype(np.uint8) == pixels).all()
    assert len(normalize.channel_offsets) == 3


def test_model_is_that_of_the_repository_beside_it(served):
    """root leads from deepstream/ to triton/, where the model of this name lies."""
    one = served(element="uint8")
    model = read(deepstream.render(one)).infer_config.backend.triton
    assert list(model.model_repo.root) == ["../triton"]
    assert f"triton/{model.model_name}/config.pbtxt" in triton.render(one)
    assert model.version == -1  # the newest


def test_answer_is_a_class_of_the_whole_frame(served):
    """Classification with the labels' file where there are labels; every frame, no objects."""
    files = deepstream.render(served(element="uint8"))
    config = read(files)
    assert config.input_control.process_mode == ENUM_OF["PROCESS_MODE_FULL_FRAME"]
    assert config.infer_config.postprocess.HasField("classification")
    assert f"deepstream/{config.infer_config.postprocess.labelfile_path}" in files
    without = read(deepstream.render(served(element="uint8", classes=())))
    assert not without.infer_config.postprocess.labelfile_path


def test_readme_names_the_plugin_that_fits(served):
    """nvinferserver for pixels, nvinfer for floats."""
    assert "nvinferserver config-file-path" in deepstream.usage(served(element="uint8"))
    assert "nvinfer config-file-path" in deepstream.usage(served())
