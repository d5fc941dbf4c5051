"""Configuration of DeepStream for a classifier whose input is float32, or uint8 pixels.

DeepStream's Gst-nvinfer runs the first and Gst-nvinferserver the second. Their limits decide which
models are refused:

- nvinfer writes float32 ``net-scale-factor * (x - offset[c])`` whatever type the engine takes;
  nvinferserver, which is Triton inside DeepStream, writes the type that the model takes;
- the output parser reads every output as float32 probabilities, and each line of the labels file
  as the classes of one output.

Sources: docs.nvidia.com/metropolis/deepstream, "Gst-nvinfer" and "Gst-nvinferserver"; in the SDK
``gstnvinfer_property_parser.cpp``, ``nvdsinfer_context_impl.cpp``, ``nvdsinfer_conversion.cu``,
``infer_preprocess_kernel.cu`` and both output parsers.
"""

from __future__ import annotations

from edge_inception.bundle.serving import nvinferserver
from edge_inception.bundle.serving.served_model import ServedModel
from edge_inception.errors import InputError
from edge_inception.spec import Precision, Preprocess

_WHITE = 255.0
_SEPARATOR = ";"
_COLOUR_FORMATS = {"RGB": 0, "BGR": 1}
_NETWORK_MODES = {Precision.FP32: 0, Precision.INT8: 1, Precision.FP16: 2}
_SOFTMAX = "build with --head softmax"


def render(served: ServedModel) -> dict[str, str]:
    """Path -> text of ``config_infer.txt``, or of ``config_inferserver.txt`` for uint8 pixels.

    labels.txt is added where there are labels. The file for nvinfer names the engine and no
    ``onnx-file``: if the engine is missing or does not fit, nvinfer would only warn, and build
    another engine from the ONNX file, which nobody validated.

    Raises:
        InputError: DeepStream cannot run the engine, head, normalisation or batch, or a label has
            DeepStream's separator in it.
    """
    _require_head(served)
    _require_plain_labels(served)
    if _takes_uint8(served):
        files = {"deepstream/config_inferserver.txt": nvinferserver.config(served)}
    else:
        _require_batch(served)
        files = {"deepstream/config_infer.txt": _config(served)}
    if served.labels:
        files["deepstream/labels.txt"] = _SEPARATOR.join(served.labels) + "\n"
    return files


def usage(served: ServedModel) -> str:
    """Markdown on how to install the engine, and how the preprocessing differs from validation."""
    if _takes_uint8(served):
        start = (
            "Fill Triton's repository as above; DeepStream reads it itself:\n"
            "```\ncp -r serving/deepstream ..\n```\nThen `nvinferserver "
            "config-file-path=../deepstream/config_inferserver.txt`"
        )
    else:
        start = (
            "```\ncp -r serving/deepstream ..\ncp engine/model.engine ../deepstream\n```\n"
            "Then `nvinfer config-file-path=../deepstream/config_infer.txt`"
        )
    height, width = served.preprocess.input_size
    return (
        f"{start}. DeepStream resizes the whole frame to {width} x {height}; the crop and the "
        "filter that the model was validated with are not its own, so measure the accuracy again.\n"
    )


def _takes_uint8(served: ServedModel) -> bool:
    return served.preprocess.element == "uint8"


def nvinfer_normalisation(preprocess: Preprocess) -> tuple[float, tuple[float, ...]]:
    """Scale and offsets of nvinfer: scale * (x - offset[c]) = (x / 255 - mean[c]) / std[c].

    Raises:
        InputError: ``std`` differs between the channels, and nvinfer has one scale for all.
    """
    if len(set(preprocess.std)) > 1:
        raise InputError(
            "nvinfer has one net-scale-factor, this model divides its channels by "
            f"{preprocess.std}",
            hint="build with --fold-preprocessing: Gst-nvinferserver then feeds it pixels",
        )
    return 1.0 / (_WHITE * preprocess.std[0]), tuple(_WHITE * mean for mean in preprocess.mean)


def _require_head(served: ServedModel) -> None:
    if served.target.backend != "tensorrt":
        raise InputError(
            f"DeepStream runs TensorRT plans, target '{served.target.name}' has other engines",
            hint="bundle for a Jetson or another target with its own TensorRT",
        )
    refusals = {
        "logits": ("its parser takes logits for probabilities and skips those up to 0", _SOFTMAX),
        "topk": ("its parser takes both outputs of a top-k head for probabilities", _SOFTMAX),
        "embedding": (
            "an embedding names no class",
            "read the embedding through the Triton repository",
        ),
    }
    if served.head.kind in refusals:
        reason, hint = refusals[served.head.kind]
        raise InputError(f"no classifier config for head {served.head}: {reason}", hint=hint)


def _require_batch(served: ServedModel) -> None:
    if served.profile.min > 1:
        raise InputError(
            f"nvinfer also runs batches that are not full, this engine takes {served.profile.min} "
            f"to {served.profile.max}",
            hint=f"build with --batch 1 or --dynamic-batch 1:{served.profile.opt}:"
            f"{served.profile.max}",
        )


def _require_plain_labels(served: ServedModel) -> None:
    for index, label in enumerate(served.labels):
        if _SEPARATOR in label:
            raise InputError(
                f"label {index} is {label!r}: DeepStream's labels are separated by '{_SEPARATOR}'",
                hint="build again with --labels and another name for this class",
            )


def _config(served: ServedModel) -> str:
    scale, offsets = nvinfer_normalisation(served.preprocess)
    lines = [
        "[property]",
        "gpu-id=0",
        "model-engine-file=model.engine",
        *(["labelfile-path=labels.txt"] if served.labels else []),
        f"batch-size={served.profile.max}",
        f"network-mode={_NETWORK_MODES[served.precision]}",
        "network-type=1",
        "process-mode=1",
        "gie-unique-id=1",
        f"infer-dims={_join(served.input.shape)}",
        f"model-color-format={_COLOUR_FORMATS[served.preprocess.channel_order]}",
        f"net-scale-factor={scale!r}",
        f"offsets={_join(offsets)}",
        "maintain-aspect-ratio=0",
        f"scaling-filter={nvinferserver.FILTERS[served.preprocess.interpolation]}",
        "# 0: the most probable class, however unsure; 0 to 1 leaves unsure ones out",
        "classifier-threshold=0.0",
    ]
    if served.dla_core is not None:
        lines += ["enable-dla=1", f"use-dla-core={served.dla_core}"]
    return "\n".join(lines) + "\n"


def _join(values: tuple[float, ...]) -> str:
    return _SEPARATOR.join(map(str, values))
