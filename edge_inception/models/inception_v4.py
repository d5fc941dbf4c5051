"""Inception-v4 in the TF-slim order of layers, with the state-dict keys of timm.

Source: Szegedy et al., AAAI 2017 (arXiv 1602.07261), figures 3 to 9. The released TF-slim network
orders 1x7 and 7x1 in Inception-B, and 1x3 and 3x1 in Inception-C, differently; so does this file.
Shapes are [C, H, W] of feature maps for a 299 x 299 input at width 1.
"""

from __future__ import annotations

from edge_inception.models import _published
from edge_inception.models._builder import builder, default_options
from edge_inception.models._layers import (
    VALID,
    Architecture,
    AuxiliaryHead,
    AvgPool,
    ClassifierHead,
    Concat,
    ConvFactory,
    Layer,
    MaxPool,
    branches,
    concat,
    sequential,
)
from edge_inception.spec import CheckpointFamily, ModelSpec, Preprocess, Variant


def stem(factory: ConvFactory) -> tuple[Layer, ...]:
    """3 x 299 x 299 to 384 x 35 x 35; the paper's Inception-ResNet-v2 has the same stem."""
    conv, conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
    return (
        conv3x3_stride2(32),  # 32 x 149 x 149
        conv("3x3", 32, padding=VALID),  # 32 x 147 x 147
        conv("3x3", 64),  # 64 x 147 x 147
        branches(maxpool=MaxPool(), conv=conv3x3_stride2(96)),  # 160 x 73 x 73
        branches(
            branch0=(conv("1x1", 64), conv("3x3", 96, padding=VALID)),
            branch1=(
                conv("1x1", 64),
                conv("1x7", 64),
                conv("7x1", 64),
                conv("3x3", 96, padding=VALID),
            ),
        ),  # 192 x 71 x 71
        branches(conv=conv3x3_stride2(192), maxpool=MaxPool()),  # 384 x 35 x 35
    )


def _inception_a(factory: ConvFactory) -> Concat:
    """Inception-A, which keeps the map at 384 x 35 x 35."""
    conv = factory.conv
    return branches(
        branch0=conv("1x1", 96),
        branch1=(conv("1x1", 64), conv("3x3", 96)),
        branch2=(conv("1x1", 64), conv("3x3", 96), conv("3x3", 96)),
        branch3=(AvgPool(), conv("1x1", 96)),
    )


def reduction_a(factory: ConvFactory, k: int, l: int, m: int, n: int) -> Concat:  # noqa: E741 -- the paper's letters, figure 7
    """Reduction-A, map 35 x 35 to 17 x 17.

    ``k``, ``l``, ``m`` and ``n`` are channel counts, which table 1 of the paper gives per network.
    """
    conv, conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
    return branches(
        branch0=conv3x3_stride2(n),
        branch1=(conv("1x1", k), conv("3x3", l), conv3x3_stride2(m)),
        branch2=MaxPool(),
    )


def _inception_b(factory: ConvFactory) -> Concat:
    """Inception-B, which keeps the map at 1024 x 17 x 17."""
    conv = factory.conv
    return branches(
        branch0=conv("1x1", 384),
        branch1=(conv("1x1", 192), conv("1x7", 224), conv("7x1", 256)),
        branch2=(
            conv("1x1", 192),
            conv("7x1", 192),
            conv("1x7", 224),
            conv("7x1", 224),
            conv("1x7", 256),
        ),
        branch3=(AvgPool(), conv("1x1", 128)),
    )


def _reduction_b(factory: ConvFactory) -> Concat:
    """Reduction-B, map 1024 x 17 x 17 to 1536 x 8 x 8."""
    conv, conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
    return branches(
        branch0=(conv("1x1", 192), conv3x3_stride2(192)),
        branch1=(conv("1x1", 256), conv("1x7", 256), conv("7x1", 320), conv3x3_stride2(320)),
        branch2=MaxPool(),
    )


