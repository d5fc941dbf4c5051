"""Every architecture: the facts it states are true, and its weights are those of its publisher."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge_inception import registry
from edge_inception.artifact import Graph, SimplifiedGraph
from edge_inception.checkpoints.load import load_model
from edge_inception.models._trace import group_rows, total_cost, trace

MODELS = sorted(registry.models())
VARIANTS = [
    pytest.param(spec, variant, id=f"{spec.name}-{variant.name}")
    for spec in registry.models().values()
    for variant in spec.variants
]

# Independent implementations of one network moved logits by at most 1.5e-6 of the largest through
# another order of float32 sums: docs/models.md, "Rounding between implementations".
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Published:
    """What others measured of one form of a network: docs/models.md, "Sizes", has them."""

    name: str
    num_parameters: int
    gmacs: float | None = None
    size: tuple[int, int] = (299, 299)
    num_classes: int = 1000
    options: dict = None
    counted: Callable[[nn.Module], int] | None = None


def trainable(model: nn.Module) -> int:
    """Parameters without batch norm's factors, which TF-slim and Keras do not have."""
    factors = sum(
        m.weight.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)
    )
    return sum(parameter.numel() for parameter in model.parameters()) - factors


def with_statistics(model: nn.Module) -> int:
    """Keras's count_params: batch norm's mean and variance count, its factor does not exist."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return trainable(model) + sum(2 * m.num_features for m in norms)


def folded(model: nn.Module) -> int:
    """Batch norm folded into convolutions, which get a bias; that of the embedding stays."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    rest = [m for m in model.modules() if isinstance(m, nn.Linear | nn.BatchNorm1d)]
    weights = sum(m.weight.numel() + len(m.weight) for m in convs)
    return weights + sum(p.numel() for m in rest for p in m.parameters())


SLIM_V2 = dict(next(f for f in registry.model("inception_v2").families if f.name == "slim").options)
PAPER_V1 = {"norm": "lrn", "branch_kernel": 5, "pool4_kernel": 3}
SMALL, FACE = (224, 224), (160, 160)
PUBLISHED = (
    Published(name="googlenet", num_parameters=6_624_904, gmacs=1.498, size=SMALL),
    Published(name="googlenet", num_parameters=13_004_888, options={"aux": True}, size=SMALL),
    Published(
        name="googlenet", num_parameters=6_998_552, gmacs=1.583, size=SMALL, options=PAPER_V1
    ),
    Published(name="googlenet", num_parameters=6_618_649, num_classes=1001, counted=trainable),
    Published(name="inception_v2", num_parameters=11_295_240, gmacs=2.033, size=SMALL),
    Published(
        name="inception_v2",
        num_parameters=11_194_984,
        gmacs=2.019,
        size=SMALL,
        options={"channels": 576, "conv_bias": False},
    ),
    Published(
        name="inception_v2",
        num_parameters=11_179_361,
        gmacs=1.935,
        size=SMALL,
        num_classes=1001,
        options=SLIM_V2,
        counted=trainable,
    ),
    Published(name="inception_v3", num_parameters=23_834_568, gmacs=5.713),
    Published(name="inception_v3", num_parameters=27_161_264, options={"aux": True}),
    Published(name="inception_v3", num_parameters=23_819_401, num_classes=1001, counted=trainable),
    Published(
        name="inception_v3",
        num_parameters=27_145_970,
        num_classes=1001,
        options={"aux": True},
        counted=trainable,
    ),
    Published(name="inception_v3", num_parameters=23_851_784, counted=with_statistics),
    Published(name="inception_v4", num_parameters=42_679_816, gmacs=12.254),
    Published(name="inception_v4", num_parameters=42_681_353, num_classes=1001),
    Published(name="inception_v4", num_parameters=42_649_769, num_classes=1001, counted=trainable),
    Published(
        name="inception_v4",
        num_parameters=46_009_106,
        num_classes=1001,
        options={"aux": True},
        counted=trainable,
    ),
    Published(name="inception_resnet_v2", num_parameters=55_843_464, gmacs=13.156),
    Published(name="inception_resnet_v2", num_parameters=55_845_001, num_classes=1001),
    Published(
        name="inception_resnet_v2", num_parameters=55_814_729, num_classes=1001, counted=trainable
    ),
    Published(
        name="inception_resnet_v2",
        num_parameters=59_182_258,
        num_classes=1001,
        options={"aux": True},
        counted=trainable,
    ),
    Published(name="inception_resnet_v2", num_parameters=55_873_736, counted=with_statistics),
    Published(
        name="inception_resnet_v2",
        num_parameters=32_433_928,
        gmacs=9.258,
        options={"form": "paper"},
    ),
    Published(name="inception_resnet_v1", num_parameters=22_756_328, gmacs=6.206),
    Published(
        name="inception_resnet_v1",
        num_parameters=23_482_624,
        gmacs=1.418,
        size=FACE,
        options={"tail": "facenet"},
    ),
    Published(
        name="inception_resnet_v1",
        num_parameters=23_468_336,
        options={"tail": "facenet"},
        counted=folded,
    ),
    Published(name="resnet50", num_parameters=25_557_032, gmacs=4.089, size=SMALL),
    Published(name="resnet101", num_parameters=44_549_160, gmacs=7.801, size=SMALL),
    Published(name="resnet152", num_parameters=60_192_808, gmacs=11.514, size=SMALL),
)


