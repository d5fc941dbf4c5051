"""Model repository of Triton Inference Server.

Source: ``model_config.proto`` of triton-inference-server/common and its user guide, "Model
Repository" and "Model Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_inception.bundle.serving.served_model import ServedModel, Tensor
from edge_inception.errors import InputError
from edge_inception.hardware.jetpack import parse_version

_QUEUE_DELAY_US = 500  # longest time that a request waits for others to fill its batch
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _TritonBackend:
    """Triton's backend, model file suffix and instance kind for one of our backends."""

    backend: str
    suffix: str
    kind: str


_TRITON_BACKENDS: Mapping[str, _TritonBackend] = {
    "tensorrt": _TritonBackend(backend="tensorrt", suffix=".plan", kind="KIND_GPU"),
    # Triton's OpenVINO backend cannot read our compiled blobs, and reads ONNX files of some opsets
    # only. Triton's onnxruntime backend runs the typed graph (the ONNX file itself).
    "openvino": _TritonBackend(backend="onnxruntime", suffix=".onnx", kind="KIND_CPU"),
}


def render(served: ServedModel) -> dict[str, str]:
    """Path -> text of ``triton/NAME/config.pbtxt`` and labels.txt; users copy the model file there.

    Raises:
        InputError: Triton has no backend for the target, its batcher would send batches that the
            engine refuses, or the element type of a top-k head's classes is not known, since it
            depends on the device's TensorRT.
    """
    triton = _triton_backend(served)
    _require_batch(served)
    _require_one_class_type(served)
    folder = f"triton/{served.name}"
    files = {f"{folder}/config.pbtxt": _config(served, triton)}
    if _has_label_file(served):
        files[f"{folder}/labels.txt"] = "".join(f"{label}\n" for label in served.labels)
    return files


def usage(served: ServedModel) -> str:
    """Markdown on how to copy the model file and start the server."""
    triton = _triton_backend(served)
    folder = f"../triton/{served.name}/1"
    source = f"graphs/{served.typing}.onnx" if triton.suffix == ".onnx" else "engine/model.engine"
    copies = "".join(f"cp {source} {folder}/{name}\n" for name in _filenames(served).values())
    note = (
        "One plan per compute capability: build each on its own device.\n"
        if len(served.target.compute_capabilities) > 1
        else ""
    )
    if triton.suffix == ".plan":
        note += "Triton must have the TensorRT version that built the plan.\n"
    return (
        f"```\ncp -r serving/triton ..\nmkdir -p {folder}\n{copies}"
        f"tritonserver --model-repository ../triton\n```\n{note}"
    )


def _triton_backend(served: ServedModel) -> _TritonBackend:
    backend = served.target.backend
    if backend not in _TRITON_BACKENDS:
        raise InputError(
            f"Triton has no backend for the engines of target '{served.target.name}' ({backend})",
            hint="bundle for the device's own TensorRT, or for --target cpu (onnxruntime)",
        )
    return _TRITON_BACKENDS[backend]


def _require_batch(served: ServedModel) -> None:
    if served.profile.is_dynamic and served.profile.min > 1:
        raise InputError(
            f"Triton sends batches from 1 up, this engine takes {served.profile.min} to "
            f"{served.profile.max}",
            hint=f"build with --dynamic-batch 1:{served.profile.opt}:{served.profile.max}",
        )


def _require_one_class_type(served: ServedModel) -> None:
    if served.head.kind == "topk" and len(_class_types(served)) > 1:
        oldest, newest = served.target.tensorrt
        range_ = f"{oldest} to {newest}" if oldest else "of any version"
        raise InputError(
            f"the classes of head {served.head} are int32 before TensorRT 10 and int64 from then "
            f"on; target '{served.target.name}' may have TensorRT {range_}",
            hint="build with --head softmax: a client asks Triton for the top k with class_count",
        )


def _class_types(served: ServedModel) -> set[str]:
    """Possible types of a top-k head's classes: TensorRT before 10 turns int64 into int32."""
    if served.target.backend != "tensorrt":
        return {"TYPE_INT64"}
    are_new = [parse_version(version) >= (10,) for version in served.target.tensorrt if version]
    return {"TYPE_INT64" if is_new else "TYPE_INT32" for is_new in are_new or (False, True)}


