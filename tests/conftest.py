"""Tiny typed graphs in every typing, for tests of engines and of the command line."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sidecars

from edge_inception import artifact
from edge_inception.artifact import TypedGraph
from edge_inception.sidecar import Provenance
from edge_inception.spec import Precision, Preprocess, ShapeProfile

SIDE, CLASSES, WIDTH = 8, 5, 4
SPELLINGS = ("fp32", "fp16", "strong", "strong_fp32", "weak")
_OPSETS = {"fp32": 17, "fp16": 19, "strong": 19, "strong_fp32": 19, "weak": 13}
_IR_VERSIONS = {13: 7, 17: 8, 19: 9}


@dataclass
class _Builder:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm, with Q/DQ as the typing asks."""

    typing: str
    batch: int | None

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        self.is_int8 = self.typing in {"strong", "strong_fp32", "weak"}
        self.rest = np.float16 if self.typing in {"fp16", "strong"} else np.float32
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.conv = rng.standard_normal((6, 3, 3, 3)).astype(np.float32) / 4
        self.conv_bias = rng.standard_normal(6).astype(np.float32) / 4
        self.gemm = rng.standard_normal((CLASSES, 6)).astype(np.float32)
        self.gemm_bias = rng.standard_normal(CLASSES).astype(np.float32)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{output}/{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = value
        return name

    def pair(self, tensor: str, scale: float) -> str:
        if not self.is_int8:
            return tensor
        s = self.constant(f"{tensor}_scale", np.asarray(scale, np.float16).astype(self.rest))
        zero = self.constant(f"{tensor}_zero", np.int8(0))
        self.add("QuantizeLinear", [tensor, s, zero], f"{tensor}_q")
        return self.add("DequantizeLinear", [f"{tensor}_q", s, zero], f"{tensor}_dq")

    def weight(self, name: str, value: np.ndarray) -> str:
        if not self.is_int8:
            return self.constant(name, value.astype(self.rest))
        amax = np.abs(value.reshape(len(value), -1)).max(axis=1)
        scale = (amax / 127).astype(np.float16)
        s = self.constant(f"{name}_scale", scale.astype(self.rest))
        zero = self.constant(f"{name}_zero", np.zeros(len(value), np.int8))
        if self.typing == "weak":
            self.constant(name, value)
            self.add("QuantizeLinear", [name, s, zero], f"{name}_q", axis=0)
        else:
            steps = scale.astype(np.float32).reshape(-1, *[1] * (value.ndim - 1))
            levels = np.clip(np.rint(value / steps), -127, 127)
            self.constant(f"{name}_q", levels.astype(np.int8))
        return self.add("DequantizeLinear", [f"{name}_q", s, zero], f"{name}_dq", axis=0)

    def model(self) -> Any:
        from onnx import TensorProto, checker, helper, numpy_helper

        half = self.rest is np.float16
        x = self.add("Cast", ["input"], "input_half", to=TensorProto.FLOAT16) if half else "input"
        x = self.pair(x, 4 / 127)
        conv_bias = self.constant("conv_bias", self.conv_bias.astype(self.rest))
        x = self.add("Conv", [x, self.weight("conv", self.conv), conv_bias], "c", pads=[1, 1, 1, 1])
        x = self.pair(self.add("Relu", [x], "r"), 6 / 127)
        x = self.pair(self.add("GlobalAveragePool", [x], "g"), 3 / 127)
        x = self.add("Flatten", [x], "f")
        gemm_bias = self.constant("gemm_bias", self.gemm_bias.astype(self.rest))
        y = "logits_half" if half else "logits"
        self.add("Gemm", [x, self.weight("gemm", self.gemm), gemm_bias], y, transB=1)
        if half:
            self.add("Cast", [y], "logits", to=TensorProto.FLOAT)
        batch: int | str = self.batch or "batch"
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in self.constants.items()],
        )
        opset = _OPSETS[self.typing]
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = _IR_VERSIONS[opset]
        checker.check_model(model, full_check=True)
        return model


def publish_typed(path: Path, proto: Any, /, **details: Any) -> TypedGraph:
    """Any ONNX model as a TypedGraph with a sidecar, as the quantize stage would leave it."""
    origin = Provenance(stage="quantize", parents={}, options={}, tools={}, source="test")
    return artifact.publish(
        TypedGraph,
        path,
        proto.SerializeToString(),
        provenance=origin,
        details=sidecars.typed(**details),
    )


