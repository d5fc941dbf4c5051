"""An engine's layers, and the logger, progress monitor and calibrator that the library calls.

TensorRT-RTX writes the layers to the log of the build, without a GPU; its EngineInspector needs a
deserialized engine and thus a GPU. TensorRT lists them through EngineInspector, whose JSON has one
schema up to 10.x ("Bindings", "Format/Datatype") and another from 11.0 on ("I/O Tensors", separate
"Format" and "DataType"). All three become the same records. This file travels to devices: Python
3.6 syntax and standard library.

The parser of the log was tried on real builds of TensorRT-RTX. The reader of the JSON follows
NVIDIA's documentation and published engine dumps, and has read no JSON of a TensorRT run here.

Source: "Engine Inspector" and "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".
"""

import functools
import json
import operator
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

if TYPE_CHECKING:
    from edge_inception.engines._library import CapturingLogger, Library, Parser

ELEMENT_BYTES = {
    "Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "FP8": 1,
    "Int32": 4, "Int64": 8,
}  # fmt: skip
_ELEMENT_TYPES = {
    "float": "Float", "fp32": "Float", "half": "Half", "fp16": "Half", "bfloat16": "BFloat16",
    "bf16": "BFloat16", "int8": "Int8", "uint8": "UInt8", "bool": "Bool", "fp8": "FP8",
    "int32": "Int32", "int64": "Int64",
}  # fmt: skip
_ELEMENT = re.compile(r"\b({})\b".format("|".join(_ELEMENT_TYPES)), re.IGNORECASE)
_CONVOLUTION = re.compile(r"conv|correlation", re.IGNORECASE)
_MULTIPLIES = re.compile(r"conv|correlation|gemm|matri|fullyconnected", re.IGNORECASE)
_SYNCHRONISATION = ("signal", "wait")
_ERRORS, _WARNING = ("INTERNAL_ERROR", "ERROR"), "WARNING"  # names of severities
_KEPT_PREFIXES = ("Layers:", "Total Weights Memory")  # the logger also keeps messages with these
_MAX_NAMED_LAYERS, _PROGRESS_STEPS = 3, 1000  # in one message; of a whole build

Tensor = Tuple[str, Tuple[int, ...], str]


class VendorError(Exception):
    """The library refused; the message is its reason on one line, with the node's name if known."""


class Layer(NamedTuple):
    """One layer of an engine; tensors are (name, dimensions, element type)."""

    name: str
    kind: str
    inputs: List[Tensor]
    constants: List[Tensor]
    outputs: List[Tensor]


_LOGGERS: List[Tuple[Any, "CapturingLogger"]] = []


