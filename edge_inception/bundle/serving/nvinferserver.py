"""Configuration of DeepStream's Gst-nvinferserver, which feeds pixels to a model in Triton.

Paths in the configuration are relative to its own folder. Source: ``nvdsinferserver_plugin.proto``,
``nvdsinferserver_config.proto`` and ``nvdsinferserver_common.proto`` of the DeepStream SDK.
"""

from __future__ import annotations

from edge_inception.bundle.serving.served_model import ServedModel
from edge_inception.bundle.serving.triton import quote
from edge_inception.errors import InputError

# Interpolation -> number in the enum NvBufSurfTransform_Inter; DeepStream's default is nearest.
FILTERS = {"nearest": 0, "bilinear": 1, "bicubic": 2, "lanczos": 4}
_ORDERS = {"NCHW": "TENSOR_ORDER_LINEAR", "NHWC": "TENSOR_ORDER_NHWC"}


def config(served: ServedModel) -> str:
    """The configuration: a ``PluginControl`` in protobuf's text format, which normalises nothing.

    The graph normalises the pixels itself.

    Raises:
        InputError: The engine refuses a batch of one frame, or has a static batch, which Triton
            counts as a dimension of the image that nvinferserver does not send.
    """
    if not served.profile.is_dynamic or served.profile.min > 1:
        raise InputError(
            "nvinferserver sends batches from 1 up, this engine takes "
            f"{served.profile.min} to {served.profile.max}",
            hint=f"build with --dynamic-batch 1:{served.profile.opt}:{max(served.profile.max, 2)}",
        )
    labels = ['    labelfile_path: "labels.txt"'] if served.labels else []
    lines = [
        "infer_config {",
        "  unique_id: 1",
        "  gpu_ids: [ 0 ]",
        f"  max_batch_size: {served.profile.max}",
        "  backend {",
        "    triton {",
        f"      model_name: {quote(served.name)}",
        "      version: -1",
        '      model_repo { root: "../triton" strict_model_config: true }',
        "    }",
        "  }",
        "  preprocess {",
        f"    network_format: IMAGE_FORMAT_{served.preprocess.channel_order}",
        f"    tensor_order: {_ORDERS[served.preprocess.layout]}",
        f"    tensor_name: {quote(served.input.name)}",
        "    maintain_aspect_ratio: 0",
        f"    frame_scaling_filter: {FILTERS[served.preprocess.interpolation]}",
        "    normalize { scale_factor: 1.0 channel_offsets: [ 0, 0, 0 ] }",
        "  }",
        "  postprocess {",
        *labels,
        "    classification { threshold: 0.0 }",
        "  }",
        "}",
        "input_control { process_mode: PROCESS_MODE_FULL_FRAME }",
    ]
    return "\n".join(lines) + "\n"