TypedFactory = Callable[..., TypedGraph]


def _publish_tiny(folder: Path, typing: str, batch: int | None = 1) -> TypedGraph:
    is_int8 = typing not in {"fp32", "fp16"}
    size = batch or 1
    return publish_typed(
        folder / f"{typing}-{batch}.onnx",
        _Builder(typing, batch).model(),
        model="tiny",
        num_classes=CLASSES,
        classes=tuple(f"class {i}" for i in range(CLASSES)),
        preprocess=Preprocess(input_size=(SIDE, SIDE)),
        precision=Precision.INT8 if is_int8 else Precision(typing),
        typing="weak" if typing == "weak" else "strong",
        float_rest="fp16" if typing in {"fp16", "strong"} else "fp32",
        input="input",
        output="logits",
        input_shape=(batch or "batch", 3, SIDE, SIDE),
        output_shape=(batch or "batch", CLASSES),
        profile=ShapeProfile(min=size, opt=size, max=size),
    )


@pytest.fixture(scope="session")
def publish_tiny() -> Callable[..., TypedGraph]:
    """``publish_tiny(folder, typing, batch)``: ``tiny_typed`` for fixtures of a session."""
    return _publish_tiny


@pytest.fixture
def tiny_typed(tmp_path: Path) -> TypedFactory:
    """``tiny_typed(typing, batch=1)``: a published TypedGraph; ``batch=None`` is dynamic."""

    def make(typing: str = "strong", batch: int | None = 1) -> TypedGraph:
        return _publish_tiny(tmp_path, typing, batch)

    return make


@pytest.fixture
def typed_from_model(tmp_path: Path) -> Callable[[Any], TypedGraph]:
    """Publish any ONNX model as a TypedGraph, also one that no engine can take."""
    return lambda model: publish_typed(tmp_path / "typed.onnx", model, model="odd")


@pytest.fixture
def reference_logits() -> Callable[[Path, np.ndarray], np.ndarray]:
    """Logits by onnxruntime with every graph optimisation off: the literal meaning of the ONNX."""

    def run(path: Path, images: np.ndarray) -> np.ndarray:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        logits: np.ndarray = session.run(None, {"input": images})[0]
        return logits

    return run


@pytest.fixture
def tiny_images() -> Callable[[int], np.ndarray]:
    """``tiny_images(n)``: float32 [n, 3, 8, 8], seeded; each channel of each has its own mean."""

    def make(count: int) -> np.ndarray:
        rng = np.random.default_rng(11)
        noise = rng.standard_normal((count, 3, SIDE, SIDE))
        return (noise / 2 + 2 * rng.standard_normal((count, 3, 1, 1))).astype(np.float32)

    return make


