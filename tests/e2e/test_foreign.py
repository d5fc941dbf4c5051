"""ONNX classifiers of others go through a whole build: topologies from the onnx package."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edge_inception import artifact
from edge_inception.artifact import EngineFile, SimplifiedGraph
from edge_inception.cli import main
from edge_inception.data import images
from edge_inception.data.imageset import open_set
from edge_inception.spec import Preprocess

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
HALF = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
HOW = Preprocess(input_size=(224, 224), crop_fraction=0.875)
NODES = {
    "light_inception_v1": {"Conv": 57, "Relu": 57, "MaxPool": 13, "LRN": 2, "Concat": 9},
    "light_inception_v2": {"Conv": 69, "Relu": 69, "MaxPool": 5, "AveragePool": 7, "Concat": 10},
    "light_resnet50": {"Conv": 53, "Relu": 49, "MaxPool": 1, "Add": 16},
}
HEAD = {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
LEAST_SQNR_DB = 15.0
"""Of random weights, whose activations are near a normal distribution: 18 to 29 dB here."""


def build(graph: Path, folders: tuple[Path, Path], out: Path, *more: str) -> int:
    data = ["--calibration", str(folders[0]), "--validation", str(folders[1])]
    return main.run(
        ["build", "--onnx", str(graph), *HALF, *data, "--threads", "1", "--out", str(out), *more]
    )


def brief(folder: Path) -> list[str]:
    """Measure latency for a moment, and let INT8 be slower, since that is not what is tested."""
    recipe = folder / "brief.toml"
    text = "schema = 1\n[latency]\nrounds = 3\ncalls_per_block = 3\n[gates]\nmin_speedup = 0\n"
    recipe.write_text(text)
    return ["--recipe", str(recipe)]


def answer(node: onnx.NodeProto, values: list[np.ndarray], opsets: Any) -> np.ndarray:
    """First output of one node, by onnxruntime."""
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for value in values]
    inputs = [
        onnx.helper.make_tensor_value_info(name, kind, value.shape)
        for name, kind, value in zip(node.input, kinds, values, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "one node", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([node.output[0]], dict(zip(node.input, values, strict=True)))[0]


class Reseeded:
    """A topology with He-normal kernels and norm statistics of real activations.

    As published, every weight is the same constant, mostly made by a ConstantOfShape node.
    """

    def __init__(self, name: str, photos: list[np.ndarray]) -> None:
        self.model = onnx.load(str(LIGHT / f"{name}.onnx"))
        self.rng = np.random.default_rng(0)
        graph = self.model.graph
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        (source,) = {entry.name for entry in graph.input} - set(stored)
        self.values = {**stored, source: np.concatenate(photos)}
        self.makers = {name: node for node in graph.node for name in node.output}
        fillers = [node for node in graph.node if node.op_type == "ConstantOfShape"]
        self.shapes = {key: value.shape for key, value in stored.items()}
        for node in fillers:
            self.shapes[node.output[0]] = tuple(int(side) for side in stored[node.input[0]])
            graph.node.remove(node)
            self.put(node.output[0], np.full(self.shapes[node.output[0]], 0.5))
        fill = {"Conv": self.spread, "Gemm": self.spread, "BatchNormalization": self.settle}
        for node in graph.node:
            fill.get(node.op_type, lambda _: None)(node)

    def put(self, name: str, value: np.ndarray) -> None:
        stored = self.model.graph.initializer
        for tensor in [tensor for tensor in stored if tensor.name == name]:
            stored.remove(tensor)
        self.values[name] = value.astype(np.float32)
        stored.append(numpy_helper.from_array(self.values[name], name))

    def value(self, name: str) -> np.ndarray:
        """A tensor of the photos: each node is run once, when its weights are in place."""
        if name not in self.values:
            node = self.makers[name]
            given = [self.value(one) for one in node.input]
            self.values[name] = answer(node, given, self.model.opset_import)
        return self.values[name]

    def spread(self, node: onnx.NodeProto) -> None:
        name = node.input[1]
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == "Reshape":
            name = maker.input[0]  # Inception-v1 stores its Gemm weight in rank 4
        shape = self.shapes[name]
        fan_in = shape[-1] if node.op_type == "Gemm" else np.prod(shape[1:])
        self.put(name, self.rng.standard_normal(shape) * np.sqrt(2 / fan_in))
        for bias in node.input[2:]:
            self.put(bias, np.zeros(self.shapes[bias]))

    def settle(self, node: onnx.NodeProto) -> None:
        value = self.value(node.input[0])
        self.put(node.input[3], value.mean(axis=(0, 2, 3)))
        self.put(node.input[4], value.var(axis=(0, 2, 3)) + 1e-6)


@pytest.fixture(scope="module")
def folders(workshop, tmp_path_factory) -> tuple[Path, Path]:
    """Calibration photos, and validation photos without labels: two classes fit no 1000 logits."""
    plain = tmp_path_factory.mktemp("plain")
    for photo in workshop.validation.glob("*/*.png"):
        (plain / photo.name).symlink_to(photo)
    return workshop.calibration, plain


@pytest.fixture(scope="module")
def photos(workshop) -> list[np.ndarray]:
    items = open_set(workshop.calibration).items[:4]
    return [images.load_image(item.path, HOW)[np.newaxis] for item in items]


@pytest.mark.slow
@pytest.mark.parametrize("name", NODES)
def test_a_topology_of_others_becomes_an_int8_engine(name, folders, photos, tmp_path):
    """Re-seeded: simplified to its layers, all in int8, compiled for cpu and rtx, judged."""
    onnx.save(Reseeded(name, photos).model, tmp_path / f"{name}.onnx")
    out = tmp_path / "out"
    code = build(
        tmp_path / f"{name}.onnx", folders, out, "--target", "cpu", "--target", "rtx",
        "--min-sqnr", str(LEAST_SQNR_DB), *brief(tmp_path),
    )  # fmt: skip
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert code == 0, report["verdict"]
    simplified = artifact.load(SimplifiedGraph, out / "model.simplified.onnx")
    nodes = {op: n for op, n in simplified.counts.items() if not op.startswith("num_")}
    assert nodes == {**NODES[name], **HEAD}
    assert next(row["name"] for row in report["rows"]) == "onnxruntime FP32"
    engine = artifact.load(EngineFile, out / "model.int8.cpu.blob")
    ends = engine.details.float_layers  # the trial may keep the first two layers and the last float
    assert len(ends) <= 4  # a projection reads what the second convolution reads
    assert engine.counts["weighted_layers"] == nodes["Conv"] + 1
    assert engine.counts["int8_layers"] == nodes["Conv"] + 1 - len(ends)
    assert (out / "model.int8.rtx.engine").stat().st_size > 1_000_000


EXPLODING = {"light_inception_v1": "relu_52", "light_resnet50": "relu_47"}
"""The largest amax of a tensor that convolutions read. Unlike Inception-v2, with its norms of
constants, these networks grow to the end."""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLODING)
def test_published_constants_that_explode_have_no_int8(name, folders, capsys, tmp_path):
    """Activations of 1e17 and more: the tensor is named, before anything is compiled."""
    out = tmp_path / "out"
    assert build(LIGHT / f"{name}.onnx", folders, out, "--target", "cpu", "--max-images", "4") == 3
    lines = capsys.readouterr().err.splitlines()
    reaches = r"reaches \d\.\d+e\+(17|18|19|20|21), whose int8 scale is beyond float16"
    assert re.fullmatch(f"error: tensor '{EXPLODING[name]}' {reaches}", lines[-2])
    assert lines[-1] == (
        "hint: untrained weights give such activations; if yours are trained: --precision fp32"
    )
    assert not list(out.glob("model.int8*"))
    assert not list(out.glob("*.blob"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NODES)
def test_published_constants_parse_and_compile(name, folders, tmp_path):
    """As shipped, with constant weights, up to an engine in float32."""
    out = tmp_path / "out"
    code = build(
        LIGHT / f"{name}.onnx", folders, out, "--target", "cpu", "--precision", "fp32",
        "--min-agreement", "0", "--keep-failed", *brief(tmp_path),
    )  # fmt: skip
    # equal logits have no top-1 to agree on: measured, whatever the verdict
    assert code in {0, 6, 8}
    engine = artifact.load(EngineFile, out / "model.fp32.cpu.blob")
    # OpenVINO computes branches with equal weights once
    assert engine.counts["weighted_layers"] > 0.8 * NODES[name]["Conv"]


@pytest.fixture(scope="module")
def modern(tmp_path_factory) -> Path:
    """What today's networks are made of, as torch exports it at its default opset.

    A depthwise convolution, HardSwish, squeeze-and-excite, L2 norms, LayerNorm, Gelu, attention
    over patches with a class token, and a module called head.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    class Modern(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 8, 8)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
            self.token = nn.Parameter(torch.randn(1, 1, 16))
            self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
            self.head = nn.Linear(16, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = functional.hardswish(self.depthwise(self.stem(images)))
            mean = functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
            x = x * functional.hardsigmoid(self.excite(mean))
            rows = x.flatten(2).transpose(1, 2)
            rows = torch.cat([self.token.expand(len(rows), -1, -1), rows], dim=1)
            query, key, value = self.qkv(self.norm(rows)).reshape(-1, len(rows[0]), 3, 16).unbind(2)
            weights = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).mT
            rows = rows + self.proj(functional.gelu(weights.softmax(-1) @ value))
            return self.head(rows[:, 0])

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("modern") / "modern.onnx"
    example = (torch.zeros(1, 3, 64, 64),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of itself
        torch.onnx.export(Modern().eval(), example, str(path), dynamo=True, verbose=False)
    return path


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_network_of_todays_layers_is_built(modern, precision, folders, tmp_path):
    """No op is refused unasked: OpenVINO runs it, TensorRT-RTX compiles it, INT8 is most of it."""
    ops = {node.op_type for node in onnx.load(modern).graph.node}
    assert {"HardSwish", "ReduceL2", "LayerNormalization", "Gelu"} <= ops
    out = tmp_path / "out"
    code = build(
        modern, folders, out, "--target", "cpu", "--target", "rtx", "--precision", precision,
        "--effort", "quick", "--min-sqnr", "15", "--min-speedup", "0", "--min-agreement", "0",
        *brief(tmp_path),
    )  # fmt: skip
    assert code == 0, (out / "report.md").read_text(encoding="utf-8")
    assert (out / f"model.{precision}.rtx.engine").stat().st_size > 0
    engine = artifact.load(EngineFile, out / f"model.{precision}.cpu.blob")
    if precision == "int8":
        assert engine.counts["int8_layers"] == 7  # four convolutions, three linear layers


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            ["--model", "googlenet"],
            "error: command line: both an ONNX graph and model name",
        ),
        (["--onnx", "absent.onnx"], "error: cannot read absent.onnx: No such file or directory"),
    ],
)
def test_what_cannot_be_imported_is_named(more, line, folders, capsys, tmp_path):
    """Both kinds of source, or a file that is not there: one exact line, exit code 3."""
    source = LIGHT / "light_resnet50.onnx"
    assert build(source, folders, tmp_path / "out", *more) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [text for text in lines if text.startswith("error:")] == [line]


def test_mean_and_std_are_not_guessed(folders, capsys, tmp_path):
    """A graph does not say its normalisation; the hint lists the usual ones."""
    arguments = ["build", "--onnx", str(LIGHT / "light_resnet50.onnx"), "--out", str(tmp_path)]
    data = ["--calibration", str(folders[0]), "--validation", str(folders[1])]
    assert main.run([*arguments, *data]) == 3
    err = capsys.readouterr().err
    assert "does not say how images become its input: no mean and no std" in err
    assert "--mean 0.485,0.456,0.406" in err
