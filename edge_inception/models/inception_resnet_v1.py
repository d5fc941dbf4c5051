"""Inception-ResNet-v1, the paper's classifier or FaceNet's embedding, with facenet-pytorch's keys.

Source: Szegedy et al., AAAI 2017 (arXiv 1602.07261), figures 10 to 15 and table 1. FaceNet
(davidsandberg/facenet, timesler/facenet-pytorch) adds a last block without ReLU and a 512-value
embedding of unit length. Shapes are for a 299 x 299 input at width 1.
"""

from __future__ import annotations

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
    ClassifierHead,
    ConvFactory,
    EmbeddingHead,
    Head,
    Layer,
    MaxPool,
    parse_option,
    sequential,
)
from edge_inception.models.inception_v4 import reduction_a
from edge_inception.spec import (
    CheckpointFamily,
    ModelSpec,
    Preprocess,
    PublishedCheckpoint,
    Variant,
)

_FILTERS_A: BlockFilters = ((32,), (32, 32), (32, 32, 32))
_FILTERS_B: BlockFilters = ((128,), (128, 128, 128))
_FILTERS_C: BlockFilters = ((192,), (192, 192, 192))
_TAILS = ("paper", "facenet", "facenet-classifier")


def _stem(factory: ConvFactory) -> dict[str, Layer]:
    """The stem of figure 14, image 3 x 299 x 299 to map 256 x 35 x 35."""
    conv, conv3x3_stride2 = factory.conv, factory.conv3x3_stride2
    return {
        "conv2d_1a": conv3x3_stride2(32),  # 32 x 149 x 149
        "conv2d_2a": conv("3x3", 32, padding=VALID),  # 32 x 147 x 147
        "conv2d_2b": conv("3x3", 64),  # 64 x 147 x 147
        "maxpool_3a": MaxPool(),  # 64 x 73 x 73
        "conv2d_3b": conv("1x1", 80),
        "conv2d_4a": conv("3x3", 192, padding=VALID),  # 192 x 71 x 71
        "conv2d_4b": conv3x3_stride2(256),  # 256 x 35 x 35
    }


def _describe(  # noqa: PLR0913 -- the options of the model
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    head_hidden: int = 0,
    tail: str = "paper",
    scale_a: float = RESIDUAL_SCALES[0],
    scale_b: float = RESIDUAL_SCALES[1],
    scale_c: float = RESIDUAL_SCALES[2],
) -> Architecture:
    """Stem, 5 blocks A, Reduction-A, 10 blocks B, Reduction-B, 5 blocks C (FaceNet 6).

    Raises:
        ValueError: ``tail`` is none of paper, facenet and facenet-classifier.
    """
    is_paper = parse_option("tail", tail, {name: name == "paper" for name in _TAILS})
    factory = ConvFactory(width=width)
    layers: dict[str, Layer] = {
        **_stem(factory),
        **sequential("repeat_1", (block_a(factory, _FILTERS_A, scale_a),) * 5),
        "mixed_6a": reduction_a(factory, 192, 192, 256, 384),  # 896 x 17 x 17
        **sequential("repeat_2", (block_b(factory, _FILTERS_B, scale_b),) * 10),
        "mixed_7a": reduction_b(factory, 256, (256, 256)),  # 1792 x 8 x 8
        **sequential("repeat_3", (block_c(factory, _FILTERS_C, scale_c),) * 5),
    }
    head: Head
    if is_paper:
        head = ClassifierHead(
            name="last_linear", num_classes=num_classes, dropout=dropout, hidden=head_hidden
        )
    else:
        layers["block8"] = block_c(factory, _FILTERS_C, 1.0, has_relu=False)
        is_classifier = tail == "facenet-classifier"
        head = EmbeddingHead(dropout=dropout, num_classes=num_classes if is_classifier else None)
    return Architecture(layers=layers, head=head)


_FACE = (160, 160)
_FACE_PREPROCESS = Preprocess(input_size=_FACE, std=(128 / 255, 128 / 255, 128 / 255))

MODELS = (
    ModelSpec(
        name="inception_resnet_v1",
        title="Inception-ResNet-v1",
        paper="Szegedy et al., AAAI 2017, arXiv 1602.07261",
        describe=_describe,
        build=builder(_describe),
        options=default_options(_describe),
        variants=(
            Variant(name="paper", num_parameters=22_756_328, gmacs=6.206, input_size=(299, 299)),
            Variant(
                name="FaceNet embedding",
                num_parameters=23_482_624,
                gmacs=1.418,
                input_size=_FACE,
                options={"tail": "facenet"},
            ),
        ),
        families=(
            CheckpointFamily(
                name="native",
                preprocess=Preprocess(input_size=(299, 299), crop_fraction=0.875),
            ),
            CheckpointFamily(
                name="facenet",
                preprocess=_FACE_PREPROCESS,
                options={"tail": "facenet"},
                published=(
                    PublishedCheckpoint(
                        name="20180402-114759-vggface2",
                        url="https://github.com/timesler/facenet-pytorch",
                        licence="MIT",
                        claim="LFW accuracy 0.9965",
                        source="README of davidsandberg/facenet",
                    ),
                    PublishedCheckpoint(
                        name="20180408-102900-casia-webface",
                        url="https://github.com/timesler/facenet-pytorch",
                        licence="MIT",
                        claim="LFW accuracy 0.9905",
                        source="README of davidsandberg/facenet",
                    ),
                ),
            ),
            CheckpointFamily(
                name="slim",
                preprocess=_FACE_PREPROCESS,
                options={"tail": "facenet"},
            ),
        ),
    ),
)
