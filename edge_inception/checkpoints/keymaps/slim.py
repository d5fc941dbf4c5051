"""Variable names of TF-slim's Inception networks and of davidsandberg's FaceNet -> our keys.

The tables are written out where the names of a network are irregular. This code dumps a TensorFlow
checkpoint as npz::

    saved = tf.train.load_checkpoint("inception_v3.ckpt")
    np.savez("v3.npz", **{k: saved.get_tensor(k) for k in saved.get_variable_to_shape_map()})

Source: research/slim/nets of tensorflow/models; src/models of davidsandberg/facenet.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap, nest_units
from edge_inception.checkpoints.keymaps._slim import REDUCTION_A, auxiliary_convs, branches, key_map
from edge_inception.checkpoints.keymaps._slim_resnet import FACENET, RESNET_V2

# Inception-v1. slim's letters are one ahead of the paper's: Mixed_3b is the paper's 3a.
_V1_BLOCK = branches("0a_1x1", "0a_1x1 0b_3x3", "0a_1x1 0b_3x3", "pool 0b_1x1", first=1)
_V1_5A = branches("0a_1x1", "0a_1x1 0b_3x3", "0a_1x1 0a_3x3", "pool 0b_1x1", first=1)
_V1_SCOPES = {
    "Mixed_3b": "inception3a",
    "Mixed_3c": "inception3b",
    "Mixed_4b": "inception4a",
    "Mixed_4c": "inception4b",
    "Mixed_4d": "inception4c",
    "Mixed_4e": "inception4d",
    "Mixed_4f": "inception4e",
    "Mixed_5c": "inception5b",
}
_V1 = {
    "Conv2d_1a_7x7": "conv1",
    "Conv2d_2b_1x1": "conv2",
    "Conv2d_2c_3x3": "conv3",
    **nest_units(_V1_SCOPES, _V1_BLOCK),
    **nest_units({"Mixed_5b": "inception5a"}, _V1_5A),
}

# Inception-v2.
_V2_BLOCK = {
    "Branch_0/Conv2d_0a_1x1": "1x1",
    "Branch_1/Conv2d_0a_1x1": "3x3_reduce",
    "Branch_1/Conv2d_0b_3x3": "3x3",
    "Branch_2/Conv2d_0a_1x1": "double_3x3_reduce",
    "Branch_2/Conv2d_0b_3x3": "double_3x3_1",
    "Branch_2/Conv2d_0c_3x3": "double_3x3_2",
    "Branch_3/Conv2d_0b_1x1": "pool_proj",
}
_V2_REDUCTION = {
    "Branch_0/Conv2d_0a_1x1": "3x3_reduce",
    "Branch_0/Conv2d_1a_3x3": "3x3",
    "Branch_1/Conv2d_0a_1x1": "double_3x3_reduce",
    "Branch_1/Conv2d_0b_3x3": "double_3x3_1",
    "Branch_1/Conv2d_1a_3x3": "double_3x3_2",
}
_V2_SCOPES = {
    "Mixed_3b": "inception_3a",
    "Mixed_3c": "inception_3b",
    "Mixed_4b": "inception_4a",
    "Mixed_4c": "inception_4b",
    "Mixed_4d": "inception_4c",
    "Mixed_4e": "inception_4d",
    "Mixed_5b": "inception_5a",
    "Mixed_5c": "inception_5b",
}
_V2 = {
    "Conv2d_2b_1x1": "conv2_3x3_reduce",
    "Conv2d_2c_3x3": "conv2_3x3",
    **nest_units(_V2_SCOPES, _V2_BLOCK),
    **nest_units({"Mixed_4a": "inception_3c", "Mixed_5a": "inception_4e"}, _V2_REDUCTION),
}
_V2_STEM = {
    "InceptionV2/Conv2d_1a_7x7/depthwise_weights": "conv1_7x7_s2.depthwise.weight",
    "InceptionV2/Conv2d_1a_7x7/pointwise_weights": "conv1_7x7_s2.pointwise.weight",
    "InceptionV2/Conv2d_1a_7x7/biases": "conv1_7x7_s2.pointwise.bias",
}

# Inception-v3. All strided kernels of Mixed_6a are 3x3, although slim names them 1x1.
_V3_A = {
    "Branch_0/Conv2d_0a_1x1": "branch1x1",
    "Branch_1/Conv2d_0a_1x1": "branch5x5_1",
    "Branch_1/Conv2d_0b_5x5": "branch5x5_2",
    "Branch_2/Conv2d_0a_1x1": "branch3x3dbl_1",
    "Branch_2/Conv2d_0b_3x3": "branch3x3dbl_2",
    "Branch_2/Conv2d_0c_3x3": "branch3x3dbl_3",
    "Branch_3/Conv2d_0b_1x1": "branch_pool",
}
_V3_5C = {
    **{name: ours for name, ours in _V3_A.items() if not name.startswith("Branch_1")},
    "Branch_1/Conv2d_0b_1x1": "branch5x5_1",
    "Branch_1/Conv_1_0c_5x5": "branch5x5_2",
}
_V3_B = {
    "Branch_0/Conv2d_1a_1x1": "branch3x3",
    "Branch_1/Conv2d_0a_1x1": "branch3x3dbl_1",
    "Branch_1/Conv2d_0b_3x3": "branch3x3dbl_2",
    "Branch_1/Conv2d_1a_1x1": "branch3x3dbl_3",
}
_V3_C = {
    "Branch_0/Conv2d_0a_1x1": "branch1x1",
    "Branch_1/Conv2d_0a_1x1": "branch7x7_1",
    "Branch_1/Conv2d_0b_1x7": "branch7x7_2",
    "Branch_1/Conv2d_0c_7x1": "branch7x7_3",
    "Branch_2/Conv2d_0a_1x1": "branch7x7dbl_1",
    "Branch_2/Conv2d_0b_7x1": "branch7x7dbl_2",
    "Branch_2/Conv2d_0c_1x7": "branch7x7dbl_3",
    "Branch_2/Conv2d_0d_7x1": "branch7x7dbl_4",
    "Branch_2/Conv2d_0e_1x7": "branch7x7dbl_5",
    "Branch_3/Conv2d_0b_1x1": "branch_pool",
}
_V3_D = {
    "Branch_0/Conv2d_0a_1x1": "branch3x3_1",
    "Branch_0/Conv2d_1a_3x3": "branch3x3_2",
    "Branch_1/Conv2d_0a_1x1": "branch7x7x3_1",
    "Branch_1/Conv2d_0b_1x7": "branch7x7x3_2",
    "Branch_1/Conv2d_0c_7x1": "branch7x7x3_3",
    "Branch_1/Conv2d_1a_3x3": "branch7x7x3_4",
}


def _v3_e(conv3x1: str) -> dict[str, str]:
    return {
        "Branch_0/Conv2d_0a_1x1": "branch1x1",
        "Branch_1/Conv2d_0a_1x1": "branch3x3_1",
        "Branch_1/Conv2d_0b_1x3": "branch3x3_2a",
        f"Branch_1/{conv3x1}": "branch3x3_2b",
        "Branch_2/Conv2d_0a_1x1": "branch3x3dbl_1",
        "Branch_2/Conv2d_0b_3x3": "branch3x3dbl_2",
        "Branch_2/Conv2d_0c_1x3": "branch3x3dbl_3a",
        "Branch_2/Conv2d_0d_3x1": "branch3x3dbl_3b",
        "Branch_3/Conv2d_0b_1x1": "branch_pool",
    }


_V3_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_V3 = {
    **{name: name for name in _V3_STEM},
    **nest_units({name: name for name in ("Mixed_5b", "Mixed_5d")}, _V3_A),
    **nest_units({"Mixed_5c": "Mixed_5c"}, _V3_5C),
    **nest_units({"Mixed_6a": "Mixed_6a"}, _V3_B),
    **nest_units({name: name for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")}, _V3_C),
    **nest_units({"Mixed_7a": "Mixed_7a"}, _V3_D),
    **nest_units({"Mixed_7b": "Mixed_7b"}, _v3_e("Conv2d_0b_3x1")),
    **nest_units({"Mixed_7c": "Mixed_7c"}, _v3_e("Conv2d_0c_3x1")),
    **auxiliary_convs("Conv2d_1b_1x1", "Conv2d_2a_5x5", "AuxLogits"),
}

# Inception-v4.
_V4_REDUCTION_B = branches("0a_1x1 1a_3x3", "0a_1x1 0b_1x7 0c_7x1 1a_3x3")
_V4_STEM = {
    "Conv2d_1a_3x3": "features.0",
    "Conv2d_2a_3x3": "features.1",
    "Conv2d_2b_3x3": "features.2",
    "Mixed_3a/Branch_1/Conv2d_0a_3x3": "features.3.conv",
    **nest_units({"Mixed_4a": "features.4"}, _V4_REDUCTION_B),  # it has the same branches
    "Mixed_5a/Branch_0/Conv2d_1a_3x3": "features.5.conv",
}
_V4_A = branches("0a_1x1", "0a_1x1 0b_3x3", "0a_1x1 0b_3x3 0c_3x3", "pool 0b_1x1")
_V4_B = branches(
    "0a_1x1", "0a_1x1 0b_1x7 0c_7x1", "0a_1x1 0b_7x1 0c_1x7 0d_7x1 0e_1x7", "pool 0b_1x1"
)
_V4_C = {
    "Branch_0/Conv2d_0a_1x1": "branch0",
    "Branch_1/Conv2d_0a_1x1": "branch1_0",
    "Branch_1/Conv2d_0b_1x3": "branch1_1a",
    "Branch_1/Conv2d_0c_3x1": "branch1_1b",
    "Branch_2/Conv2d_0a_1x1": "branch2_0",
    "Branch_2/Conv2d_0b_3x1": "branch2_1",
    "Branch_2/Conv2d_0c_1x3": "branch2_2",
    "Branch_2/Conv2d_0d_1x3": "branch2_3a",
    "Branch_2/Conv2d_0e_3x1": "branch2_3b",
    "Branch_3/Conv2d_0b_1x1": "branch3.1",
}
_V4 = {
    **_V4_STEM,
    **nest_units(
        {f"Mixed_5{letter}": f"features.{6 + i}" for i, letter in enumerate("bcde")}, _V4_A
    ),
    **nest_units({"Mixed_6a": "features.10"}, REDUCTION_A),
    **nest_units(
        {f"Mixed_6{letter}": f"features.{11 + i}" for i, letter in enumerate("bcdefgh")}, _V4_B
    ),
    **nest_units({"Mixed_7a": "features.18"}, _V4_REDUCTION_B),
    **nest_units(
        {f"Mixed_7{letter}": f"features.{19 + i}" for i, letter in enumerate("bcd")}, _V4_C
    ),
    **auxiliary_convs("Conv2d_1b_1x1", "Conv2d_2a", "aux_logits"),
}

KEY_MAPS: Mapping[str, KeyMap] = {
    "googlenet": key_map("InceptionV1", _V1, {"Logits/Conv2d_0c_1x1": "fc"}),
    "inception_v2": key_map("InceptionV2", _V2, {"Logits/Conv2d_1c_1x1": "last_linear"}, _V2_STEM),
    "inception_v3": key_map(
        "InceptionV3",
        _V3,
        {"Logits/Conv2d_1c_1x1": "fc", "AuxLogits/Conv2d_2b_1x1": "AuxLogits.fc"},
    ),
    "inception_v4": key_map(
        "InceptionV4",
        _V4,
        {"Logits/Logits": "last_linear", "AuxLogits/Aux_logits": "aux_logits.fc"},
    ),
    "inception_resnet_v1": FACENET,
    "inception_resnet_v2": RESNET_V2,
}
