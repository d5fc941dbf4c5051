"""Inception-ResNet-v2, as TF-slim released it or as the paper draws it; keys are timm's.

Source: Szegedy et al., AAAI 2017 (arXiv 1602.07261), figures 3 and 15 to 19, table 1. The released
network differs from the paper: more blocks, fewer channels, another stem, a last 1x1 convolution.
Figures 17 and 19 print 1154 and 2048 channels where the filters add up to 1152 and 2144.
Shapes are [C, H, W] of feature maps for a 299 x 299 input at width 1.
"""

from __future__ import annotations

from edge_inception.models import _published
from edge_inception.models._builder import builder, default_options
from edge_inception.models._inception_resnet import (
    RESIDUAL_SCALES,
    BlockFilters,
    block_a,
    block_b,
    block_c,
    reduction_b,
)
from edge_inception.models._layers import (
    VALID,
    Architecture,
    AvgPool,
    ClassifierHead,
    ConvFactory,
    Layer,
    MaxPool,
    branches,
    parse_option,
    sequential,
)
from edge_inception.models.inception_v4 import auxiliary_head, reduction_a
from edge_inception.models.inception_v4 import stem as inception_v4_stem
from edge_inception.spec import CheckpointFamily, ModelSpec, Preprocess, Variant

_FILTERS_A: BlockFilters = ((32,), (32, 32), (32, 48, 64))
_FILTERS_B: BlockFilters = ((192,), (128, 160, 192))
_FILTERS_C: BlockFilters = ((192,), (192, 224, 256))


def _released_stem(factory: ConvFactory) -> dict[str, Layer]:
    """The released stem, image 3 x 299 x 299 to map 320 x 35 x 35."""
    conv, conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
    return {
        "conv2d_1a": conv3x3_stride2(32),  # 32 x 149 x 149
        "conv2d_2a": conv("3x3", 32, padding=VALID),  # 32 x 147 x 147
        "conv2d_2b": conv("3x3", 64),  # 64 x 147 x 147
        "maxpool_3a": MaxPool(),  # 64 x 73 x 73
        "conv2d_3b": conv("1x1", 80),
        "conv2d_4a": conv("3x3", 192, padding=VALID),  # 192 x 71 x 71
        "maxpool_5a": MaxPool(),  # 192 x 35 x 35
        "mixed_5b": branches(
            branch0=conv("1x1", 96),
            branch1=(conv("1x1", 48), conv("5x5", 64)),
            branch2=(conv("1x1", 64), conv("3x3", 96), conv("3x3", 96)),
            branch3=(AvgPool(), conv("1x1", 64)),
        ),  # 320 x 35 x 35
    }


def _describe(  # noqa: PLR0913 -- the options of the model
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    head_hidden: int = 0,
    aux: bool = False,
    form: str = "released",
    scale_a: float = RESIDUAL_SCALES[0],
    scale_b: float = RESIDUAL_SCALES[1],
    scale_c: float = RESIDUAL_SCALES[2],
) -> Architecture:
    """Stem, blocks A, Reduction-A, blocks B, Reduction-B, blocks C.

    The released form has 10, 20 and 10 blocks A, B and C, the paper's 5, 10 and 5.

    Raises:
        ValueError: ``form`` is neither released nor paper.
    """
    is_paper = parse_option("form", form, {"released": False, "paper": True})
    factory = ConvFactory(width=width)
    counts = (5, 10, 5) if is_paper else (10, 20, 9)
    stem = sequential("stem", inception_v4_stem(factory)) if is_paper else _released_stem(factory)
    layers: dict[str, Layer] = {
        **stem,
        **sequential("repeat", (block_a(factory, _FILTERS_A, scale_a),) * counts[0]),
        "mixed_6a": reduction_a(factory, 256, 256, 384, 384),  # 1088 or 1152 x 17 x 17
        **sequential("repeat_1", (block_b(factory, _FILTERS_B, scale_b),) * counts[1]),
        "mixed_7a": reduction_b(factory, 288, (288, 320)),  # 2080 or 2144 x 8 x 8
        **sequential("repeat_2", (block_c(factory, _FILTERS_C, scale_c),) * counts[2]),
    }
    if not is_paper:
        layers["block8"] = block_c(factory, _FILTERS_C, 1.0, has_relu=False)
        layers["conv2d_7b"] = factory.conv("1x1", 1536)
    auxiliary = auxiliary_head("aux_logits", f"repeat_1.{counts[1] - 1}", factory, num_classes)
    return Architecture(
        layers=layers,
        head=ClassifierHead(
            name="classif", num_classes=num_classes, dropout=dropout, hidden=head_hidden
        ),
        auxiliary=(auxiliary,) if aux else (),
    )


_SIZE = (299, 299)

MODELS = (
    ModelSpec(
        name="inception_resnet_v2",
        title="Inception-ResNet-v2",
        paper="Szegedy et al., AAAI 2017, arXiv 1602.07261",
        describe=_describe,
        build=builder(_describe),
        options=default_options(_describe),
        variants=(
            Variant(
                name="released (TF-slim)", num_parameters=55_843_464, gmacs=13.156, input_size=_SIZE
            ),
            Variant(
                name="paper",
                num_parameters=32_433_928,
                gmacs=9.258,
                input_size=_SIZE,
                options={"form": "paper"},
            ),
        ),
        families=(
            CheckpointFamily(
                name="timm",
                preprocess=Preprocess(
                    input_size=_SIZE, crop_fraction=0.8975, interpolation="bicubic"
                ),
                published=(_published.timm("inception_resnet_v2.tf_in1k", 80.434, 95.312),),
            ),
            CheckpointFamily(
                name="cadene",
                preprocess=Preprocess(input_size=_SIZE, crop_fraction=0.875),
                num_background=1,
                published=(
                    _published.cadene(
                        "inceptionresnetv2-520b38e4",
                        "Apache-2.0 (ported from TF-slim)",
                        80.170,
                        95.234,
                    ),
                ),
            ),
            CheckpointFamily(
                name="slim",
                preprocess=Preprocess(input_size=_SIZE, crop_fraction=0.875, crop="before_resize"),
                num_background=1,
                published=(_published.slim("inception_resnet_v2_2016_08_30", 80.4, 95.3),),
            ),
            CheckpointFamily(
                name="keras",
                preprocess=Preprocess(input_size=_SIZE),
                published=(_published.keras("InceptionResNetV2", 80.3, 95.3),),
            ),
        ),
    ),
)
