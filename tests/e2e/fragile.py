"""A classifier that plain int8 breaks: textures, a small Inception block, and a head fitted to it.

The head is fitted by least squares on the network's own features, so the network is right for a
reason. Then one branch of the concat is scaled up a hundred times and two channels of a later layer
sixty times, each compensated in the weights that read them: in float nothing changes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE, CLASSES = 32, 6
BRANCH, OUTLIER = 100.0, 60.0
FRAGILE = ("joined", "late")
"""Groups that int8 cannot hold: what the concat makes, and the layer with outlier channels."""


def photos(folder: Path, count: int, seed: int) -> Path:
    """``count`` images in a folder per class: gratings of one frequency, any phase, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for kind in range(CLASSES):
        target = folder / f"texture {kind}"
        target.mkdir(parents=True)
        angle, waves = np.pi * (kind % 3) / 3, 4 + 3 * (kind // 3)
        for index in range(count):
            turned = angle + rng.normal(0, 0.16)
            phase = 2 * np.pi * rng.random()
            wave = np.cos(2 * np.pi * waves * (x * np.cos(turned) + y * np.sin(turned)) + phase)
            pixels = 128 + 50 * wave[..., None] + rng.normal(0, 38, (SIDE, SIDE, 3))
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(target / f"{index:03}.png")
    return folder


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {
        "stem": (12, 3, 5, 5),
        "left": (16, 12, 1, 1),
        "right": (16, 12, 3, 3),
        "pool.c": (8, 12, 1, 1),
        "mid": (24, 40, 3, 3),
        "late": (32, 24, 3, 3),
        "last": (48, 32, 1, 1),
    }
    found = {}
    for name, shape in shapes.items():
        found[f"{name}.w"] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        found[f"{name}.b"] = rng.normal(0, 0.05, shape[0])
    found["head.w"] = np.zeros((CLASSES, 48))
    found["head.b"] = np.zeros(CLASSES)
    return {name: value.astype(np.float32) for name, value in found.items()}


def _conv(name: str, source: str, kernel: int) -> list[onnx.NodeProto]:
    wires = [source, f"{name}.w", f"{name}.b"]
    conv = helper.make_node("Conv", wires, [f"{name}.c"], name=name, pads=[kernel // 2] * 4)
    return [conv, helper.make_node("Relu", [f"{name}.c"], [name], name=f"{name}.relu")]


def _network(weights: dict[str, np.ndarray], output: str = "logits") -> onnx.ModelProto:
    pool = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    half = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        *_conv("stem", "input", 5),
        helper.make_node("MaxPool", ["stem"], ["small"], name="small", **half),
        *_conv("left", "small", 1),
        *_conv("right", "small", 3),
        helper.make_node("AveragePool", ["small"], ["mean"], name="mean", **pool),
        *_conv("pool.c", "mean", 1),
        helper.make_node("Concat", ["left", "right", "pool.c"], ["joined"], name="joined", axis=1),
        *_conv("mid", "joined", 3),
        *_conv("late", "mid", 3),
        *_conv("last", "late", 1),
        helper.make_node("GlobalAveragePool", ["last"], ["global"], name="global"),
        helper.make_node("Flatten", ["global"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "head.w", "head.b"], ["logits"], name="head", transB=1),
    ]
    width = CLASSES if output == "logits" else 48
    graph = helper.make_graph(
        nodes,
        "textures",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, H, W] in -1..1 and labels [N]."""
    found, labels = [], []
    for label, kind in enumerate(sorted(folder.iterdir())):
        for path in sorted(kind.iterdir()):
            pixels = np.asarray(Image.open(path), np.float32) / 255
            found.append((pixels.transpose(2, 0, 1) - 0.5) / 0.5)
            labels.append(label)
    return np.stack(found), np.array(labels)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """What onnxruntime answers."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input": images})[0]


def _fit(weights: dict[str, np.ndarray], folder: Path) -> None:
    """The head by ridge regression on one-hot targets."""
    images, labels = tensors(folder)
    features = run(_network(weights, "flat"), images).astype(np.float64)
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - mean) / spread
    targets = 4 * np.eye(CLASSES)[labels] - 4 / CLASSES
    solved = np.linalg.solve(scaled.T @ scaled + 2 * np.eye(48), scaled.T @ targets)
    weights["head.w"] = (solved.T / spread).astype(np.float32)
    weights["head.b"] = (-weights["head.w"] @ mean).astype(np.float32)


def sound(folder: Path) -> dict[str, np.ndarray]:
    """Weights of the fitted network, before anything is made fragile."""
    weights = _weights()
    _fit(weights, folder)
    return weights


def break_it(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same function with fragile tensors."""
    found = {name: value.copy() for name, value in weights.items()}
    for part in ("w", "b"):
        found[f"right.{part}"] *= BRANCH
        found[f"late.{part}"][:2] *= OUTLIER
    found["mid.w"][:, 16:32] /= BRANCH
    found["last.w"][:, :2] /= OUTLIER
    return found


def network(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The classifier with these weights."""
    return _network(weights)
