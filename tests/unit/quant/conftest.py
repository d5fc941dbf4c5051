"""A small Inception block as a simplified graph, and photos to calibrate it with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edge_inception import artifact, imageset
from edge_inception.artifact import Provenance, SimplifiedGraph
from edge_inception.imageset import ImageSet
from edge_inception.quant.options import CalibrateOptions
from edge_inception.spec import Preprocess

SIDE, CLASSES = 16, 4


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


@pytest.fixture
def model() -> onnx.ModelProto:
    return block()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], SimplifiedGraph]:
    """Publish a model as the simplified graph of a test."""

    def write(model: onnx.ModelProto, **details: Any) -> SimplifiedGraph:
        return artifact.publish(
            SimplifiedGraph,
            tmp_path / "simplified.onnx",
            lambda path: path.write_bytes(model.SerializeToString()) and None,
            provenance=Provenance(stage="simplify", parents={}, options={}, tools={}, source=""),
            details=details,
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
    return CalibrateOptions(preprocess=Preprocess(input_size=(SIDE, SIDE)), batch=4, threads=1)