def skeleton(name: str, num_classes: int | None = None, **options) -> nn.Module:
    """The model without memory for its weights."""
    spec = registry.model(name)
    with torch.device("meta"):
        return spec.build(num_classes=num_classes or spec.num_classes, **options).eval()


def count_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions and linear layers, counted where they happen.

    One output element of a convolution costs its kernel's taps times its input channels per group.
    """
    total_macs = 0

    def count(module, _, output):
        nonlocal total_macs
        total_macs += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, *size, device="meta"))
    return total_macs


@pytest.mark.parametrize("fact", PUBLISHED, ids=lambda fact: f"{fact.name}-{fact.num_parameters}")
def test_size_is_the_published_one(fact):
    """Parameters are the published number exactly; GMACs are to its last digit."""
    model = skeleton(fact.name, fact.num_classes, **(fact.options or {}))
    count = fact.counted or (lambda built: sum(p.numel() for p in built.parameters()))
    assert count(model) == fact.num_parameters
    if fact.gmacs:
        # the table's figures are cut or rounded to three digits
        assert count_macs(model, fact.size) / 1e9 == pytest.approx(fact.gmacs, abs=0.0006)


def test_facenets_body_with_a_classifier_has_the_published_size():
    """Body of FaceNet and a head of 1000 classes at 299 pixels: 24,357,096 and 6.309 GMACs."""
    model = skeleton("inception_resnet_v1", tail="facenet")
    body = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("last_"))
    assert body + 1792 * 1000 + 1000 == 24_357_096
    macs = count_macs(model, (299, 299)) - 1792 * 512 + 1792 * 1000
    assert macs / 1e9 == pytest.approx(6.309, abs=0.0006)


@pytest.mark.parametrize(("spec", "variant"), VARIANTS)
def test_stated_size_is_true(spec, variant):
    """What ``models`` prints of a variant is what its module has."""
    model = skeleton(spec.name, variant.num_classes, **variant.options)
    assert sum(p.numel() for p in model.parameters()) == variant.num_parameters
    assert count_macs(model, variant.input_size) / 1e9 == pytest.approx(variant.gmacs, abs=0.0006)


@pytest.mark.parametrize(("spec", "variant"), VARIANTS)
def test_stage_table_is_what_the_module_does(spec, variant):
    """Shapes, parameters and multiply-adds of every stage, without torch, equal the module's."""
    model = skeleton(spec.name, variant.num_classes, **variant.options)
    architecture = spec.describe(num_classes=variant.num_classes, **variant.options)
    stages = trace(architecture, variant.input_size)
    shapes = {}
    for stage in stages[:-1]:
        module = model.get_submodule(stage.path)
        keep = lambda _, __, out, path=stage.path: shapes.update({path: tuple(out.shape[1:])})  # noqa: E731
        module.register_forward_hook(keep)
    macs = count_macs(model, variant.input_size)
    assert {stage.path: stage.cost.shape for stage in stages[:-1]} == shapes
    assert total_cost(stages).macs == macs
    auxiliary = {head.name for head in architecture.auxiliary}
    inference = sum(
        p.numel() for n, p in model.named_parameters() if n.partition(".")[0] not in auxiliary
    )
    assert total_cost(stages).num_parameters == inference
    assert total_cost(list(group_rows(stages))) == total_cost(stages)