def foreign_weights(seed: int = 3) -> dict[str, np.ndarray]:
    """float32 arrays by name, of a scale that keeps activations near 1."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, spread: float) -> np.ndarray:
        return (rng.standard_normal(shape) * spread).astype(np.float32)

    return {
        "conv_w": normal(WIDTH, 3, 3, 3, spread=0.3),
        "conv_b": normal(WIDTH, spread=0.3),
        "bn_scale": np.abs(normal(WIDTH, spread=0.3)) + 0.5,
        "bn_bias": normal(WIDTH, spread=0.3),
        "bn_mean": normal(WIDTH, spread=0.3),
        "bn_var": np.abs(normal(WIDTH, spread=0.3)) + 0.5,
        "side_w": normal(WIDTH, WIDTH, 1, 1, spread=0.5),
        "fc_w": normal(CLASSES, WIDTH, spread=1.0),
        "fc_b": normal(CLASSES, spread=0.3),
    }


def _classifier(
    opset: int = 9,
    *,
    batch: int | str = 1,
    side: int | str = SIDE,
    ending: str = "softmax",
    are_weights_inputs: bool = True,
    extra: Sequence[Any] = (),
) -> Any:
    """In the manner of Caffe2: Conv, norm, LRN, Relu, Sum, pool, Dropout, Reshape, Gemm, ending.

    Args:
        opset: 7 to 21.
        batch: Of the input; a word is a free size. The Reshape holds 1 when it is 1, else -1.
        side: Height and width.
        ending: ``logits`` or ``softmax`` [N, classes]; ``softmax4`` and ``logits4``
            [N, classes, 1, 1], without Reshape and Gemm.
        are_weights_inputs: Initialisers are inputs as well, IR version 3.
        extra: Nodes that read ``logits`` or ``pool`` and are put behind the others.
    """
    from onnx import helper

    nodes = [
        helper.make_node("Conv", ["data_0", "conv_w", "conv_b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["c", "bn_scale", "bn_bias", "bn_mean", "bn_var"], ["n"]
        ),
        helper.make_node("LRN", ["n"], ["l"], size=3, alpha=0.01, beta=0.75, bias=1.0),
        helper.make_node("Relu", ["l"], ["r"]),
        helper.make_node("Conv", ["r", "side_w"], ["s"]),
        helper.make_node("Sum", ["r", "s"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pool"]),
        helper.make_node("Dropout", ["pool"], ["drop"]),
    ]
    arrays: dict[str, Any] = foreign_weights()
    if ending.endswith("4"):
        arrays["fc_w"] = arrays["fc_w"].reshape(CLASSES, WIDTH, 1, 1)
        nodes.append(helper.make_node("Conv", ["drop", "fc_w", "fc_b"], ["logits_"]))
    else:
        arrays["shape"] = np.array([1 if batch == 1 else -1, WIDTH], np.int64)
        nodes += [
            helper.make_node("Reshape", ["drop", "shape"], ["flat"], name="reshape"),
            helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["logits_"], transB=1),
        ]
    output = "logits_"
    if ending.startswith("softmax"):
        output = "prob_1"
        nodes.append(helper.make_node("Softmax", ["logits_"], [output], axis=1))
    for node in extra:
        nodes.append(node)
        output = node.output[0]
    shape = [batch, CLASSES, 1, 1] if ending.endswith("4") else [batch, CLASSES]
    return _model_of(
        nodes,
        arrays,
        opset,
        [batch, 3, side, side],
        (output, shape),
        are_weights_inputs=are_weights_inputs,
    )


def _model_of(
    nodes: list[Any],
    arrays: dict[str, np.ndarray],
    opset: int,
    shape: list[int | str],
    answer: tuple[str, list[int | str] | None],
    *,
    are_weights_inputs: bool,
) -> Any:
    """The nodes with ``data_0`` as image, as IR version 3 or as the opset's own."""
    from onnx import TensorProto, helper, numpy_helper

    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, shape)]
    if are_weights_inputs:
        inputs += [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            for tensor in tensors
        ]
    output = helper.make_tensor_value_info(answer[0], TensorProto.FLOAT, answer[1])
    graph = helper.make_graph(nodes, "caffe2", inputs, [output], tensors)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, producer_name="onnx-caffe2")
    model.ir_version = max(4, helper.find_min_ir_version_for(imports))
    if are_weights_inputs and opset <= 9:
        model.ir_version = 3
    return model


@pytest.fixture(scope="session")
def foreign_classifier() -> Callable[..., Any]:
    """``foreign_classifier(opset, ...)``: a classifier as others export it, see ``_classifier``."""
    return _classifier


@pytest.fixture(scope="session")
def unpack() -> Callable[[Path, Path], None]:
    """Unpack a .tar.gz into a folder, as README says: Python before 3.11.4 has no safe way."""

    tar = shutil.which("tar")
    assert tar

    def unpacked(archive: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        subprocess.run([tar, "xzf", archive, "-C", folder], check=True)

    return unpacked


def _lacking(text: str, words: str) -> list[str]:
    return [
        each
        for each in words.split(" | ")
        if not re.search(rf"(?<![\w.-]){re.escape(each)}(?!\w|\.\d)", text)
    ]


@pytest.fixture(scope="session")
def lacking() -> Callable[[str, str], list[str]]:
    """``lacking(text, "5 classes | wanted 3")``: those of the words that the text does not have.

    Words stand between bars and may come in any order; ``5`` is found in "5 of 7" and "is 5.", not
    in "15", "-5", "1.5" or "5.1".
    """
    return _lacking
