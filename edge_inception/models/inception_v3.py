"""Inception-v3 as released by TF-slim, Keras and torchvision, with torchvision's state-dict keys.

Source: Szegedy et al., CVPR 2016 (arXiv 1512.00567), figures 5 to 7 and 10. The stem is that of the
released models, which differs from table 1 of the paper. Shapes are [C, H, W] of feature maps for a
299 x 299 input at width 1 (``width`` scales all channel counts).
"""

from __future__ import annotations

from edge_inception.models import _published
from edge_inception.models._builder import builder, default_options
from edge_inception.models._layers import (
    VALID,
    Architecture,
    AvgPool,
    ClassifierHead,
    Concat,
    ConvFactory,
    Layer,
    MaxPool,
    concat,
)
from edge_inception.models.inception_v4 import auxiliary_head
from edge_inception.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CheckpointFamily,
    ModelSpec,
    Preprocess,
    Variant,
)


class _Blocks:
    """The blocks that torchvision calls InceptionA to InceptionE.

    Their average pools share ``count_include_pad``.
    """

    def __init__(self, factory: ConvFactory, *, count_include_pad: bool) -> None:
        self._conv, self._conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
        self._pool = AvgPool(count_include_pad=count_include_pad)

    def inception_a(self, pool_features: int) -> Concat:
        """Block that keeps the map at 35 x 35; figure 5, but one branch has a 5x5 convolution."""
        conv = self._conv
        return concat(
            {"branch1x1": conv("1x1", 64)},
            {"branch5x5_1": conv("1x1", 48), "branch5x5_2": conv("5x5", 64)},
            {
                "branch3x3dbl_1": conv("1x1", 64),
                "branch3x3dbl_2": conv("3x3", 96),
                "branch3x3dbl_3": conv("3x3", 96),
            },
            {"pool": self._pool, "branch_pool": conv("1x1", pool_features)},
        )

    def inception_b(self) -> Concat:
        """Reduction block, map 288 x 35 x 35 to 768 x 17 x 17; figure 10."""
        return concat(
            {"branch3x3": self._conv3x3_stride2(384)},
            {
                "branch3x3dbl_1": self._conv("1x1", 64),
                "branch3x3dbl_2": self._conv("3x3", 96),
                "branch3x3dbl_3": self._conv3x3_stride2(96),
            },
            {"pool": MaxPool()},
        )

    def inception_c(self, channels_7x7: int) -> Concat:
        """Block that keeps the map at 768 x 17 x 17; figure 6 with n = 7."""
        conv = self._conv
        return concat(
            {"branch1x1": conv("1x1", 192)},
            {
                "branch7x7_1": conv("1x1", channels_7x7),
                "branch7x7_2": conv("1x7", channels_7x7),
                "branch7x7_3": conv("7x1", 192),
            },
            {
                "branch7x7dbl_1": conv("1x1", channels_7x7),
                "branch7x7dbl_2": conv("7x1", channels_7x7),
                "branch7x7dbl_3": conv("1x7", channels_7x7),
                "branch7x7dbl_4": conv("7x1", channels_7x7),
                "branch7x7dbl_5": conv("1x7", 192),
            },
            {"pool": self._pool, "branch_pool": conv("1x1", 192)},
        )

    def inception_d(self) -> Concat:
        """Reduction block, map 768 x 17 x 17 to 1280 x 8 x 8."""
        conv = self._conv
        return concat(
            {"branch3x3_1": conv("1x1", 192), "branch3x3_2": self._conv3x3_stride2(320)},
            {
                "branch7x7x3_1": conv("1x1", 192),
                "branch7x7x3_2": conv("1x7", 192),
                "branch7x7x3_3": conv("7x1", 192),
                "branch7x7x3_4": self._conv3x3_stride2(192),
            },
            {"pool": MaxPool()},
        )

    def inception_e(self) -> Concat:
        """Block, 8 x 8 map to 2048 x 8 x 8; figure 7, where two branches each fork into two."""
        conv = self._conv
        single = {"branch3x3_1": conv("1x1", 384)}
        double = {"branch3x3dbl_1": conv("1x1", 448), "branch3x3dbl_2": conv("3x3", 384)}
        return concat(
            {"branch1x1": conv("1x1", 320)},
            {**single, "branch3x3_2a": conv("1x3", 384)},
            {**single, "branch3x3_2b": conv("3x1", 384)},
            {**double, "branch3x3dbl_3a": conv("1x3", 384)},
            {**double, "branch3x3dbl_3b": conv("3x1", 384)},
            {"pool": self._pool, "branch_pool": conv("1x1", 192)},
        )