def capturing_logger(trt: "Library") -> "CapturingLogger":
    """The library's logger, emptied; it keeps (severity name, text) in ``messages``.

    A process has one logger for each library: while any TensorRT object lives, TensorRT writes to
    the first logger that it was given, so a second logger would receive nothing.
    """
    for library, logger in _LOGGERS:
        if library is trt:
            del logger.messages[:]
            return logger

    class Capture(trt.ILogger):  # type: ignore[name-defined,misc]  # known at run time only
        """A logger that keeps messages, where the library writes why it returned None."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: List[Tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity.name in (*_ERRORS, _WARNING) or message.startswith(_KEPT_PREFIXES):
                self.messages.append((severity.name, message))

    _LOGGERS.append((trt, Capture()))
    return _LOGGERS[-1][1]


def logged_errors(logger: "CapturingLogger") -> str:
    """The distinct errors that a capturing logger holds, on one line."""
    texts = [_one_line(text) for severity, text in logger.messages if severity in _ERRORS]
    return "; ".join(dict.fromkeys(texts)) or "the library gave no reason"


def logged_warnings(logger: "CapturingLogger") -> List[str]:
    """The distinct warnings that a capturing logger holds, each on one line."""
    texts = [_one_line(text) for severity, text in logger.messages if severity == _WARNING]
    return list(dict.fromkeys(texts))


def _one_line(text: str) -> str:
    """``text`` with single spaces instead of line breaks and indentation."""
    return " ".join(text.split())


def parser_errors(parser: "Parser", logger: "CapturingLogger") -> str:
    """A parser's errors, or else those of the log, on one line.

    An error names the node and its operator, where the library tells them. The parser owns its
    errors: reading them after it is freed crashes the process.
    """
    texts = []
    for error in map(parser.get_error, range(parser.num_errors)):
        texts.append(_one_line(error.desc()))
        if error.node() >= 0:
            name = error.node_name() if hasattr(error, "node_name") else ""
            kind = error.node_operator() if hasattr(error, "node_operator") else ""
            place = (error.node(), name, kind or "unknown operator")
            texts[-1] = "node {} '{}' ({}): {}".format(*place, texts[-1])
    return "; ".join(dict.fromkeys(texts)) or logged_errors(logger)


def progress_monitor(trt: "Library", progress: Callable[[int, int], None]) -> Any:
    """A monitor that calls ``progress`` with (done, 1000), where ``done`` never falls.

    An exception that ``progress`` raises ends the build. The monitor keeps it in ``stopped_by``,
    since it must not pass through the library's C++ code.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]  # as above
        """A build's phases are nested: the phases inside a phase make up one of its steps."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped_by: List[BaseException] = []
            self._phases: Dict[str, Tuple[Optional[str], int, int]] = {}
            self._steps_done = 0

        def phase_start(self, phase: str, parent: Optional[str], num_steps: int) -> None:
            self._phases[phase] = (parent, max(num_steps, 1), 0)

        def step_complete(self, phase: str, step: int) -> bool:
            parent, num_steps, _ = self._phases[phase]
            self._phases[phase] = (parent, num_steps, step + 1)
            self._steps_done = max(self._steps_done, int(_PROGRESS_STEPS * self._share_done(None)))
            try:
                progress(self._steps_done, _PROGRESS_STEPS)
            except BaseException as error:  # noqa: BLE001 -- raised again after the build
                self.stopped_by.append(error)
            return not self.stopped_by

        def phase_finish(self, phase: str) -> None:
            self._phases.pop(phase, None)

        def _share_done(self, parent: Optional[str]) -> float:
            """Share, 0 to 1, of a step of ``parent`` that the phases inside it have done."""
            shares = [
                min((done + self._share_done(name)) / steps, 1.0)
                for name, (above, steps, done) in self._phases.items()
                if above == parent
            ]
            return max(shares, default=0.0)

    return Monitor()


def cache_header(version: str) -> str:
    """The first line of a calibration cache that a TensorRT of ``version`` accepts.

    The number in the line is NV_TENSORRT_VERSION: 8502 for 8.5.2, 100300 for 10.3.0.
    """
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    thousands = 1 if major < 10 else 10  # noqa: PLR2004 -- NvInferVersion.h since 10.0
    number = major * thousands * 1000 + minor * 100 + patch
    return "TRT-{}-EntropyCalibration2".format(number)


def cached_calibrator(trt: "Library", cache: bytes) -> Any:
    """A calibrator that has the scales of ``cache`` and no images.

    The library reads only caches of its own version, and calibrates anew otherwise. Scales do not
    depend on the version, so the first line, which names version and algorithm, is replaced. A DLA
    core (deep learning accelerator) accepts only calibrators of the kind entropy-2.
    """
    stamped = cache_header(trt.__version__).encode() + b"\n" + cache.partition(b"\n")[2]
    base = trt.IInt8EntropyCalibrator2
    methods = {
        "get_batch_size": lambda _: 1,
        "get_batch": lambda _, _names: None,
        "read_calibration_cache": lambda _: stamped,
        "write_calibration_cache": lambda _, _cache: None,
    }
    return type("Cached", (base,), methods)()


_TENSOR = re.compile(
    r"Name: (?P<name>.*?), Dimensions: \[(?P<dims>[\d,-]*)\].*?Datatype: (?P<type>\w+)"
)


def logged_layers(messages: Iterable[str]) -> List[Layer]:
    """Layers listed in a build's verbose log with detailed profiling; empty if none are listed."""
    listed = [text.splitlines() for text in messages if text.startswith("Layers:")]
    return [_parse_log_line(line) for lines in listed for line in lines if line[:6] == "Name: "]


def _parse_log_line(line: str) -> Layer:
    match = re.match(r"Name: (.*?), LayerType: ([^,]*),", line)
    name, kind = match.groups() if match else ("unknown", "unknown")
    return Layer(
        name=name,
        kind=kind,
        inputs=_parse_log_tensors(line, "Inputs", "Constants"),
        constants=_parse_log_tensors(line, "Constants", "Outputs"),
        outputs=_parse_log_tensors(line, "Outputs", "TacticName"),
    )


