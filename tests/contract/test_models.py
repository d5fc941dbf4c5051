"""Every architecture: the facts it states are true, and its weights are those of its publisher."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge_inception import registry
from edge_inception.checkpoint import load_model, num_classes_of

MODELS = sorted(registry.models())
TIMM_MODELS = {"inception_v4": "inception_v4"}
"""Ours -> timm's; timm is the independent implementation."""

# Independent implementations of one network moved logits by at most 1.5e-6 of the largest through
# another order of float32 sums (facts/models.md, section 3).
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def timm() -> Iterator[ModuleType]:
    """Import timm, which imports torchvision, whose operators a CPU build of torch cannot load.

    Their declarations are never called; the library object must live as long as torchvision.
    """
    is_declared = "torchvision" in sys.modules or hasattr(torch.ops.torchvision, "nms")
    library = None if is_declared else torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms") if library else ():
        library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import timm as module

    yield module
    del library


def skeleton(name: str) -> nn.Module:
    """The model without memory for its weights."""
    spec = registry.model(name)
    with torch.device("meta"):
        return spec.build(num_classes=spec.num_classes).eval()


def count_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions and linear layers, counted where they happen.

    One output element of a convolution costs its kernel's taps times its input channels per group.
    """
    total = 0

    def count(module, _, output):
        nonlocal total
        weight = module.weight
        total += output.numel() * weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, *size, device="meta"))
    return total


@pytest.mark.parametrize("name", MODELS)
def test_number_of_parameters_is_true(name):
    """The stated number is that of the built model."""
    parameters = sum(parameter.numel() for parameter in skeleton(name).parameters())
    assert parameters == registry.model(name).num_parameters


@pytest.mark.parametrize("name", MODELS)
def test_multiply_adds_are_true(name):
    """The stated GMACs, to the last digit given, are those of one image."""
    spec = registry.model(name)
    macs = count_macs(skeleton(name), spec.preprocess.input_size)
    assert macs / 1e9 == pytest.approx(spec.gmacs, abs=0.0005)


@pytest.mark.parametrize("name", MODELS)
def test_number_of_classes_is_the_heads(name):
    """The stated classes are the rows of the head."""
    assert num_classes_of(skeleton(name)) == registry.model(name).num_classes


@pytest.mark.parametrize("name", MODELS)
def test_stated_options_are_the_builders_defaults(name):
    """Building with every stated option gives the model of no options."""
    spec = registry.model(name)
    with torch.device("meta"):
        stated = spec.build(num_classes=spec.num_classes, **spec.options)
    shapes = {key: tensor.shape for key, tensor in stated.state_dict().items()}
    assert shapes == {key: t.shape for key, t in skeleton(name).state_dict().items()}


def test_inception_v4_has_the_published_size():
    """42,679,816 parameters and 12.254 GMACs: the figures of timm's results table."""
    model = skeleton("inception_v4")
    assert sum(parameter.numel() for parameter in model.parameters()) == 42_679_816
    assert round(count_macs(model, (299, 299)) / 1e9, 3) == 12.254


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_keys_and_shapes_are_timms(timm, name):
    """A checkpoint of timm fits key by key, and the other way round."""
    with torch.device("meta"):
        theirs = timm.create_model(TIMM_MODELS[name], pretrained=False).state_dict()
    ours = skeleton(name).state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[key].shape == theirs[key].shape for key in ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM_MODELS)
def test_logits_are_timms(timm, name, tmp_path):
    """timm's weights, read from a file, give timm's logits at the published input size."""
    size = registry.model(name).preprocess.input_size
    theirs = settled(timm.create_model(TIMM_MODELS[name], pretrained=False), size)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours = load_model(name, tmp_path / "timm.safetensors")
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        wanted, got = theirs(images), ours(images)
    assert wanted.std() > 0.1, "logits too small to compare"
    assert (wanted[0] - wanted[1]).abs().max() > 0.1, "logits do not depend on the image"
    assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def settled(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Random weights of a trained network's scale: norm statistics are those of real activations.

    Default statistics let the signal die: logits near 1e-7, where every tolerance passes.
    """
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
            module.momentum = None  # the running statistics become those of the next batch
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.1, generator=generator)
    with torch.no_grad():
        model.train()(torch.randn(2, 3, *size, generator=generator))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_graph_answers_as_the_model(name, tmp_path):
    """Exported, then simplified: onnxruntime gives PyTorch's logits at the published size."""
    from edge_inception.export import ExportOptions, export
    from edge_inception.graph.simplify import SimplifyOptions, simplify

    spec = registry.model(name)
    model = settled(spec.build(num_classes=spec.num_classes), spec.preprocess.input_size)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    options = ExportOptions(model=name, preprocess=spec.preprocess)
    graph = export(tmp_path / "weights.safetensors", options, tmp_path / "model.onnx")
    simplified = simplify(graph, SimplifyOptions(), tmp_path / "model.simplified.onnx")
    images = torch.randn(
        1, 3, *spec.preprocess.input_size, generator=torch.Generator().manual_seed(2)
    )
    with torch.inference_mode():
        rounded = model(images).numpy()
        exact = model.double()(images.double()).numpy()
    assert exact.std() > 0.1, "logits too small to compare"
    # float64 is the truth and PyTorch's own float32 rounding the unit: how far float32 drifts
    # depends on the weights, 7e-6 to 3e-4 of the largest logit for random ones
    unit = np.abs(rounded - exact).max()
    for path in (graph.path, simplified.path):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"input": images.numpy()})
        assert np.abs(logits - exact).max() <= 4 * unit
    assert_published_nodes(name, simplified.counts)


def assert_published_nodes(name, counts):
    """Nodes of the full network, from the issue; architectures without a number are not counted."""
    published = {
        "inception_v4": {
            "Conv": 149, "Relu": 149, "Concat": 19, "AveragePool": 14, "MaxPool": 4,
            "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
        }
    }  # fmt: skip
    if name in published:
        nodes = {op: n for op, n in counts.items() if not op.startswith("num_")}
        assert nodes == published[name]
