"""GoogLeNet, which is Inception-v1, with torchvision's state-dict keys.

Source: Szegedy et al., CVPR 2015 (arXiv 1409.4842), table 1. TF-slim and torchvision released other
forms: batch norm in place of local response norm, 3x3 where the table has 5x5, and a 2x2 pool
before the last two blocks. Shapes are [C, H, W] of feature maps for a 224 x 224 input at width 1.
"""

from __future__ import annotations

from typing import NamedTuple

from edge_inception.models import _published
from edge_inception.models._builder import builder, default_options
from edge_inception.models._layers import (
    NORM_EPS,
    SYMMETRIC,
    TF_SAME,
    Architecture,
    AuxiliaryHead,
    ClassifierHead,
    Concat,
    ConvFactory,
    Layer,
    LocalResponseNorm,
    MaxPool,
    branches,
    parse_option,
)
from edge_inception.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CheckpointFamily,
    ModelSpec,
    Options,
    Preprocess,
    Variant,
)


class _Row(NamedTuple):
    """Filters of each convolution in a block of table 1."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


_TABLE = {
    "3a": _Row(64, 96, 128, 16, 32, 32),  # 256 x 28 x 28
    "3b": _Row(128, 128, 192, 32, 96, 64),  # 480
    "4a": _Row(192, 96, 208, 16, 48, 64),  # 512 x 14 x 14
    "4b": _Row(160, 112, 224, 24, 64, 64),
    "4c": _Row(128, 128, 256, 24, 64, 64),
    "4d": _Row(112, 144, 288, 32, 64, 64),  # 528
    "4e": _Row(256, 160, 320, 32, 128, 128),  # 832
    "5a": _Row(256, 160, 320, 32, 128, 128),  # 832 x 7 x 7
    "5b": _Row(384, 192, 384, 48, 128, 128),  # 1024
}


def _block(factory: ConvFactory, row: _Row, kernel: int) -> Concat:
    """An Inception block of four branches; ``kernel`` is the third branch's kernel side, 3 or 5."""
    conv = factory.conv
    return branches(
        branch1=conv("1x1", row.conv1x1),
        branch2=(conv("1x1", row.reduce3x3), conv("3x3", row.conv3x3)),
        branch3=(conv("1x1", row.reduce5x5), conv(f"{kernel}x{kernel}", row.conv5x5)),
        branch4=(MaxPool(3, 1, padding=1, ceil_mode=True), conv("1x1", row.pool_proj)),
    )


def _describe(  # noqa: PLR0913 -- the options of the model
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    head_hidden: int = 0,
    aux: bool = False,
    norm: str = "bn",
    branch_kernel: int = 3,
    pool4_kernel: int = 2,
    padding: str = "symmetric",
    transform_input: bool = False,
) -> Architecture:
    """A stem, two blocks on 28 x 28 maps, five on 14 x 14, two on 7 x 7.

    Raises:
        ValueError: An option with a few choices has another value.
    """
    has_norm = parse_option("norm", norm, {"bn": True, "lrn": False})
    kernel = parse_option("branch_kernel", branch_kernel, {3: 3, 5: 5})
    pool4 = parse_option("pool4_kernel", pool4_kernel, {2: 2, 3: 3})
    factory = ConvFactory(
        width=width,
        padding=parse_option("padding", padding, {"symmetric": SYMMETRIC, "tf_same": TF_SAME}),
        has_bias=not has_norm,
        norm_eps=NORM_EPS if has_norm else None,
    )
    conv = factory.conv
    blocks = {f"inception{name}": _block(factory, row, kernel) for name, row in _TABLE.items()}
    layers: dict[str, Layer] = {
        "conv1": conv("7x7", 64, 2),  # 64 x 112 x 112
        "maxpool1": MaxPool(ceil_mode=True),  # 64 x 56 x 56
        "norm1": LocalResponseNorm(),
        "conv2": conv("1x1", 64),
        "conv3": conv("3x3", 192),  # 192 x 56 x 56
        "norm2": LocalResponseNorm(),
        "maxpool2": MaxPool(ceil_mode=True),  # 192 x 28 x 28
        **{name: block for name, block in blocks.items() if "3" in name},
        "maxpool3": MaxPool(ceil_mode=True),  # 480 x 14 x 14
        **{name: block for name, block in blocks.items() if "4" in name},
        "maxpool4": MaxPool(pool4, ceil_mode=True),  # 832 x 7 x 7
        **{name: block for name, block in blocks.items() if "5" in name},
    }
    if has_norm:
        del layers["norm1"], layers["norm2"]
    auxiliary = tuple(
        AuxiliaryHead(
            name=name,
            input_layer=input_layer,
            convs={"conv": conv("1x1", 128)},
            num_classes=num_classes,
            weight=0.3,  # section 5 of the paper
            hidden=factory.scale_channels(1024),
        )
        for name, input_layer in (("aux1", "inception4a"), ("aux2", "inception4d"))
    )
    return Architecture(
        layers=layers,
        head=ClassifierHead(
            name="fc", num_classes=num_classes, dropout=dropout, hidden=head_hidden
        ),
        auxiliary=auxiliary if aux else (),
        is_input_transformed=transform_input,
    )


_SIZE = (224, 224)
_PAPER: Options = {"norm": "lrn", "branch_kernel": 5, "pool4_kernel": 3, "dropout": 0.4}

MODELS = (
    ModelSpec(
        name="googlenet",
        title="GoogLeNet (Inception-v1)",
        paper="Szegedy et al., CVPR 2015, arXiv 1409.4842",
        describe=_describe,
        build=builder(_describe),
        options=default_options(_describe),
        variants=(
            Variant(name="torchvision", num_parameters=6_624_904, gmacs=1.498, input_size=_SIZE),
            Variant(
                name="torchvision with auxiliary heads",
                num_parameters=13_004_888,
                gmacs=1.498,
                input_size=_SIZE,
                options={"aux": True},
            ),
            Variant(
                name="paper (Caffe)",
                num_parameters=6_998_552,
                gmacs=1.583,
                input_size=_SIZE,
                options=_PAPER,
            ),
        ),
        families=(
            CheckpointFamily(
                name="torchvision",
                preprocess=Preprocess(
                    input_size=_SIZE, crop_fraction=224 / 256, mean=IMAGENET_MEAN, std=IMAGENET_STD
                ),
                options={"transform_input": True},
                published=(
                    _published.torchvision(
                        "GoogLeNet_Weights.IMAGENET1K_V1", "googlenet-1378be20", 69.778, 89.530
                    ),
                ),
            ),
            CheckpointFamily(
                name="slim",
                preprocess=Preprocess(input_size=_SIZE, crop_fraction=0.875, crop="before_resize"),
                options={"padding": "tf_same"},
                num_background=1,
                published=(_published.slim("inception_v1_2016_08_28", 69.8, 89.6),),
            ),
        ),
    ),
)