def _parse_log_tensors(line: str, field: str, following: str) -> List[Tensor]:
    part = re.search(r"{}: \[(.*?)\], {}: ".format(field, following), line)
    return [
        (name, tuple(int(size) for size in dims.split(",") if size), kind)
        for name, dims, kind in _TENSOR.findall(part.group(1) if part else "")
    ]


def weights_memory(messages: Iterable[str]) -> Optional[int]:
    """Size of the weights in bytes, as the library's log reports it; None if it does not."""
    matches = [re.match(r"Total Weights Memory: (\d+) bytes", text) for text in messages]
    return max((int(match.group(1)) for match in matches if match), default=None)


def inspected_layers(text: str) -> List[Layer]:
    """Layers in the JSON of ``EngineInspector.get_engine_information``, in either schema.

    Without detailed profiling the JSON has only a layer's name; the layer's kind is then "unknown".
    """
    return [_parse_json_layer(entry) for entry in json.loads(text).get("Layers", [])]


def _parse_json_layer(entry: Any) -> Layer:
    if isinstance(entry, str):
        return Layer(name=entry, kind="unknown", inputs=[], constants=[], outputs=[])
    name = str(entry.get("Name", "unknown"))
    constants = [_parse_json_tensor(tensor) for tensor in entry.get("Constants", ())]
    for key, rank in (("Weights", 2), ("Bias", 1)):
        part = entry.get(key)
        if isinstance(part, dict) and part.get("Count"):
            dims = (1,) * (rank - 1) + (int(part["Count"]),)
            constants.append((name + " " + key, dims, _element_type(str(part.get("Type", "")))))
    return Layer(
        name=name,
        kind=str(entry.get("LayerType", "unknown")),
        inputs=[_parse_json_tensor(tensor) for tensor in entry.get("Inputs", ())],
        constants=constants,
        outputs=[_parse_json_tensor(tensor) for tensor in entry.get("Outputs", ())],
    )


def _parse_json_tensor(record: Dict[str, Any]) -> Tensor:
    texts = [record.get(key) for key in ("DataType", "Datatype", "Format/Datatype", "Format")]
    kind = next((_element_type(text) for text in texts if text), "unknown")
    return str(record.get("Name", "")), tuple(record.get("Dimensions", ())), kind


def _element_type(text: str) -> str:
    """Element type in a text such as "Row major linear FP32" or "Half"."""
    match = _ELEMENT.search(text)
    return _ELEMENT_TYPES[match.group(1).lower()] if match else "unknown"


def describe_layers(layers: Iterable[Layer]) -> Dict[str, Any]:
    """Counts over an engine's layers; a kernel is a layer's constant of two or more dimensions.

    Returns:
        ``layers``: number of layers by kind and input type. ``precisions``: number of layers by
        type of their kernel, or of their input if they have no kernel. ``int8_layers``: number of
        layers that multiply int8 data by an int8 kernel. ``convolutions``: number of convolutions
        by input type. ``float_kernels``: names of the layers that multiply in float.
        ``reformat_layers``, ``num_kernels``: numbers of reformatting layers and of all layers.
        ``activation_bytes``: bytes that the layers read and write in one run, with the shapes of
        the build; a dynamic batch counts as one image. ``dla_islands``: number of parts that run on
        a DLA core; the layers inside are not listed. ``weight_bytes`` by type and
        ``total_weight_bytes`` count a constant that several layers share once. ``padding_bytes``:
        bytes of constants that only pad the input's channels for the INT8 kernels of TensorRT-RTX;
        these are not weights.
    """
    executed = [layer for layer in layers if layer.kind not in _SYNCHRONISATION]
    kinds: Dict[str, Counter[str]] = {}
    for layer in executed:
        kinds.setdefault(layer.kind, Counter())[_input_type(layer)] += 1
    weights, padding = _constants(executed)
    by_type: Counter[str] = Counter()
    for kind, size in weights.values():
        by_type[kind] += size
    convolutions = [_input_type(layer) for layer in executed if _CONVOLUTION.search(layer.kind)]
    kernel_types = [_kernel_type(layer) or _input_type(layer) for layer in executed]
    return {
        "layers": {kind: dict(counts) for kind, counts in sorted(kinds.items())},
        "precisions": dict(Counter(kernel_types)),
        "int8_layers": sum(map(_multiplies_int8, executed)),
        "convolutions": dict(Counter(convolutions)),
        "float_kernels": [
            layer.name for layer in executed if _kernel_type(layer) in ("Float", "Half", "BFloat16")
        ],
        "reformat_layers": sum(layer.kind == "Reformat" for layer in executed),
        "num_kernels": len(executed),
        "activation_bytes": sum(map(_activation_bytes, executed)),
        "dla_islands": sum(map(_is_dla_island, executed)),
        "weight_bytes": dict(by_type),
        "total_weight_bytes": sum(by_type.values()),
        "padding_bytes": sum(padding.values()),
    }


