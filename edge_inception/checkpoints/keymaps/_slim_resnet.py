"""TF-slim's names of Inception-ResNet-v2, and davidsandberg's of FaceNet's Inception-ResNet-v1.

The last 1x1 of a block has biases and no batch norm. The variables of FaceNet's classifier lie
outside the scope (name prefix) of the network.
"""

from __future__ import annotations

from edge_inception.checkpoints.keymaps._keymap import expand_tensors, nest_units
from edge_inception.checkpoints.keymaps._slim import (
    BIASED_TENSORS,
    NORM_TENSORS,
    REDUCTION_A,
    auxiliary_convs,
    branches,
    key_map,
)

_MIXED_5B = branches("1x1", "0a_1x1 0b_5x5", "0a_1x1 0b_3x3 0c_3x3", "pool 0b_1x1")
_BLOCK35 = branches("1x1", "0a_1x1 0b_3x3", "0a_1x1 0b_3x3 0c_3x3")
_BLOCK17 = branches("1x1", "0a_1x1 0b_1x7 0c_7x1")
_BLOCK8 = branches("1x1", "0a_1x1 0b_1x3 0c_3x1")
_REDUCTION_B = branches("0a_1x1 1a_3x3", "0a_1x1 1a_3x3", "0a_1x1 0b_3x3 1a_3x3")
_STEM = {
    "Conv2d_1a_3x3": "conv2d_1a",
    "Conv2d_2a_3x3": "conv2d_2a",
    "Conv2d_2b_3x3": "conv2d_2b",
    "Conv2d_3b_1x1": "conv2d_3b",
    "Conv2d_4a_3x3": "conv2d_4a",
}


def _convs(
    names: tuple[str, str, str], counts: tuple[int, int, int]
) -> tuple[dict[str, str], dict[str, str]]:
    """TF-slim's name -> ours of the convolutions with batch norm, and of those with biases.

    ``names`` are our paths of the blocks 35, 17 and 8, ``counts`` their numbers.
    """
    scopes = ("Repeat/block35", "Repeat_1/block17", "Repeat_2/block8")
    block35, block17, block8 = (
        {f"{scope}_{index + 1}": f"{name}.{index}" for index in range(count)}
        for scope, name, count in zip(scopes, names, counts, strict=True)
    )
    block8["Block8"] = "block8"
    with_norm = {
        **_STEM,
        **nest_units(block35, _BLOCK35),
        **nest_units({"Mixed_6a": "mixed_6a"}, REDUCTION_A),
        **nest_units(block17, _BLOCK17),
        **nest_units({"Mixed_7a": "mixed_7a"}, _REDUCTION_B),
        **nest_units(block8, _BLOCK8),
    }
    return with_norm, nest_units(block35 | block17 | block8, {"Conv2d_1x1": "conv2d"})


_V1_CONVS, _V1_BIASED = _convs(("repeat_1", "repeat_2", "repeat_3"), (5, 10, 5))
_V2_CONVS, _V2_BIASED = _convs(("repeat", "repeat_1", "repeat_2"), (10, 20, 9))
_V1_CONVS |= {"Conv2d_4b_3x3": "conv2d_4b"}
_V2_CONVS |= {
    **nest_units({"Mixed_5b": "mixed_5b"}, _MIXED_5B),
    "Conv2d_7b_1x1": "conv2d_7b",
    **auxiliary_convs("Conv2d_1b_1x1", "Conv2d_2a_5x5", "aux_logits"),
}
_V1_SCOPE = "InceptionResnetV1"
_FACENET_HEAD = {
    f"{_V1_SCOPE}/Bottleneck/weights": "last_linear.weight",
    **{f"{_V1_SCOPE}/Bottleneck{name}": f"last_bn.{ours}" for name, ours in NORM_TENSORS.items()},
    **expand_tensors({"Logits": "logits"}, BIASED_TENSORS),
}

FACENET = key_map(_V1_SCOPE, _V1_CONVS, _V1_BIASED, _FACENET_HEAD)
RESNET_V2 = key_map(
    "InceptionResnetV2",
    _V2_CONVS,
    _V2_BIASED | {"Logits/Logits": "classif", "AuxLogits/Logits": "aux_logits.fc"},
)
