"""A small Inception block and a residual network as simplified graphs, and photos for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sidecars
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edge_inception import artifact
from edge_inception.artifact import Provenance, SimplifiedGraph
from edge_inception.data import imageset
from edge_inception.data.imageset import ImageSet
from edge_inception.quant.options import CalibrateOptions, Effort
from edge_inception.spec import Preprocess

SIDE, CLASSES = 16, 4
HOW = Preprocess(input_size=(SIDE, SIDE))
FEW, TOP = 6, 3
OUTPUTS = {
    "logits": {"logits": (TensorProto.FLOAT, FEW)},
    "softmax": {"probabilities": (TensorProto.FLOAT, FEW)},
    "topk": {"scores": (TensorProto.FLOAT, TOP), "classes": (TensorProto.INT64, TOP)},
}


def _conv(name: str, source: str, kernel: int) -> list[onnx.NodeProto]:
    half = kernel // 2
    conv = helper.make_node(
        "Conv", [source, f"{name}.w", f"{name}.b"], [f"{name}.c"], name=name, pads=[half] * 4
    )
    return [conv, helper.make_node("Relu", [f"{name}.c"], [name], name=f"{name}.relu")]


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        "stem": (8, 3, 3, 3),
        "left": (6, 8, 1, 1),
        "right": (5, 8, 3, 3),
        "last": (8, 11, 1, 1),
    }
    found: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        # He initialisation keeps activations near one, so that tolerances mean something.
        found[f"{name}.w"] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        found[f"{name}.b"] = rng.normal(0, 0.1, shape[0])
    found["head.w"] = rng.normal(0, 0.5, (CLASSES, 8))
    found["head.b"] = rng.normal(0, 0.1, CLASSES)
    return {name: value.astype(np.float32) for name, value in found.items()}


def block(weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """input -> stem -> MaxPool -> (left | AveragePool -> right) -> Concat -> last -> head."""
    nodes = [
        *_conv("stem", "input", 3),
        helper.make_node("MaxPool", ["stem"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        *_conv("left", "pooled", 1),
        helper.make_node(
            "AveragePool", ["pooled"], ["mean"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        ),
        *_conv("right", "mean", 3),
        helper.make_node("Concat", ["left", "right"], ["joined"], axis=1),
        *_conv("last", "joined", 1),
        helper.make_node("GlobalAveragePool", ["last"], ["global"]),
        helper.make_node("Flatten", ["global"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head.w", "head.b"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in (weights or _weights()).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(5)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, sources: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, sources, [name], name=name, **attributes))
        return name

    def weights(self, shape: tuple[int, ...], name: str) -> list[str]:
        # He initialisation keeps activations near one, so that tolerances mean something.
        values = self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        bias = self.rng.normal(0, 0.1, shape[0])
        return [
            self.constant(f"{name}.w", values.astype(np.float32)),
            self.constant(f"{name}.b", bias.astype(np.float32)),
        ]

    def linear(self, source: str, shape: tuple[int, ...], name: str) -> str:
        pads = [shape[2] // 2, shape[3] // 2] * 2
        return self.op("Conv", [source, *self.weights(shape, name)], name, pads=pads)

    def conv(self, source: str, shape: tuple[int, ...], name: str) -> str:
        return self.op("Relu", [self.linear(source, shape, f"{name}.c")], name)

    def preprocessing(self, layout: str) -> str:
        value = self.op("Cast", ["input"], "preprocess/cast", to=TensorProto.FLOAT)
        if layout == "NHWC":
            value = self.op("Transpose", [value], "preprocess/transpose", perm=[0, 3, 1, 2])
        white = self.constant("preprocess/white", np.float32(255).reshape(()))
        half = self.constant("preprocess/mean", np.full((1, 3, 1, 1), 0.5, np.float32))
        value = self.op("Div", [value, white], "preprocess/div")
        return self.op("Div", [self.op("Sub", [value, half], "preprocess/sub"), half], "image")

    def head(self, kind: str) -> None:
        if kind == "softmax":
            node = helper.make_node(
                "Softmax", ["logits"], ["probabilities"], "head/softmax", axis=1
            )
            self.nodes.append(node)
        if kind == "topk":
            self.op("Softmax", ["logits"], "head/softmax", axis=1)
            k = self.constant("head/k", np.array([TOP], np.int64))
            node = helper.make_node(
                "TopK", ["head/softmax", k], ["scores", "classes"], "head/top_k", axis=1
            )
            self.nodes.append(node)


def residual_network(
    *,
    element: str = "float32",
    layout: str = "NCHW",
    head: str = "logits",
    batch: int | str = 1,
) -> onnx.ModelProto:
    """Everything a placement meets.

    Stem - ResNet's projection block - Inception-ResNet's block - FaceNet's last block, which has no
    ReLU - LRN - pool - logits - head.
    """
    net = _Builder()
    image = "input" if element == "float32" else net.preprocessing(layout)
    stem = net.conv(image, (8, 3, 3, 3), "stem")
    pool = net.op("MaxPool", [stem], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    up = net.linear(net.conv(pool, (6, 8, 1, 1), "a1"), (12, 6, 3, 3), "a2")
    down = net.linear(pool, (12, 8, 1, 1), "down")
    x = net.op("Relu", [net.op("Add", [up, down], "sum_a")], "x")
    left = net.conv(x, (6, 12, 1, 1), "b1")
    right = net.conv(net.conv(x, (5, 12, 1, 1), "b2"), (5, 5, 1, 3), "b3")
    joined = net.op("Concat", [left, right], "joined", axis=1)
    up = net.linear(joined, (12, 11, 1, 1), "b4")
    y = net.op("Relu", [net.op("Add", [x, up], "sum_b")], "y")
    up = net.linear(net.conv(y, (6, 12, 1, 1), "c1"), (12, 6, 1, 1), "c2")
    z = net.op("Add", [up, y], "z")
    last = net.conv(z, (12, 12, 1, 1), "last")
    local = net.op("LRN", [last], "local", size=5, alpha=1e-4, beta=0.75)
    flat = net.op("Flatten", [net.op("GlobalAveragePool", [local], "mean")], "flat")
    net.op("Gemm", [flat, *net.weights((FEW, 12), "fc")], "logits", transB=1)
    net.head(head)
    kind = TensorProto.FLOAT if element == "float32" else TensorProto.UINT8
    size = [SIDE, SIDE, 3] if layout == "NHWC" else [3, SIDE, SIDE]
    graph = helper.make_graph(
        net.nodes,
        "residual",
        [helper.make_tensor_value_info("input", kind, [batch, *size])],
        [
            helper.make_tensor_value_info(name, type_, [batch, width])
            for name, (type_, width) in OUTPUTS[head].items()
        ],
        net.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def residual() -> Callable[..., onnx.ModelProto]:
    return residual_network


@pytest.fixture
def model() -> onnx.ModelProto:
    return block()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], SimplifiedGraph]:
    """Publish a model as the simplified graph of a test."""

    def write(model: onnx.ModelProto, /, **details: Any) -> SimplifiedGraph:
        return artifact.publish(
            SimplifiedGraph,
            tmp_path / "simplified.onnx",
            model.SerializeToString(),
            provenance=Provenance(stage="simplify", parents={}, options={}, tools={}, source=""),
            details=sidecars.simplified(**{"preprocess": HOW, **details}),
        )

    return write


@pytest.fixture
def photos(tmp_path: Path) -> ImageSet:
    """Eleven smooth images of different contrast: not a multiple of any batch used here."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(11)
    for index in range(11):
        coarse = rng.integers(0, 25 * (index + 1) - 20, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        image.save(folder / f"{index:02}.png")
    return imageset.open_set(folder)


@pytest.fixture
def options() -> CalibrateOptions:
    return CalibrateOptions(
        preprocess=HOW, batch=4, threads=1, calibrator="mse", effort=Effort.QUICK
    )
