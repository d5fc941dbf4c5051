"""Inception-v4 in the TF-slim order of layers, with the state-dict keys of timm.

Source: Szegedy et al., AAAI 2017 (arXiv 1602.07261), figures 3 to 9; where the released TF-slim
network differs (order of 1x7 and 7x1 in Inception-B, of 1x3 and 3x1 in Inception-C), the release.
Shapes are for a 299 x 299 input at width 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_inception.models._layers import (
    AvgPool,
    Concat,
    Conv,
    Layer,
    MaxPool,
    Unit,
    branches,
    widen,
)
from edge_inception.spec import (
    CheckpointFamily,
    ModelSpec,
    Preprocess,
    PublishedCheckpoint,
    Variant,
)

if TYPE_CHECKING:
    from torch import nn


BLOCKS = (4, 7, 3)


class _Tables:
    """The blocks of the paper with every channel count scaled by ``width``."""

    def __init__(self, width: float) -> None:
        self._width = width

    def conv(
        self, out: int, rows: int, columns: int, stride: int = 1, *, is_same: bool = True
    ) -> Conv:
        return Conv(widen(out, self._width), (rows, columns), stride, is_same)

    def reduce(self, out: int) -> Conv:
        """3x3, stride 2, VALID."""
        return self.conv(out, 3, 3, 2, is_same=False)

    def stem(self) -> tuple[Layer, ...]:
        """3 x 299 x 299 to 384 x 35 x 35."""
        conv, reduce = self.conv, self.reduce
        return (
            reduce(32),  # 32 x 149 x 149
            conv(32, 3, 3, is_same=False),  # 32 x 147 x 147
            conv(64, 3, 3),  # 64 x 147 x 147
            branches(maxpool=MaxPool(), conv=reduce(96)),  # 160 x 73 x 73
            branches(
                branch0=(conv(64, 1, 1), conv(96, 3, 3, is_same=False)),
                branch1=(
                    conv(64, 1, 1),
                    conv(64, 1, 7),
                    conv(64, 7, 1),
                    conv(96, 3, 3, is_same=False),
                ),
            ),  # 192 x 71 x 71
            branches(conv=reduce(192), maxpool=MaxPool()),  # 384 x 35 x 35
        )

    def inception_a(self) -> Concat:
        """384 x 35 x 35 to the same."""
        conv = self.conv
        return branches(
            branch0=conv(96, 1, 1),
            branch1=(conv(64, 1, 1), conv(96, 3, 3)),
            branch2=(conv(64, 1, 1), conv(96, 3, 3), conv(96, 3, 3)),
            branch3=(AvgPool(), conv(96, 1, 1)),
        )

    def reduction_a(self) -> Concat:
        """384 x 35 x 35 to 1024 x 17 x 17; k, l, m, n = 192, 224, 256, 384."""
        conv, reduce = self.conv, self.reduce
        return branches(
            branch0=reduce(384),
            branch1=(conv(192, 1, 1), conv(224, 3, 3), reduce(256)),
            branch2=MaxPool(),
        )

    def inception_b(self) -> Concat:
        """1024 x 17 x 17 to the same."""
        conv = self.conv
        return branches(
            branch0=conv(384, 1, 1),
            branch1=(conv(192, 1, 1), conv(224, 1, 7), conv(256, 7, 1)),
            branch2=(
                conv(192, 1, 1),
                conv(192, 7, 1),
                conv(224, 1, 7),
                conv(224, 7, 1),
                conv(256, 1, 7),
            ),
            branch3=(AvgPool(), conv(128, 1, 1)),
        )

    def reduction_b(self) -> Concat:
        """1024 x 17 x 17 to 1536 x 8 x 8."""
        conv, reduce = self.conv, self.reduce
        return branches(
            branch0=(conv(192, 1, 1), reduce(192)),
            branch1=(conv(256, 1, 1), conv(256, 1, 7), conv(320, 7, 1), reduce(320)),
            branch2=MaxPool(),
        )

    def inception_c(self) -> Concat:
        """1536 x 8 x 8 to the same; two branches end in a fork."""
        conv = self.conv
        units: dict[str, Unit] = {
            "branch0": conv(256, 1, 1),
            "branch1_0": conv(384, 1, 1),
            "branch1_1a": conv(256, 1, 3),
            "branch1_1b": conv(256, 3, 1),
            "branch2_0": conv(384, 1, 1),
            "branch2_1": conv(448, 3, 1),
            "branch2_2": conv(512, 1, 3),
            "branch2_3a": conv(256, 1, 3),
            "branch2_3b": conv(256, 3, 1),
            "branch3": (AvgPool(), conv(256, 1, 1)),
        }
        trunk = ("branch2_0", "branch2_1", "branch2_2")
        routes = (
            ("branch0",),
            ("branch1_0", "branch1_1a"),
            ("branch1_0", "branch1_1b"),
            (*trunk, "branch2_3a"),
            (*trunk, "branch2_3b"),
            ("branch3",),
        )
        return Concat(units, routes)


def features(width: float = 1.0, blocks: tuple[int, int, int] = BLOCKS) -> tuple[Layer, ...]:
    """All layers before the global average pool: 3 x 299 x 299 to 1536 x 8 x 8.

    Args:
        width: Factor on every channel count.
        blocks: How many Inception-A, -B and -C blocks; the paper's network has 4, 7, 3.
    """
    tables = _Tables(width)
    return (
        *tables.stem(),
        *(tables.inception_a() for _ in range(blocks[0])),
        tables.reduction_a(),
        *(tables.inception_b() for _ in range(blocks[1])),
        tables.reduction_b(),
        *(tables.inception_c() for _ in range(blocks[2])),
    )


def _build(
    *,
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.2,
    blocks_a: int = BLOCKS[0],
    blocks_b: int = BLOCKS[1],
    blocks_c: int = BLOCKS[2],
) -> nn.Module:
    from edge_inception.models._blocks import Classifier

    layers = features(width, (blocks_a, blocks_b, blocks_c))
    return Classifier(layers, num_classes=num_classes, dropout=dropout)


_PREPROCESS = Preprocess(input_size=(299, 299), crop_fraction=0.875, interpolation="bicubic")

MODELS = (
    ModelSpec(
        name="inception_v4",
        title="Inception-v4",
        paper="Szegedy et al., AAAI 2017, arXiv 1602.07261",
        build=_build,
        options={
            "width": 1.0,
            "dropout": 0.2,
            "blocks_a": BLOCKS[0],
            "blocks_b": BLOCKS[1],
            "blocks_c": BLOCKS[2],
        },
        variants=(
            Variant(name="TF-slim", num_parameters=42_679_816, gmacs=12.254, input_size=(299, 299)),
        ),
        families=(
            CheckpointFamily(
                name="timm",
                preprocess=_PREPROCESS,
                published=(
                    PublishedCheckpoint(
                        name="inception_v4.tf_in1k",
                        url="https://huggingface.co/timm/inception_v4.tf_in1k",
                        licence="Apache-2.0",
                        top1=80.144,
                        top5=94.982,
                        source="timm results csv at aa4b5850",
                    ),
                ),
            ),
        ),
    ),
)
