"""ResNet-50, -101 and -152, the first residual networks, with torchvision's state-dict keys.

Source: He et al., CVPR 2016 (arXiv 1512.03385), table 1, projection shortcuts (option B). The paper
puts a block's stride into the first 1x1, torchvision into the 3x3. Shapes are [C, H, W] of feature
maps for a 224 x 224 input at width 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from edge_inception.models import _published
from edge_inception.models._builder import builder, default_options
from edge_inception.models._layers import (
    RESNET_NORM_EPS,
    Architecture,
    BatchNorm,
    Bottleneck,
    ClassifierHead,
    Layer,
    MaxPool,
    PlainConv,
    parse_option,
    scale_channels,
    sequential,
)
from edge_inception.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CheckpointFamily,
    Interpolation,
    ModelSpec,
    Preprocess,
    PublishedCheckpoint,
    Variant,
)

_FILTERS = (64, 128, 256, 512)


def _describe(
    blocks: tuple[int, int, int, int],
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
    head_hidden: int = 0,
    stride_in: str = "3x3",
) -> Architecture:
    """A 7x7 convolution, a max pool and four stages of bottleneck blocks.

    Raises:
        ValueError: ``stride_in`` is neither 1x1 nor 3x3.
    """
    parse_option("stride_in", stride_in, {"1x1": "1x1", "3x3": "3x3"})
    layers: dict[str, Layer] = {
        "conv1": PlainConv(scale_channels(64, width), (7, 7), 2),  # 64 x 112 x 112
        "bn1": BatchNorm(RESNET_NORM_EPS),
        "maxpool": MaxPool(padding=1),  # 64 x 56 x 56
    }
    for number, (count, filters) in enumerate(zip(blocks, _FILTERS, strict=True), start=1):
        # 256 x 56 x 56, 512 x 28 x 28, 1024 x 14 x 14, 2048 x 7 x 7
        stride, channels = 1 if number == 1 else 2, scale_channels(filters, width)
        first = Bottleneck(channels, stride, stride_in, has_projection=True)
        rest = (Bottleneck(channels),) * (count - 1)
        layers |= sequential(f"layer{number}", (first, *rest))
    return Architecture(
        layers=layers,
        head=ClassifierHead(
            name="fc", num_classes=num_classes, dropout=dropout, hidden=head_hidden
        ),
    )


_SIZE = (224, 224)


def _preprocess(crop_fraction: float, interpolation: Interpolation) -> Preprocess:
    return Preprocess(
        input_size=_SIZE,
        crop_fraction=crop_fraction,
        interpolation=interpolation,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


# The families have the same tensor names and network, but resize images differently. What is here
# for timm holds for its training recipes a1 and a2, and for a1h except that of resnet50; timm
# states their accuracies at 288 x 288 with crop fraction 1.
_PREPROCESS = {
    "torchvision": _preprocess(224 / 256, "bilinear"),
    "torchvision_v2": _preprocess(224 / 232, "bilinear"),
    "timm": _preprocess(0.95, "bicubic"),
}


def _timm(name: str, top1: float, top5: float) -> PublishedCheckpoint:
    claim = f"top-1 {top1} %, top-5 {top5} % at 288 x 288, crop 1"
    return replace(_published.timm(name, top1, top5), top1=None, top5=None, claim=claim)


def _spec(
    depth: int,
    blocks: tuple[int, int, int, int],
    num_parameters: int,
    gmacs: float,
    published: Mapping[str, PublishedCheckpoint],
) -> ModelSpec:
    """The record of the ResNet with ``depth`` layers; ``published`` maps family to checkpoint."""
    describe: Callable[..., Architecture] = partial(_describe, blocks)
    return ModelSpec(
        name=f"resnet{depth}",
        title=f"ResNet-{depth}",
        paper="He et al., CVPR 2016, arXiv 1512.03385",
        describe=describe,
        build=builder(describe),
        options=default_options(describe),
        variants=(
            Variant(
                name="torchvision (v1.5)",
                num_parameters=num_parameters,
                gmacs=gmacs,
                input_size=_SIZE,
            ),
        ),
        families=tuple(
            CheckpointFamily(
                name=name,
                preprocess=preprocess,
                published=(published[name],) if name in published else (),
            )
            for name, preprocess in _PREPROCESS.items()
        ),
    )


MODELS = (
    _spec(
        50,
        (3, 4, 6, 3),
        25_557_032,
        4.089,
        {
            "torchvision": _published.torchvision(
                "ResNet50_Weights.IMAGENET1K_V1", "resnet50-0676ba61", 76.130, 92.862
            ),
            "torchvision_v2": _published.torchvision(
                "ResNet50_Weights.IMAGENET1K_V2", "resnet50-11ad3fa6", 80.858, 95.434
            ),
            "timm": _timm("resnet50.a1_in1k", 81.240, 95.112),
        },
    ),
    _spec(
        101,
        (3, 4, 23, 3),
        44_549_160,
        7.801,
        {
            "torchvision": _published.torchvision(
                "ResNet101_Weights.IMAGENET1K_V1", "resnet101-63fe2227", 77.374, 93.546
            ),
            "torchvision_v2": _published.torchvision(
                "ResNet101_Weights.IMAGENET1K_V2", "resnet101-cd907fc2", 81.886, 95.780
            ),
        },
    ),
    _spec(
        152,
        (3, 8, 36, 3),
        60_192_808,
        11.514,
        {
            "torchvision": _published.torchvision(
                "ResNet152_Weights.IMAGENET1K_V1", "resnet152-394f9c45", 78.312, 94.046
            ),
            "torchvision_v2": _published.torchvision(
                "ResNet152_Weights.IMAGENET1K_V2", "resnet152-f82ba261", 82.284, 96.002
            ),
            "timm": _timm("resnet152.a1h_in1k", 83.494, 96.522),
        },
    ),
)