def _describe(  # noqa: PLR0913 -- the options of the model
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.5,
    head_hidden: int = 0,
    aux: bool = False,
    count_include_pad: bool = True,
    transform_input: bool = False,
) -> Architecture:
    """A stem, 3 blocks on 35 x 35 maps, a reduction, 4 on 17 x 17, a reduction, 2 on 8 x 8."""
    factory = ConvFactory(width=width)
    blocks = _Blocks(factory, count_include_pad=count_include_pad)
    conv, conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
    layers: dict[str, Layer] = {
        "Conv2d_1a_3x3": conv3x3_stride2(32),  # 32 x 149 x 149
        "Conv2d_2a_3x3": conv("3x3", 32, padding=VALID),  # 32 x 147 x 147
        "Conv2d_2b_3x3": conv("3x3", 64),  # 64 x 147 x 147
        "maxpool1": MaxPool(),  # 64 x 73 x 73
        "Conv2d_3b_1x1": conv("1x1", 80),  # 80 x 73 x 73
        "Conv2d_4a_3x3": conv("3x3", 192, padding=VALID),  # 192 x 71 x 71
        "maxpool2": MaxPool(),  # 192 x 35 x 35
        "Mixed_5b": blocks.inception_a(32),  # 256 x 35 x 35
        "Mixed_5c": blocks.inception_a(64),  # 288 x 35 x 35
        "Mixed_5d": blocks.inception_a(64),
        "Mixed_6a": blocks.inception_b(),  # 768 x 17 x 17
        "Mixed_6b": blocks.inception_c(128),
        "Mixed_6c": blocks.inception_c(160),
        "Mixed_6d": blocks.inception_c(160),
        "Mixed_6e": blocks.inception_c(192),
        "Mixed_7a": blocks.inception_d(),  # 1280 x 8 x 8
        "Mixed_7b": blocks.inception_e(),  # 2048 x 8 x 8
        "Mixed_7c": blocks.inception_e(),
    }
    auxiliary = auxiliary_head("AuxLogits", "Mixed_6e", factory, num_classes)
    return Architecture(
        layers=layers,
        head=ClassifierHead(
            name="fc", num_classes=num_classes, dropout=dropout, hidden=head_hidden
        ),
        auxiliary=(auxiliary,) if aux else (),
        is_input_transformed=transform_input,
    )


_SIZE = (299, 299)
_TIMM = Preprocess(input_size=_SIZE, crop_fraction=0.875, interpolation="bicubic")

MODELS = (
    ModelSpec(
        name="inception_v3",
        title="Inception-v3",
        paper="Szegedy et al., CVPR 2016, arXiv 1512.00567",
        describe=_describe,
        build=builder(_describe),
        options=default_options(_describe),
        variants=(
            Variant(name="released", num_parameters=23_834_568, gmacs=5.713, input_size=_SIZE),
            Variant(
                name="with auxiliary head",
                num_parameters=27_161_264,
                gmacs=5.713,
                input_size=_SIZE,
                options={"aux": True},
            ),
        ),
        families=(
            CheckpointFamily(
                name="timm",
                preprocess=_TIMM,
                published=(
                    _published.timm("inception_v3.tf_in1k", 77.866, 93.644),
                    _published.timm(
                        "inception_v3.gluon_in1k",
                        78.806,
                        94.372,
                        note=" (needs ImageNet mean and std)",
                    ),
                ),
            ),
            CheckpointFamily(
                name="torchvision",
                preprocess=Preprocess(
                    input_size=_SIZE, crop_fraction=299 / 342, mean=IMAGENET_MEAN, std=IMAGENET_STD
                ),
                options={"transform_input": True},
                published=(
                    _published.torchvision(
                        "Inception_V3_Weights.IMAGENET1K_V1",
                        "inception_v3_google-0cc3c7bd",
                        77.294,
                        93.450,
                    ),
                ),
            ),
            CheckpointFamily(
                name="slim",
                preprocess=Preprocess(input_size=_SIZE, crop_fraction=0.875, crop="before_resize"),
                options={"count_include_pad": False},
                num_background=1,
                published=(_published.slim("inception_v3_2016_08_28", 78.0, 93.9),),
            ),
            CheckpointFamily(
                name="keras",
                preprocess=Preprocess(input_size=_SIZE),
                options={"count_include_pad": False},
                published=(_published.keras("InceptionV3", 77.9, 93.7),),
            ),
        ),
    ),
)
