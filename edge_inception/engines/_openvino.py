"""OpenVINO on the CPU: read a typed graph, compile it to a blob, run the blob.

The blob holds the graph, not machine code: importing it compiles the kernels again, and OpenVINO's
default float precision (bfloat16 where the CPU has it) would then silently replace the precision
chosen at compile time. So each import sets float precision and threads, and reads both back.

This file travels to devices with ``_openvino_unsigned``: it imports only numpy and openvino, and
raises errors of its own. It needs Python 3.10 or later, as OpenVINO does.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from edge_inception.engines import _openvino_unsigned

DEVICE = "CPU"
# float precision -> the capability that OpenVINO must report for this CPU
CAPABILITIES: Mapping[str, str] = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
_ELEMENTS = {"f32": "float32", "u8": "uint8"}
_GRAPH_HINT = "export without the op that the message names, or build for another target"
_BLOB_HINT = "compile it again on this machine"
_FUSED_SUFFIX = "/WithoutBiases"  # what OpenVINO appends to the names of nodes that it fuses
_NO_KERNEL = ("undef", "unknown")  # kernel names of fused parts and of layers that work in place
_INT8 = frozenset(("i8", "u8"))
_WEIGHTED = frozenset(("Convolution", "FullyConnected", "MatMul"))


class Refusal(Exception):
    """Base of this file's errors: a reason on one line; ``hint`` says what to do, or is empty.

    Every function that takes a graph or a blob may raise one of the four kinds.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class LibraryMissing(Refusal):
    """The openvino package is not installed, or its native part does not load."""


class GraphRefused(Refusal):
    """OpenVINO cannot read or compile the graph."""


class BlobRefused(Refusal):
    """OpenVINO cannot load the blob: it is damaged, or was made for another version or CPU."""


class Unavailable(Refusal):
    """OpenVINO on this CPU lacks the float precision, the threads or an int8 kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledGraph:
    """A compiled graph: the content of an engine file, and facts that OpenVINO reports about it.

    ``layers`` are the counts of ``_executed_layers``; ``respelled`` counts activations rewritten
    for a CPU that ``saturates`` or not.
    """

    blob: bytes
    settings: Mapping[str, Any]
    layers: Mapping[str, Any]
    respelled: _openvino_unsigned.Respelled
    saturates: bool


def library() -> Any:
    """The openvino module, or LibraryMissing where it cannot be imported."""
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise LibraryMissing(
            f"OpenVINO cannot be imported: {str(error).splitlines()[0]}", "pip install openvino"
        ) from error
    return openvino


def tied_to() -> dict[str, str]:
    """OpenVINO's version and the instruction family (such as x86_64) that a blob depends on.

    The blob also names the exact instruction set, which OpenVINO checks.
    """
    version = str(library().__version__).partition("-")[0]
    return {"openvino": version, "machine": platform.machine()}


def capabilities() -> list[str]:
    """Element types in which this CPU computes, by OpenVINO's names.

    Raises:
        RuntimeError: OpenVINO has no CPU device here.
    """
    names: list[str] = library().Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return names


def saturates() -> bool:
    """Whether sums of int8 products saturate on this CPU, which decides what a blob holds."""
    library()
    with _translated_errors(Unavailable, "cannot test the int8 arithmetic of this CPU", ""):
        return _openvino_unsigned.saturates()


def error_text(error: RuntimeError) -> str:
    """OpenVINO's message without its C++ source positions, on one line."""
    lines = [
        line.strip(" -\t")
        for line in str(error).splitlines()
        if line.strip() and not line.startswith(("Exception from ", "Check '"))
    ]
    return "; ".join(lines) or str(error).replace("\n", "; ")