def _has_label_file(served: ServedModel) -> bool:
    # Triton labels a value by its position, which in a top-k output is a rank and not a class.
    return bool(served.labels) and served.head.kind in {"logits", "softmax"}


def _filenames(served: ServedModel) -> dict[str, str]:
    """Compute capability -> file in the version folder; a single file has an empty key."""
    suffix = _triton_backend(served).suffix
    if suffix == ".plan" and len(served.target.compute_capabilities) > 1:
        return {
            cc: f"model.sm{cc.replace('.', '')}.plan" for cc in served.target.compute_capabilities
        }
    return {"": f"model{suffix}"}


def _config(served: ServedModel, triton: _TritonBackend) -> str:
    lines = [
        f"name: {quote(served.name)}",
        f"backend: {quote(triton.backend)}",
        f"max_batch_size: {served.profile.max if served.profile.is_dynamic else 0}",
        *_tensor_lines("input", served.input, served),
    ]
    for index, output in enumerate(served.outputs):
        label = ['  label_filename: "labels.txt"'] if not index and _has_label_file(served) else []
        lines += _tensor_lines("output", output, served, label)
    lines += _instances(served, triton)
    if served.profile.is_dynamic:
        lines += [
            "dynamic_batching {",
            *(f"  preferred_batch_size: {size}" for size in _preferred_batch_sizes(served)),
            f"  max_queue_delay_microseconds: {_QUEUE_DELAY_US}",
            "}",
        ]
    for size in [1, *_preferred_batch_sizes(served)] if served.profile.is_dynamic else [1]:
        lines += _warmup(served, size)
    if triton.kind == "KIND_GPU" and served.dla_core is None:
        lines += ["optimization { cuda { graphs: true } }"]
    for cc, filename in _filenames(served).items():
        if cc:
            lines += [f"cc_model_filenames {{ key: {quote(cc)} value: {quote(filename)} }}"]
    return "\n".join(lines) + "\n"


def _tensor_lines(
    kind: str, tensor: Tensor, served: ServedModel, more: list[str] | None = None
) -> list[str]:
    return [
        f"{kind} {{",
        f"  name: {quote(tensor.name)}",
        f"  data_type: {_data_type(tensor, served)}",
        f"  dims: [ {', '.join(map(str, _dimensions(tensor, served)))} ]",
        *(more or []),
        "}",
    ]


def _data_type(tensor: Tensor, served: ServedModel) -> str:
    if tensor.element == "int64":
        return min(_class_types(served))  # one type, as _require_one_class_type made sure
    return _TYPES[tensor.element]


def _dimensions(tensor: Tensor, served: ServedModel) -> tuple[int, ...]:
    """The tensor's dimensions: a dynamic batch is left out, a static batch comes first."""
    return tensor.shape if served.profile.is_dynamic else (served.profile.max, *tensor.shape)


def _preferred_batch_sizes(served: ServedModel) -> list[int]:
    """The profile's opt and max batch sizes, in rising order and without 1."""
    return sorted({served.profile.opt, served.profile.max} - {1})


def _instances(served: ServedModel, triton: _TritonBackend) -> list[str]:
    core = served.dla_core
    line = f"  secondary_devices [ {{ kind: KIND_NVDLA device_id: {core} }} ]"
    dla = [] if core is None else [line]
    return ["instance_group {", f"  kind: {triton.kind}", "  count: 1", *dla, "}"]


def _warmup(served: ServedModel, size: int) -> list[str]:
    dims = ", ".join(map(str, _dimensions(served.input, served)))
    element = _data_type(served.input, served)
    return [
        "model_warmup {",
        f'  name: "batch_{size}"',
        f"  batch_size: {size}",
        "  inputs {",
        f"    key: {quote(served.input.name)}",
        f"    value {{ data_type: {element} dims: [ {dims} ] random_data: true }}",
        "  }",
        "}",
    ]


def quote(text: str) -> str:
    r"""A string in protobuf's text format: quoted, with ``\``, ``"`` and controls escaped."""
    return '"' + "".join(_escape(char) for char in text) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else "".join(f"\\{byte:03o}" for byte in char.encode())