@pytest.mark.parametrize("name", MODELS)
def test_stage_table_follows_any_size(name):
    """Also on an odd, oblong image the table has the shapes of the module."""
    # Inception-v2 pads its strided convolutions but not the pool beside them: even maps only
    spec, size = registry.model(name), (256, 192) if name == "inception_v2" else (203, 181)
    last = trace(spec.describe(num_classes=10), size)[-2]
    maps = skeleton(name, 10).forward_features(torch.empty(1, 3, *size, device="meta"))
    assert last.cost.shape == tuple(maps.shape[1:])


def test_an_image_too_small_is_named():
    """A table of a network on 32 pixels names the layer where nothing is left."""
    with pytest.raises(ValueError, match=r"layer features\.\d+ would be empty"):
        trace(registry.model("inception_v4").describe(num_classes=10), (32, 32))


@pytest.mark.parametrize("name", MODELS)
def test_number_of_outputs_is_the_heads(name):
    """The stated classes are the columns of the output."""
    spec = registry.model(name)
    model = skeleton(name)
    size = spec.preprocess.input_size
    assert model.num_outputs == spec.num_classes
    assert tuple(model(torch.empty(2, 3, *size, device="meta")).shape) == (2, spec.num_classes)


@pytest.mark.parametrize("name", MODELS)
def test_stated_options_are_the_builders_defaults(name):
    """Building with every stated option gives the model of no options; no other is taken."""
    spec = registry.model(name)
    assert spec.variants[0].options == {}
    assert spec.describe(num_classes=7, **spec.options) == spec.describe(num_classes=7)
    with pytest.raises(TypeError):
        spec.describe(num_classes=7, nonsense=1)


@pytest.mark.parametrize("name", MODELS)
def test_family_options_are_options_of_the_model(name):
    """What a family needs is something the builder knows, and each family is named once."""
    spec = registry.model(name)
    for family in spec.families:
        assert family.options.keys() <= spec.options.keys()
        skeleton(name, 3, **family.options)
    assert len({family.name for family in spec.families}) == len(spec.families)


@pytest.mark.parametrize("name", MODELS)
def test_width_scales_every_layer(name):
    """At width 0.25 a network has a sixteenth of the weights, give or take the rounding to 8."""
    narrow = sum(p.numel() for p in skeleton(name, 10, width=0.25).parameters())
    whole = sum(p.numel() for p in skeleton(name, 10).parameters())
    assert 1 / 17 < narrow / whole < 1 / 11


@pytest.mark.parametrize("name", MODELS)
def test_an_mlp_head_has_two_linear_layers(name):
    """``head_hidden`` makes linear, ReLU, dropout, linear under the head's own name."""
    keys = skeleton(name, 10).state_dict().keys()
    hidden = skeleton(name, 10, head_hidden=32).state_dict()
    (head,) = {key.removesuffix(".weight") for key in keys if key not in hidden} - {
        key for key in keys if key.endswith(".bias")
    }
    assert hidden[f"{head}.0.weight"].shape[0] == 32
    assert hidden[f"{head}.3.weight"].shape == (10, 32)


