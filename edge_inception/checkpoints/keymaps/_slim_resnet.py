"""TF-slim's names of Inception-ResNet-v2, and davidsandberg's of FaceNet's Inception-ResNet-v1.

The last 1x1 of a block has biases and no batch norm. The variables of FaceNet's classifier lie
outside the scope (name prefix) of the network.
"""

from __future__ import annotations

from edge_inception.checkpoints.keymaps._keymap import placed, spelled
from edge_inception.checkpoints.keymaps._slim import NORM, PLAIN, REDUCTION_A, auxiliary, key_map

_5B = {
    "Branch_0/Conv2d_1x1": "branch0",
    "Branch_1/Conv2d_0a_1x1": "branch1.0",
    "Branch_1/Conv2d_0b_5x5": "branch1.1",
    "Branch_2/Conv2d_0a_1x1": "branch2.0",
    "Branch_2/Conv2d_0b_3x3": "branch2.1",
    "Branch_2/Conv2d_0c_3x3": "branch2.2",
    "Branch_3/Conv2d_0b_1x1": "branch3.1",
}
_BLOCK35 = {
    "Branch_0/Conv2d_1x1": "branch0",
    "Branch_1/Conv2d_0a_1x1": "branch1.0",
    "Branch_1/Conv2d_0b_3x3": "branch1.1",
    "Branch_2/Conv2d_0a_1x1": "branch2.0",
    "Branch_2/Conv2d_0b_3x3": "branch2.1",
    "Branch_2/Conv2d_0c_3x3": "branch2.2",
}
_BLOCK17 = {
    "Branch_0/Conv2d_1x1": "branch0",
    "Branch_1/Conv2d_0a_1x1": "branch1.0",
    "Branch_1/Conv2d_0b_1x7": "branch1.1",
    "Branch_1/Conv2d_0c_7x1": "branch1.2",
}
_BLOCK8 = {
    "Branch_0/Conv2d_1x1": "branch0",
    "Branch_1/Conv2d_0a_1x1": "branch1.0",
    "Branch_1/Conv2d_0b_1x3": "branch1.1",
    "Branch_1/Conv2d_0c_3x1": "branch1.2",
}
_REDUCTION_B = {
    "Branch_0/Conv2d_0a_1x1": "branch0.0",
    "Branch_0/Conv2d_1a_3x3": "branch0.1",
    "Branch_1/Conv2d_0a_1x1": "branch1.0",
    "Branch_1/Conv2d_1a_3x3": "branch1.1",
    "Branch_2/Conv2d_0a_1x1": "branch2.0",
    "Branch_2/Conv2d_0b_3x3": "branch2.1",
    "Branch_2/Conv2d_1a_3x3": "branch2.2",
}
_STEM = {
    "Conv2d_1a_3x3": "conv2d_1a",
    "Conv2d_2a_3x3": "conv2d_2a",
    "Conv2d_2b_3x3": "conv2d_2b",
    "Conv2d_3b_1x1": "conv2d_3b",
    "Conv2d_4a_3x3": "conv2d_4a",
}


def _repeats(names: tuple[str, str, str], counts: tuple[int, int, int]) -> list[dict[str, str]]:
    """TF-slim's scope of each block35, block17 and block8 -> our path, in this order of kinds."""
    theirs = ("Repeat/block35", "Repeat_1/block17", "Repeat_2/block8")
    return [
        {f"{scope}_{index + 1}": f"{name}.{index}" for index in range(count)}
        for scope, name, count in zip(theirs, names, counts, strict=True)
    ]


def _resnet(
    names: tuple[str, str, str], counts: tuple[int, int, int]
) -> tuple[dict[str, str], dict[str, str]]:
    """TF-slim's name -> ours of the convolutions with batch norm, and of those with biases."""
    block35, block17, block8 = _repeats(names, counts)
    block8["Block8"] = "block8"
    convs = {
        **_STEM,
        **placed(block35, _BLOCK35),
        **placed({"Mixed_6a": "mixed_6a"}, REDUCTION_A),
        **placed(block17, _BLOCK17),
        **placed({"Mixed_7a": "mixed_7a"}, _REDUCTION_B),
        **placed(block8, _BLOCK8),
    }
    return convs, placed(block35 | block17 | block8, {"Conv2d_1x1": "conv2d"})


_R1, _R1_LINEAR = _resnet(("repeat_1", "repeat_2", "repeat_3"), (5, 10, 5))
_R2, _R2_LINEAR = _resnet(("repeat", "repeat_1", "repeat_2"), (10, 20, 9))
_R2 |= {
    **placed({"Mixed_5b": "mixed_5b"}, _5B),
    "Conv2d_7b_1x1": "conv2d_7b",
    **auxiliary("Conv2d_1b_1x1", "Conv2d_2a_5x5", "aux_logits"),
}
_R1 |= {"Conv2d_4b_3x3": "conv2d_4b"}
_SCOPE = "InceptionResnetV1"
_BOTTLENECK = {f"{_SCOPE}/Bottleneck/weights": "last_linear.weight"} | {
    f"{_SCOPE}/Bottleneck{theirs}": f"last_bn.{ours}" for theirs, ours in NORM.items()
}

FACENET = key_map(_SCOPE, _R1, _R1_LINEAR, _BOTTLENECK | spelled({"Logits": "logits"}, PLAIN))
RESNET_V2 = key_map(
    "InceptionResnetV2",
    _R2,
    _R2_LINEAR | {"Logits/Logits": "classif", "AuxLogits/Logits": "aux_logits.fc"},
)