def fallbacks(described: Dict[str, Any], float_layers: Iterable[str] = ()) -> List[str]:
    """Messages about the layers that an int8 engine computes in float; often an empty list.

    ``described`` is the result of ``describe_layers``; ``float_layers`` names the layers that the
    typed graph itself leaves in float.
    """
    sentences = []
    kernels, layers = described["float_kernels"], list(float_layers)
    names = [name for name in kernels if not _computes_one_of(name, layers)]
    if names:
        total = len(kernels) + described["int8_layers"]
        listed = ", ".join(names[:_MAX_NAMED_LAYERS] + ["..."] * (len(names) > _MAX_NAMED_LAYERS))
        text = "int8 was asked for, and {} of {} layers with kernels compute in float: {}"
        sentences.append(text.format(len(names), total, listed))
    if not described["layers"]:
        sentences.append("the library listed no layers, so their precision is not known")
    return sentences


def _computes_one_of(kernel: str, layers: List[str]) -> bool:
    """Whether a kernel computes a layer, as ``conv_U0_myl0_1`` and ``conv + relu`` do for conv."""
    return any(
        part.startswith(layer) and not part[len(layer) :][:1].isalnum()
        for part in map(str.strip, kernel.split("+"))
        for layer in layers
    )


def _input_type(layer: Layer) -> str:
    return layer.inputs[0][2] if layer.inputs else "none"


def _kernel_type(layer: Layer) -> str:
    """Element type of the kernel that a layer multiplies by; empty if the layer has no kernel.

    A layer of kind kgen (generated code) moves and pads data, and multiplies no matrices.
    """
    if layer.kind == "kgen":
        return ""
    kernels = [kind for _, dims, kind in layer.constants if len(dims) > 1]
    if "Int8" in kernels:
        return "Int8"
    return kernels[0] if kernels and _MULTIPLIES.search(layer.kind) else ""


def _multiplies_int8(layer: Layer) -> bool:
    """Whether a layer is a convolution or a matrix product of int8 data and an int8 kernel."""
    return _kernel_type(layer) == "Int8" and any(kind == "Int8" for _, _, kind in layer.inputs)


def _is_dla_island(layer: Layer) -> bool:
    """Whether a layer runs on a DLA core; Myelin's layers have such names too, but a known kind."""
    return layer.kind == "DLA" or (layer.kind == "unknown" and "{ForeignNode[" in layer.name)


def _activation_bytes(layer: Layer) -> int:
    """Bytes of the tensors that a layer reads and writes, without constants."""
    return sum(_num_bytes(dims, kind) for _, dims, kind in layer.inputs + layer.outputs)


def _constants(layers: Iterable[Layer]) -> Tuple[Dict[str, Tuple[str, int]], Dict[str, int]]:
    """(weights as name -> (type, bytes), padding constants as name -> bytes)."""
    weights: Dict[str, Tuple[str, int]] = {}
    padding: Dict[str, int] = {}
    for layer in layers:
        for name, dims, kind in layer.constants:
            if _is_padding(dims, layer.inputs):
                padding[name] = _num_bytes(dims, kind)
            else:
                weights[name] = (kind, _num_bytes(dims, kind))
    return weights, padding


def _num_bytes(dims: Tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor; a dynamic size, which the library lists as -1, counts 1."""
    return functools.reduce(operator.mul, map(abs, dims), ELEMENT_BYTES.get(kind, 0))


def _is_padding(dims: Tuple[int, ...], inputs: List[Tensor]) -> bool:
    """Whether a constant is [1, 1, H, W] with the H and W of an input of its layer."""
    return (
        len(dims) == 4  # noqa: PLR2004 -- NCHW
        and dims[:2] == (1, 1)
        and dims[2] * dims[3] > 1
        and any(shape[2:] == dims[2:] for _, shape, _ in inputs)
    )