@pytest.mark.parametrize(
    "name", ["googlenet", "inception_v3", "inception_v4", "inception_resnet_v2"]
)
def test_auxiliary_heads_answer_in_training_only(name):
    """A training pass returns them behind the logits; inference returns the logits alone."""
    spec = registry.model(name)
    model = spec.build(num_classes=5, aux=True, width=0.1)
    images = torch.zeros(2, 3, *spec.preprocess.input_size)
    logits, *auxiliary = model.train()(images)
    assert [tuple(out.shape) for out in (logits, *auxiliary)] == [(2, 5)] * (1 + len(auxiliary))
    assert len(auxiliary) == len(model.auxiliary_weights) >= 1
    assert tuple(model.eval()(images).shape) == (2, 5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("googlenet", {"norm": "batch"}, "norm is 'batch', wanted one of 'bn', 'lrn'"),
        ("googlenet", {"branch_kernel": 4}, "branch_kernel is 4, wanted one of 3, 5"),
        ("inception_v2", {"channels": 600}, "channels is 600, wanted one of 608, 576"),
        ("inception_v2", {"padding": "same"}, "padding is 'same'"),
        ("inception_resnet_v1", {"tail": "face"}, "tail is 'face'"),
        ("inception_resnet_v2", {"form": "slim"}, "form is 'slim'"),
        ("resnet50", {"stride_in": "2x2"}, "stride_in is '2x2'"),
    ],
)
def test_a_value_no_option_has_is_named(name, options, words):
    """A value that an option cannot have is refused with those it can."""
    with pytest.raises(ValueError, match=words):
        registry.model(name).describe(num_classes=2, **options)


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


@dataclass(frozen=True, kw_only=True)
class Twin:
    """The same network in another project."""

    ours: str
    package: str
    theirs: str
    options: dict
    arguments: dict

    def make(self) -> nn.Module:
        if self.package == "timm":
            import timm

            return timm.create_model(self.theirs, pretrained=False, **self.arguments)
        import torchvision

        return getattr(torchvision.models, self.theirs)(weights=None, **self.arguments)


def tv(ours: str, **arguments) -> Twin:
    options = {key: arguments[key] for key in ("transform_input",) if key in arguments}
    if arguments.get("aux_logits"):
        options["aux"] = True
    if ours in {"googlenet", "inception_v3"}:
        arguments["init_weights"] = False
    return Twin(ours=ours, package="torchvision", theirs=ours, options=options, arguments=arguments)


def of_timm(name: str) -> Twin:
    return Twin(ours=name, package="timm", theirs=name, options={}, arguments={})


TWINS = (
    of_timm("inception_v3"),
    of_timm("inception_v4"),
    of_timm("inception_resnet_v2"),
    tv("googlenet", aux_logits=False),
    tv("googlenet", aux_logits=True, transform_input=True),
    tv("inception_v3", aux_logits=False, transform_input=False),
    tv("inception_v3", aux_logits=True, transform_input=True),
    tv("resnet50"),
    tv("resnet101"),
    tv("resnet152"),
)
NAMED = [
    pytest.param(
        twin,
        id="-".join((twin.package, twin.ours, *(str(key) for key in twin.options))),
    )
    for twin in TWINS
]


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("twin", NAMED)
def test_keys_and_shapes_are_the_publishers(twin):
    """A checkpoint of theirs fits key by key, and the other way round."""
    with torch.device("meta"):
        theirs = twin.make().state_dict()
    ours = skeleton(twin.ours, **twin.options).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in ours.items()}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in theirs.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("twin", NAMED)
def test_logits_are_the_publishers(twin):
    """Their weights, loaded strictly, give their logits at the published input size."""
    spec = registry.model(twin.ours)
    size = spec.preprocess.input_size
    theirs = settled(twin.make(), size)
    ours = spec.build(num_classes=1000, **twin.options).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        wanted, got = theirs(images), ours(images)
    assert wanted.std() > 0.1, "logits too small to compare"
    assert (wanted[0] - wanted[1]).abs().max() > 0.1, "logits do not depend on the image"
    assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    theirs.load_state_dict(ours.state_dict(), strict=True)


