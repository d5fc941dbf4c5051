"""Model repository of Triton Inference Server.

Source: ``model_config.proto`` of triton-inference-server/common and its user guide, "Model
Repository" and "Model Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_inception.bundle.serving.facts import ServingFacts, Tensor
from edge_inception.errors import InputError
from edge_inception.hardware.jetpack import parse_version

_QUEUE_DELAY_US = 500  # longest wait of a request for others; far below any latency measured here
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Platform:
    """Triton's backend, model file suffix and instance kind for one of our backends."""

    backend: str
    suffix: str
    kind: str


_PLATFORMS: Mapping[str, _Platform] = {
    "tensorrt": _Platform(backend="tensorrt", suffix=".plan", kind="KIND_GPU"),
    # Triton's OpenVINO backend reads neither our blobs nor every opset. Triton's onnxruntime
    # backend runs the typed graph (the ONNX file itself).
    "openvino": _Platform(backend="onnxruntime", suffix=".onnx", kind="KIND_CPU"),
}


def render(facts: ServingFacts) -> dict[str, str]:
    """Path -> text of ``triton/NAME/config.pbtxt`` and labels.txt; users copy the model file there.

    Raises:
        InputError: Triton has no backend for the target, its batcher would send batches that the
            engine refuses, or the element type of a top-k head's classes is not known, since it
            depends on the device's TensorRT.
    """
    platform = _platform(facts)
    _require_batch(facts)
    _require_classes_element(facts)
    folder = f"triton/{facts.name}"
    files = {f"{folder}/config.pbtxt": _config(facts, platform)}
    if _has_label_file(facts):
        files[f"{folder}/labels.txt"] = "".join(f"{label}\n" for label in facts.labels)
    return files


def usage(facts: ServingFacts) -> str:
    """Markdown on how to copy the model file and start the server."""
    platform = _platform(facts)
    folder = f"../triton/{facts.name}/1"
    source = f"graphs/{facts.typing}.onnx" if platform.suffix == ".onnx" else "engine/model.engine"
    copies = "".join(f"cp {source} {folder}/{name}\n" for name in _filenames(facts).values())
    note = (
        "One plan per compute capability: build each on its own device.\n"
        if len(facts.target.compute_capabilities) > 1
        else ""
    )
    if platform.suffix == ".plan":
        note += "Triton must have the TensorRT version that built the plan.\n"
    return (
        f"```\ncp -r serving/triton ..\nmkdir -p {folder}\n{copies}"
        f"tritonserver --model-repository ../triton\n```\n{note}"
    )


def _platform(facts: ServingFacts) -> _Platform:
    backend = facts.target.backend
    if backend not in _PLATFORMS:
        raise InputError(
            f"Triton has no backend for the engines of target '{facts.target.name}' ({backend})",
            hint="bundle for the device's own TensorRT, or for --target cpu (onnxruntime)",
        )
    return _PLATFORMS[backend]


def _require_batch(facts: ServingFacts) -> None:
    if facts.profile.is_dynamic and facts.profile.min > 1:
        raise InputError(
            f"Triton sends batches from 1 up, this engine takes {facts.profile.min} to "
            f"{facts.profile.max}",
            hint=f"build with --dynamic-batch 1:{facts.profile.opt}:{facts.profile.max}",
        )


def _require_classes_element(facts: ServingFacts) -> None:
    if facts.head.kind == "topk" and len(_elements_of_classes(facts)) > 1:
        oldest, newest = facts.target.tensorrt
        range_ = f"{oldest} to {newest}" if oldest else "of any version"
        raise InputError(
            f"the classes of head {facts.head} are int32 before TensorRT 10 and int64 from then on;"
            f" target '{facts.target.name}' may have TensorRT {range_}",
            hint="build with --head softmax: a client asks Triton for the top k with class_count",
        )


def _elements_of_classes(facts: ServingFacts) -> set[str]:
    """Possible types of a top-k head's classes: TensorRT before 10 turns int64 into int32."""
    if facts.target.backend != "tensorrt":
        return {"TYPE_INT64"}
    are_new = [parse_version(version) >= (10,) for version in facts.target.tensorrt if version]
    return {"TYPE_INT64" if is_new else "TYPE_INT32" for is_new in are_new or (False, True)}


