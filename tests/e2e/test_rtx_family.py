"""Every network of the family through NVIDIA's own parser and compiler, without a GPU."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edge_inception import registry
from edge_inception.data import imageset
from edge_inception.engines import tensorrt_rtx
from edge_inception.engines._backend import CompileOptions
from edge_inception.export.export import export
from edge_inception.export.options import ExportOptions
from edge_inception.graph.options import SimplifyOptions
from edge_inception.graph.simplify import simplify
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import CalibrateOptions, Effort, QuantizeOptions
from edge_inception.quant.placement import place_pairs
from edge_inception.spec import Precision

pytest.importorskip("tensorrt_rtx_bindings")
pytestmark = pytest.mark.slow

WIDTH = 0.25  # every layer of the network, with a quarter of the channels: minutes, not an hour
SIDE = 139  # the smallest side that they reduce to more than one pixel
EVEN_SIDE = 128  # inception_v2 joins a rounded-up pool and a convolution, which fit at even sizes
PAPER = {"norm": "lrn", "branch_kernel": 5, "pool4_kernel": 3, "transform_input": False}
FORMS = {
    **{name: (spec.families[0], {}) for name, spec in registry.models().items()},
    "googlenet, paper": (registry.model("googlenet").families[0], PAPER),
    "inception_v2, TF-slim": (registry.model("inception_v2").families[-1], {}),
    "inception_resnet_v2, paper": (
        registry.model("inception_resnet_v2").families[0],
        {"form": "paper"},
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four images of noise at several scales, so that no channel is constant."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for index in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE)).save(folder / f"{index}.png")
    return imageset.open_set(folder)


@pytest.fixture(scope="module")
def simplified(photos, tmp_path_factory):
    """``simplified(name)``: the simplified graph of a network, made once."""
    return functools.cache(
        lambda name: _simplified(name, photos, tmp_path_factory.mktemp("network"))
    )


def _simplified(name, photos, folder):
    """Random weights, and norm statistics of the photos."""
    torch.manual_seed(0)
    spec = registry.model(name.partition(",")[0])
    family, special = FORMS[name]
    side = EVEN_SIDE if spec.name == "inception_v2" else SIDE
    options = {"width": WIDTH, **family.options, **special}
    model = spec.build(num_classes=10, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    inputs = [
        np.asarray(Image.open(item.path).resize((side, side)), np.float32) / 128 - 1
        for item in photos.items
    ]
    with torch.no_grad():
        model.train()(torch.from_numpy(np.stack(inputs).transpose(0, 3, 1, 2).copy()))
    save_file(model.state_dict(), folder / "model.safetensors")
    asked = ExportOptions(
        model=spec.name,
        preprocess={"input_size": (side, side)},
        model_options=options,
        checkpoint_format="native",  # our own keys, whatever the family calls them
        num_classes=10,
    )
    graph = export(folder / "model.safetensors", asked, folder / "model.onnx")
    return simplify(graph, SimplifyOptions(), folder / "model.simplified.onnx")


@pytest.mark.parametrize("name", sorted(FORMS))
def test_network_builds_in_fp16_and_int8(name, simplified, photos, tmp_path):
    """NVIDIA's compiler takes both typed graphs; the int8 engine has no convolution in float, and
    the float16 engine none in int8. Counts come from the library's own list of layers."""
    graph = simplified(name)
    how = CalibrateOptions(
        preprocess=graph.details.preprocess, calibrator="max", effort=Effort.QUICK, threads=1
    )
    ranges = calibrate(graph, photos, how, tmp_path / "ranges.json")
    kinds = {}
    for precision in (Precision.FP16, Precision.INT8):
        table = ranges if precision is Precision.INT8 else None
        options = QuantizeOptions(precision=precision)
        typed = quantize(graph, table, options, tmp_path / f"{precision.value}.onnx")
        path = tmp_path / f"{precision.value}.engine"
        kinds[precision] = tensorrt_rtx.BACKEND.compile(typed, CompileOptions(), path).details
    half, int8 = kinds[Precision.FP16], kinds[Precision.INT8]
    assert set(half.convolutions) == {"Half"}
    assert half.int8_layers == 0
    assert set(int8.convolutions) == {"Int8"}
    assert int8.int8_layers >= int8.convolutions["Int8"] > 0.5 * graph.counts["Conv"]
    assert int8.fallbacks == ()


@pytest.mark.parametrize("name", ["inception_resnet_v1"])
def test_float_and_int8_convolutions_share_an_engine(name, simplified, photos, tmp_path):
    """With every third group kept in float NVIDIA's compiler takes the graph, and each convolution
    runs in the precision that its typed graph says: none more is int8, none less."""
    graph = simplified(name)
    groups = list(dict.fromkeys(place_pairs(onnx.load(str(graph.path))).group_of.values()))
    typed = _int8(graph, photos, tmp_path, keep=tuple(sorted(groups[::3])))
    made = tensorrt_rtx.BACKEND.compile(typed, CompileOptions(), tmp_path / "mixed.engine")
    convolutions = made.details.convolutions
    assert set(convolutions) == {"Half", "Int8"}
    assert typed.counts["groups_float"] == len(groups[::3])
    assert convolutions["Int8"] == typed.counts["conv_quantized"]
    assert convolutions["Half"] == typed.counts["conv_total"] - typed.counts["conv_quantized"]


def _int8(graph, photos, folder, **placement):
    how = CalibrateOptions(
        preprocess=graph.details.preprocess, calibrator="max", effort=Effort.QUICK, threads=1
    )
    ranges = calibrate(graph, photos, how, folder / "ranges.json")
    options = QuantizeOptions(precision=Precision.INT8, **placement)
    return quantize(graph, ranges, options, folder / "int8.onnx")