@contextmanager
def _translated_errors(kind: type[Refusal], failure: str, hint: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise kind(f"OpenVINO {failure}: {error_text(error)}", hint) from error


def read_graph(path: str) -> Any:
    """``openvino.Model`` of the typed graph at ``path``."""
    core = library().Core()
    with _translated_errors(GraphRefused, f"refused {path}", _GRAPH_HINT):
        return core.read_model(path)


def static_batch(model: Any) -> int | None:
    """Batch of the model's input; None where it is dynamic."""
    batch = model.input(0).partial_shape[0]
    return int(batch.get_length()) if batch.is_static else None


def compile_graph(
    model: Any,
    *,
    name: str,
    precision: str,
    threads: int,
    batch: tuple[int, int],
) -> CompiledGraph:
    """Compile ``model``, the result of ``read_graph``, for this CPU; it is changed in place.

    Args:
        model: A graph with one input.
        name: Name of the graph in messages.
        precision: Precision of the float layers, a key of CAPABILITIES.
        threads: Number of CPU threads, at least 1.
        batch: Smallest and largest number of images; ignored if the model's batch is static.
    """
    core = library().Core()
    require_precision(core, precision)
    is_saturating = saturates()
    with _translated_errors(GraphRefused, f"refused {name}", _GRAPH_HINT):
        if static_batch(model) is None:
            shape = list(model.input(0).partial_shape)[1:]
            model.reshape([batch if batch[0] != batch[1] else batch[1], *shape])
        try:
            respelled = _openvino_unsigned.unsigned_activations(
                model,
                saturates=is_saturating,
                is_for_cpu=_openvino_unsigned.has_unsigned_pairs(model),
            )
        except _openvino_unsigned.SharedWeights as error:
            raise Unavailable(
                str(error),
                "use --precision fp32 on this CPU, or give each layer its own weights",
            ) from error
        properties = _properties(precision, threads)
        if _has_residual_add(model):
            # OpenVINO would compute Add, ReLU and rounding in a kernel of its own behind the
            # convolution; without such kernels it fuses them into the convolution.
            properties["SNIPPETS_MODE"] = "DISABLE"
        compiled = core.compile_model(model, DEVICE, properties)
        settings = _applied_settings(compiled, precision, threads)
        layers = _executed_layers(compiled)
        blob = compiled.export_model().getvalue()
    return CompiledGraph(
        blob=blob, settings=settings, layers=layers, respelled=respelled, saturates=is_saturating
    )


def _has_residual_add(model: Any) -> bool:
    """Whether the graph adds two computed tensors."""
    return any(
        node.get_type_name() == "Add"
        and not any(value.get_node().get_type_name() == "Constant" for value in node.input_values())
        for node in model.get_ops()
    )


class BlobRunner:
    """An imported blob, run by a single infer request on a single stream.

    ``element`` and ``shape`` describe one image; ``info`` holds facts that OpenVINO reports.
    """

    def __init__(self, blob: bytes, *, name: str, precision: str, threads: int) -> None:
        """Import ``blob``; ``name`` is its name in messages."""
        core = library().Core()
        require_precision(core, precision)
        with _translated_errors(BlobRefused, f"cannot load {name}", _BLOB_HINT):
            compiled = core.import_model(blob, DEVICE, _properties(precision, threads))
            self.info = {
                "backend": "openvino",
                "library": tied_to(),
                "cpu": core.get_property(DEVICE, "FULL_DEVICE_NAME").strip(),
                "capabilities": sorted(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")),
                **_applied_settings(compiled, precision, threads),
                **_executed_layers(compiled),
            }
            source = compiled.input(0)
            self.element = _ELEMENTS[source.element_type.get_type_name()]
            self.shape = tuple(size.get_length() for size in list(source.partial_shape)[1:])
            self._outputs = [output.get_any_name() for output in compiled.outputs]
            self._request: Any = compiled.create_infer_request()

    def run(self, images: Any) -> dict[str, Any]:
        """The outputs for one batch [N, *shape] by name, in fresh arrays."""
        results = self._request.infer({0: images}, share_inputs=True, share_outputs=False)
        return {name: results[index] for index, name in enumerate(self._outputs)}

    def close(self) -> None:
        """Release the engine."""
        self._request = None


class LayerTiming(NamedTuple):
    """An executed layer: its node's name, kind and kernel, and its mean time per call in ms."""

    name: str
    kind: str
    kernel: str
    ms: float


def layer_times(
    blob: bytes, batches: Sequence[Any], *, name: str, precision: str, threads: int
) -> list[LayerTiming]:
    """Executed layers in order; of ``batches``, two or more, the first is a warm-up.

    OpenVINO's counters hold the mean of all calls since the load, in whole microseconds; the share
    of the warm-up is subtracted. A layer that takes less than 1 us has 0.0 ms, and OpenVINO reports
    it as not executed. OpenVINO reports the same for parts of a fused layer and for layers that
    work in place; these have no kernel and are left out.
    """
    core = library().Core()
    require_precision(core, precision)
    first, *others = batches
    with _translated_errors(BlobRefused, f"cannot load {name}", _BLOB_HINT):
        profiled = {**_properties(precision, threads), "PERF_COUNT": True}
        request = core.import_model(blob, DEVICE, profiled).create_infer_request()
        request.infer({0: first})
        warm_up = {layer.node_name: layer.real_time for layer in request.profiling_info}
        for images in others:
            request.infer({0: images})
        counters = request.profiling_info
    times = []
    for layer in counters:
        has_run = str(layer.status).endswith(".EXECUTED")
        if not has_run and layer.exec_type.startswith(_NO_KERNEL):
            continue
        counted = len(batches) * layer.real_time - warm_up[layer.node_name]
        own_name = layer.node_name.partition(_FUSED_SUFFIX)[0]
        ms = max(1000 * counted.total_seconds() / len(others), 0.0)
        times.append(LayerTiming(own_name, layer.node_type, layer.exec_type, ms))
    return times


def require_precision(core: Any, precision: str) -> None:
    """Refuse a precision that OpenVINO does not list for this CPU; it is a key of CAPABILITIES."""
    if CAPABILITIES[precision] not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        cpu = core.get_property(DEVICE, "FULL_DEVICE_NAME")
        raise Unavailable(
            f"this CPU ({cpu}) has no {precision} arithmetic", "use float precision f32"
        )


def _properties(precision: str, threads: int) -> dict[str, Any]:
    """Properties for one stream on ``threads`` threads: the lowest latency of single batches."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
    }


def _applied_settings(compiled: Any, precision: str, threads: int) -> dict[str, Any]:
    """Settings that OpenVINO reports for a compiled graph.

    Raises:
        Unavailable: OpenVINO uses another precision or number of threads than was asked for.
    """
    facts = {
        "float_precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
        "streams": compiled.get_property("NUM_STREAMS"),
        "performance_hint": str(compiled.get_property("PERFORMANCE_HINT")).rpartition(".")[2],
        "cpu_pinning": compiled.get_property("ENABLE_CPU_PINNING"),
    }
    for name, wanted in (("float_precision", precision), ("threads", threads)):
        if facts[name] != wanted:
            raise Unavailable(
                f"asked OpenVINO for {name} {wanted}, it uses {facts[name]}",
                f"ask for {facts[name]}",
            )
    return facts


def _executed_layers(compiled: Any) -> dict[str, Any]:
    """Numbers of layers that compute at inference, by type and input precision.

    Constants are not counted, nor are layers that OpenVINO computes from constants at load time.
    """
    layers: dict[str, Counter[str]] = {}
    kernels: Counter[str] = Counter()
    constant: set[str] = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind = str(facts["layerType"].value)
        sources = [entry.get_source_output().get_node() for entry in node.inputs()]
        from_constants = bool(sources) and all(s.get_friendly_name() in constant for s in sources)
        if kind == "Const" or from_constants:
            constant.add(node.get_friendly_name())
        elif kind not in {"Input", "Output"}:
            layers.setdefault(kind, Counter())[str(facts["runtimePrecision"].value)] += 1
            kernels[str(facts["primitiveType"].value)] += 1
    weighted = [count for kind, count in layers.items() if kind in _WEIGHTED]
    return {
        "executed_layers": {kind: dict(count) for kind, count in sorted(layers.items())},
        "kernels": dict(sorted(kernels.items())),
        "weighted_layers": sum(sum(count.values()) for count in weighted),
        "int8_layers": sum(count[precision] for count in weighted for precision in _INT8),
    }
