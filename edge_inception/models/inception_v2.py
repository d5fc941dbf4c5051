"""Inception-v2, which is BN-Inception: the network that introduced batch normalisation.

Source: Ioffe and Szegedy, ICML 2015 (arXiv 1502.03167), figure 5. The figure prints 576 output
channels for blocks 4c and 4d, but their filters add up to 608. Caffe and Cadene kept these filters,
TF-slim the 576 channels. TF-slim's first layer is a separable convolution. The state-dict keys are
our own: they nest modules, and no published checkpoint of this network does. Shapes are [C, H, W]
of feature maps for a 224 x 224 input at width 1.
"""

from __future__ import annotations

from typing import NamedTuple

from edge_inception.models import _published
from edge_inception.models._builder import builder, default_options
from edge_inception.models._layers import (
    SYMMETRIC,
    TF_SAME,
    Architecture,
    AvgPool,
    ClassifierHead,
    Concat,
    ConvFactory,
    Layer,
    MaxPool,
    SeparableConv,
    Unit,
    concat,
    parse_option,
)
from edge_inception.spec import CheckpointFamily, ModelSpec, Options, Preprocess, Variant


class _Row(NamedTuple):
    """Filters of each convolution in a block; a reduction has no ``conv1x1`` and ``pool_proj``."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce_double3x3: int
    double3x3: int
    pool_proj: int


_TABLE = {
    "3a": _Row(64, 64, 64, 64, 96, 32),  # 256 x 28 x 28
    "3b": _Row(64, 64, 96, 64, 96, 64),  # 320
    "3c": _Row(0, 128, 160, 64, 96, 0),  # 576 x 14 x 14
    "4a": _Row(224, 64, 96, 96, 128, 128),
    "4b": _Row(192, 96, 128, 96, 128, 128),
    "4c": _Row(160, 128, 160, 128, 160, 128),  # 608
    "4d": _Row(96, 128, 192, 160, 192, 128),
    "4e": _Row(0, 128, 192, 192, 256, 0),  # 1056 x 7 x 7
    "5a": _Row(352, 192, 320, 160, 224, 128),  # 1024
    "5b": _Row(352, 192, 320, 192, 224, 128),
}
_ROWS_OF_576 = {name: _TABLE[name]._replace(pool_proj=96) for name in ("4c", "4d")}
_MAX_POOL_BLOCK = "5b"  # the block whose pool branch takes the maximum, not the average


def _reduction(factory: ConvFactory, row: _Row) -> Concat:
    """A block that halves height and width; its pool branch keeps all channels of the input."""
    conv = factory.conv
    return concat(
        {"3x3_reduce": conv("1x1", row.reduce3x3), "3x3": conv("3x3", row.conv3x3, 2)},
        {
            "double_3x3_reduce": conv("1x1", row.reduce_double3x3),
            "double_3x3_1": conv("3x3", row.double3x3),
            "double_3x3_2": conv("3x3", row.double3x3, 2),
        },
        {"pool": MaxPool(ceil_mode=True)},
    )


def _block(factory: ConvFactory, row: _Row, pool: Unit) -> Concat:
    conv = factory.conv
    return concat(
        {"1x1": conv("1x1", row.conv1x1)},
        {"3x3_reduce": conv("1x1", row.reduce3x3), "3x3": conv("3x3", row.conv3x3)},
        {
            "double_3x3_reduce": conv("1x1", row.reduce_double3x3),
            "double_3x3_1": conv("3x3", row.double3x3),
            "double_3x3_2": conv("3x3", row.double3x3),
        },
        {"pool": pool, "pool_proj": conv("1x1", row.pool_proj)},
    )


def _describe(  # noqa: PLR0913 -- the options of the model
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    head_hidden: int = 0,
    channels: int = 608,
    stem: str = "full",
    padding: str = "symmetric",
    count_include_pad: bool = True,
    conv_bias: bool = True,
    batch_norm_eps: float = 1e-5,
) -> Architecture:
    """A stem and ten blocks, of which 3c and 4e halve height and width.

    Raises:
        ValueError: ``padding``, ``channels`` or ``stem`` is none of its choices.
    """
    pad = parse_option("padding", padding, {"symmetric": SYMMETRIC, "tf_same": TF_SAME})
    rows = _TABLE | parse_option("channels", channels, {608: {}, 576: _ROWS_OF_576})
    is_separable = parse_option("stem", stem, {"full": False, "separable": True})
    factory = ConvFactory(width=width, padding=pad, has_bias=conv_bias, norm_eps=batch_norm_eps)
    conv = factory.conv
    first_conv: Layer = conv("7x7", 64, 2)
    if is_separable:
        first_conv = SeparableConv(factory.scale_channels(64), (7, 7), 2, multiplier=8, padding=pad)
    layers: dict[str, Layer] = {
        "conv1_7x7_s2": first_conv,  # 64 x 112 x 112
        "pool1": MaxPool(ceil_mode=True),  # 64 x 56 x 56
        "conv2_3x3_reduce": conv("1x1", 64),
        "conv2_3x3": conv("3x3", 192),  # 192 x 56 x 56
        "pool2": MaxPool(ceil_mode=True),  # 192 x 28 x 28
    }
    average = AvgPool(count_include_pad=count_include_pad)
    for name, row in rows.items():
        pool = MaxPool(3, 1, padding=1) if name == _MAX_POOL_BLOCK else average
        layers[f"inception_{name}"] = (
            _block(factory, row, pool) if row.conv1x1 else _reduction(factory, row)
        )
    return Architecture(
        layers=layers,
        head=ClassifierHead(
            name="last_linear", num_classes=num_classes, dropout=dropout, hidden=head_hidden
        ),
    )


_SIZE = (224, 224)
_SLIM: Options = {
    "channels": 576,
    "stem": "separable",
    "padding": "tf_same",
    "count_include_pad": False,
    "conv_bias": False,
    "batch_norm_eps": 1e-3,
}
_MAX_PIXEL = 255.0

MODELS = (
    ModelSpec(
        name="inception_v2",
        title="Inception-v2 (BN-Inception)",
        paper="Ioffe and Szegedy, ICML 2015, arXiv 1502.03167",
        describe=_describe,
        build=builder(_describe),
        options=default_options(_describe),
        variants=(
            Variant(name="Caffe, 608", num_parameters=11_295_240, gmacs=2.033, input_size=_SIZE),
            Variant(
                name="576, full stem",
                num_parameters=11_194_984,
                gmacs=2.019,
                input_size=_SIZE,
                options={"channels": 576, "conv_bias": False},
            ),
            Variant(
                name="TF-slim",
                num_parameters=11_188_224,
                gmacs=1.935,
                input_size=_SIZE,
                options=_SLIM,
            ),
        ),
        families=(
            CheckpointFamily(
                name="native",
                preprocess=Preprocess(input_size=_SIZE, crop_fraction=0.875),
            ),
            CheckpointFamily(
                name="cadene",
                preprocess=Preprocess(
                    input_size=_SIZE,
                    crop_fraction=0.875,
                    mean=(104 / _MAX_PIXEL, 117 / _MAX_PIXEL, 128 / _MAX_PIXEL),
                    std=(1 / _MAX_PIXEL, 1 / _MAX_PIXEL, 1 / _MAX_PIXEL),
                    channel_order="BGR",
                ),
                published=(
                    _published.cadene(
                        "bn_inception-52deb4733", "BSD-3-Clause (ported from Caffe)", 73.524, 91.562
                    ),
                ),
            ),
            CheckpointFamily(
                name="slim",
                preprocess=Preprocess(input_size=_SIZE, crop_fraction=0.875, crop="before_resize"),
                options=_SLIM,
                num_background=1,
                published=(_published.slim("inception_v2_2016_08_28", 73.9, 91.8),),
            ),
        ),
    ),
)