def _has_label_file(facts: ServingFacts) -> bool:
    # Triton labels a value by its position, which in a top-k output is a rank and not a class.
    return bool(facts.labels) and facts.head.kind in {"logits", "softmax"}


def _filenames(facts: ServingFacts) -> dict[str, str]:
    """Compute capability -> file in the version folder; a single file has an empty key."""
    suffix = _platform(facts).suffix
    if suffix == ".plan" and len(facts.target.compute_capabilities) > 1:
        return {
            cc: f"model.sm{cc.replace('.', '')}.plan" for cc in facts.target.compute_capabilities
        }
    return {"": f"model{suffix}"}


def _config(facts: ServingFacts, platform: _Platform) -> str:
    lines = [
        f"name: {quote(facts.name)}",
        f"backend: {quote(platform.backend)}",
        f"max_batch_size: {facts.profile.max if facts.profile.is_dynamic else 0}",
        *_tensor_lines("input", facts.input, facts),
    ]
    for index, output in enumerate(facts.outputs):
        label = ['  label_filename: "labels.txt"'] if not index and _has_label_file(facts) else []
        lines += _tensor_lines("output", output, facts, label)
    lines += _instances(facts, platform)
    if facts.profile.is_dynamic:
        lines += [
            "dynamic_batching {",
            *(f"  preferred_batch_size: {size}" for size in _preferred_batch_sizes(facts)),
            f"  max_queue_delay_microseconds: {_QUEUE_DELAY_US}",
            "}",
        ]
    for size in [1, *_preferred_batch_sizes(facts)] if facts.profile.is_dynamic else [1]:
        lines += _warmup(facts, size)
    if platform.kind == "KIND_GPU" and facts.dla_core is None:
        lines += ["optimization { cuda { graphs: true } }"]
    for cc, filename in _filenames(facts).items():
        if cc:
            lines += [f"cc_model_filenames {{ key: {quote(cc)} value: {quote(filename)} }}"]
    return "\n".join(lines) + "\n"


def _tensor_lines(
    kind: str, tensor: Tensor, facts: ServingFacts, more: list[str] | None = None
) -> list[str]:
    return [
        f"{kind} {{",
        f"  name: {quote(tensor.name)}",
        f"  data_type: {_data_type(tensor, facts)}",
        f"  dims: [ {', '.join(map(str, _dimensions(tensor, facts)))} ]",
        *(more or []),
        "}",
    ]


def _data_type(tensor: Tensor, facts: ServingFacts) -> str:
    if tensor.element == "int64":
        return min(_elements_of_classes(facts))  # one type, as _require_classes_element made sure
    return _TYPES[tensor.element]


def _dimensions(tensor: Tensor, facts: ServingFacts) -> tuple[int, ...]:
    """The tensor's dimensions: a dynamic batch is left out, a static batch comes first."""
    return tensor.shape if facts.profile.is_dynamic else (facts.profile.max, *tensor.shape)


def _preferred_batch_sizes(facts: ServingFacts) -> list[int]:
    """The profile's opt and max batch sizes, in rising order and without 1."""
    return sorted({facts.profile.opt, facts.profile.max} - {1})


def _instances(facts: ServingFacts, platform: _Platform) -> list[str]:
    core = facts.dla_core
    line = f"  secondary_devices [ {{ kind: KIND_NVDLA device_id: {core} }} ]"
    dla = [] if core is None else [line]
    return ["instance_group {", f"  kind: {platform.kind}", "  count: 1", *dla, "}"]


def _warmup(facts: ServingFacts, size: int) -> list[str]:
    dims = ", ".join(map(str, _dimensions(facts.input, facts)))
    element = _data_type(facts.input, facts)
    return [
        "model_warmup {",
        f'  name: "batch_{size}"',
        f"  batch_size: {size}",
        "  inputs {",
        f"    key: {quote(facts.input.name)}",
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