def settled(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Random weights of a trained network's scale: norm statistics are those of real activations.

    Default statistics let the signal die: logits near 1e-7, where every tolerance passes.
    """
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
            module.momentum = None  # the running statistics become those of the next batch
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.1, generator=generator)
    with torch.no_grad():
        model.train()(torch.randn(2, 3, *size, generator=generator))
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A form of a network that goes through export and simplify, and the nodes that must remain.

    ``num_exclusive`` of its average pools divide by the real pixels in the window: docs/models.md,
    "Average pooling".
    """

    name: str
    options: dict
    nodes: dict[str, int]
    num_exclusive: int = 0
    size: tuple[int, int] | None = None


HEAD = {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
NARROW = {"width": 0.25}
EXPORTED = (
    Exported(
        name="inception_v4",
        options={},
        nodes={"Conv": 149, "Relu": 149, "Concat": 19, "AveragePool": 14, "MaxPool": 4, **HEAD},
        num_exclusive=14,
    ),
    Exported(
        name="googlenet",
        options=NARROW,
        nodes={"Conv": 57, "Relu": 57, "Concat": 9, "MaxPool": 13, **HEAD},
    ),
    Exported(
        name="googlenet",
        options={**NARROW, **PAPER_V1},
        nodes={"Conv": 57, "Relu": 57, "Concat": 9, "MaxPool": 13, "LRN": 2, **HEAD},
    ),
    Exported(
        name="googlenet",
        options={**NARROW, "padding": "tf_same"},
        nodes={"Conv": 57, "Relu": 57, "Concat": 9, "MaxPool": 13, **HEAD},
    ),
    Exported(
        name="inception_v2",
        options=NARROW,
        nodes={"Conv": 69, "Relu": 69, "Concat": 10, "AveragePool": 7, "MaxPool": 5, **HEAD},
    ),
    Exported(
        name="inception_v2",
        options={**SLIM_V2, **NARROW},
        # one more convolution in the separable stem, which has one ReLU
        nodes={"Conv": 70, "Relu": 69, "Concat": 10, "AveragePool": 7, "MaxPool": 5, **HEAD},
        num_exclusive=7,
    ),
    Exported(
        name="inception_v3",
        options={**NARROW, "aux": True, "transform_input": True},
        nodes={"Conv": 94, "Relu": 94, "Concat": 11, "AveragePool": 9, "MaxPool": 4, **HEAD},
    ),
    Exported(
        name="inception_v3",
        options={"count_include_pad": False},
        nodes={"Conv": 94, "Relu": 94, "Concat": 11, "AveragePool": 9, "MaxPool": 4, **HEAD},
        num_exclusive=9,
    ),
    Exported(
        name="inception_resnet_v1",
        options=NARROW,
        # 20 linear convolutions, one in each block; a ReLU behind each of the other convolutions
        # and behind each sum
        nodes={"Conv": 127, "Relu": 127, "Add": 20, "Concat": 22, "MaxPool": 3, **HEAD},
    ),
    Exported(
        name="inception_resnet_v2",
        options=NARROW,
        nodes={
            "Conv": 244, "Relu": 243, "Add": 40, "Concat": 43, "AveragePool": 1, "MaxPool": 4,
            **HEAD,
        },
        num_exclusive=1,
    ),
    Exported(
        name="resnet50",
        options={},
        nodes={"Conv": 53, "Relu": 49, "Add": 16, "MaxPool": 1, **HEAD},
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Network:
    """A form with seeded weights, as model, graph and simplified graph."""

    form: Exported
    model: nn.Module
    weights: Path
    graph: Graph
    simplified: SimplifiedGraph


@pytest.fixture(
    scope="module",
    params=EXPORTED,
    ids=lambda form: "-".join((form.name, *map(str, form.options.values()))),
)
def network(request, tmp_path_factory) -> Network:
    from edge_inception.export.export import ExportOptions, export
    from edge_inception.graph.simplify import SimplifyOptions, simplify

    form, folder = request.param, tmp_path_factory.mktemp("network")
    spec = registry.model(form.name)
    torch.manual_seed(1)  # of biases without a norm, which ``settled`` leaves as built
    model = settled(spec.build(num_classes=20, **form.options), spec.preprocess.input_size)
    weights = folder / "weights.safetensors"
    save_file(model.state_dict(), weights)
    options = ExportOptions(model=form.name, model_options=form.options, checkpoint_format="native")
    graph = export(weights, options, folder / "model.onnx")
    simplified = simplify(graph, SimplifyOptions(), folder / "model.simplified.onnx")
    return Network(form=form, model=model, weights=weights, graph=graph, simplified=simplified)


@pytest.mark.slow
def test_graph_answers_as_the_model(network):
    """Exported, then simplified: the published nodes, and onnxruntime gives PyTorch's logits."""
    form = network.form
    size = registry.model(form.name).preprocess.input_size
    nodes = {op: n for op, n in network.simplified.counts.items() if not op.startswith("num_")}
    assert nodes == form.nodes
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    loaded = load_model(form.name, network.weights, checkpoint_format="native", **form.options)
    with torch.inference_mode():
        rounded = loaded(images).numpy()
        exact = copy.deepcopy(network.model).double()(images.double()).numpy()
    assert exact.std() > 0.1, "logits too small to compare"
    # float64 is the truth and PyTorch's own float32 rounding the unit: how far float32 drifts
    # depends on the weights, 7e-6 to 3e-4 of the largest logit for random ones, and by luck less
    # than an ulp
    unit = max(np.abs(rounded - exact).max(), 2.0**-23 * np.abs(exact).max())
    for path in (network.graph.path, network.simplified.path):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"input": images.numpy()})
        assert np.abs(logits - exact).max() <= 4 * unit


@pytest.mark.slow
def test_graph_module_answers_as_onnxruntime(network):
    """Every network's simplified graph can be trained: as a module it gives the graph's logits."""
    import onnx

    from edge_inception.training.graph_module import GraphModule

    size = registry.model(network.form.name).preprocess.input_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    session = onnxruntime.InferenceSession(
        network.simplified.path, providers=["CPUExecutionProvider"]
    )
    logits = np.concatenate([session.run(None, {"input": one[None].numpy()})[0] for one in images])
    module = GraphModule(onnx.load(str(network.simplified.path)))
    with torch.inference_mode():
        got = module(images).numpy()
        exact = module.double()(images.double()).numpy()
    # float64 is the truth and onnxruntime's own rounding the unit, as above
    unit = max(np.abs(logits - exact).max(), 2.0**-23 * np.abs(exact).max())
    assert unit <= 1e-3 * np.abs(exact).max()
    assert np.abs(got - exact).max() <= 4 * unit
    assert np.abs(exact[0] - exact[1]).max() > 0.01 * np.abs(exact).max()


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["NVDLA 1.0", "DLA 2.0"])
def test_every_network_is_one_piece_on_a_dla(network, generation):
    """After the rewrites one subgraph, and nothing but the Flatten before the answer on the GPU.

    Before them every average over real pixels, the mean of the head and its Flatten are there too,
    and each pool cuts the graph once more. LRN and TensorFlow's border rules stay on DLA.
    """
    import onnx

    from edge_inception.graph import dla

    model = onnx.load(str(network.simplified.path))
    averages = network.form.num_exclusive
    plain = dla.plan(model, generation)
    assert Counter(layer.op for layer in plain.gpu_layers) == Counter(
        {"AveragePool": averages, "GlobalAveragePool": 1, "Flatten": 1}
    )
    assert len(plain.subgraphs) == averages + 2
    found = dla.plan(dla.rewrite(model), generation)
    assert [layer.op for layer in found.gpu_layers] == ["Flatten"]
    assert len(found.subgraphs) == 1
    assert found.broken_limits == ()