def _inception_c(factory: ConvFactory) -> Concat:
    """Inception-C, which keeps the map at 1536 x 8 x 8; two branches each fork into two."""
    conv = factory.conv
    single = {"branch1_0": conv("1x1", 384)}
    double = {
        "branch2_0": conv("1x1", 384),
        "branch2_1": conv("3x1", 448),
        "branch2_2": conv("1x3", 512),
    }
    return concat(
        {"branch0": conv("1x1", 256)},
        {**single, "branch1_1a": conv("1x3", 256)},
        {**single, "branch1_1b": conv("3x1", 256)},
        {**double, "branch2_3a": conv("1x3", 256)},
        {**double, "branch2_3b": conv("3x1", 256)},
        {"branch3": (AvgPool(), conv("1x1", 256))},
    )


def _describe(  # noqa: PLR0913 -- the options of the model
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    head_hidden: int = 0,
    aux: bool = False,
    blocks_a: int = 4,
    blocks_b: int = 7,
    blocks_c: int = 3,
) -> Architecture:
    """Stem, 4 Inception-A, Reduction-A, 7 Inception-B, Reduction-B, 3 Inception-C."""
    factory = ConvFactory(width=width)
    layers_to_inception_b = (
        *stem(factory),
        *(_inception_a(factory) for _ in range(blocks_a)),
        reduction_a(factory, 192, 224, 256, 384),
        *(_inception_b(factory) for _ in range(blocks_b)),
    )
    layers = (
        *layers_to_inception_b,
        _reduction_b(factory),
        *(_inception_c(factory) for _ in range(blocks_c)),
    )
    # TF-slim puts the auxiliary head after the last Inception-B; the paper has no such head.
    auxiliary = auxiliary_head(
        "aux_logits", f"features.{len(layers_to_inception_b) - 1}", factory, num_classes
    )
    return Architecture(
        layers=sequential("features", layers),
        head=ClassifierHead(
            name="last_linear", num_classes=num_classes, dropout=dropout, hidden=head_hidden
        ),
        auxiliary=(auxiliary,) if aux else (),
    )


def auxiliary_head(
    name: str, input_layer: str, factory: ConvFactory, num_classes: int
) -> AuxiliaryHead:
    """TF-slim's head: 5x5 average pool (stride 3), 1x1 and 5x5 convolutions, a linear layer.

    The weight of its loss is 0.4.
    """
    convs = {"conv0": factory.conv("1x1", 128), "conv1": factory.conv("5x5", 768, padding=VALID)}
    return AuxiliaryHead(
        name=name, input_layer=input_layer, convs=convs, num_classes=num_classes, weight=0.4
    )


_TIMM = Preprocess(input_size=(299, 299), crop_fraction=0.875, interpolation="bicubic")
_CADENE = Preprocess(input_size=(299, 299), crop_fraction=0.875)
_SLIM = Preprocess(input_size=(299, 299), crop_fraction=0.875, crop="before_resize")

MODELS = (
    ModelSpec(
        name="inception_v4",
        title="Inception-v4",
        paper="Szegedy et al., AAAI 2017, arXiv 1602.07261",
        describe=_describe,
        build=builder(_describe),
        options=default_options(_describe),
        variants=(
            Variant(name="TF-slim", num_parameters=42_679_816, gmacs=12.254, input_size=(299, 299)),
        ),
        families=(
            CheckpointFamily(
                name="timm",
                preprocess=_TIMM,
                published=(_published.timm("inception_v4.tf_in1k", 80.144, 94.982),),
            ),
            CheckpointFamily(
                name="cadene",
                preprocess=_CADENE,
                num_background=1,
                published=(
                    _published.cadene(
                        "inceptionv4-8e4777a0", "Apache-2.0 (ported from TF-slim)", 80.062, 94.926
                    ),
                ),
            ),
            CheckpointFamily(
                name="slim",
                preprocess=_SLIM,
                num_background=1,
                published=(_published.slim("inception_v4_2016_09_09", 80.2, 95.2),),
            ),
        ),
    ),
)
