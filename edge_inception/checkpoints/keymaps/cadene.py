"""Names in Cadene's pretrained-models.pytorch: bninception, inceptionv4, inceptionresnetv2.

bninception names each layer without dots, as Caffe does, and may store batch norms as [1, C]. The
names of inceptionv4 are ours too.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap, expand_tensors

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_ENDINGS = {
    ".weight": ".conv.weight",
    ".bias": ".conv.bias",
    **{f"_bn.{name}": f".bn.{name}" for name in _NORM_TENSORS},
}
_STEM = ("conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3")
_REDUCTION = ("3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2")
_BLOCK = ("1x1", *_REDUCTION, "pool_proj")
_BLOCKS = {
    **dict.fromkeys(("3a", "3b", "4a", "4b", "4c", "4d", "5a", "5b"), _BLOCK),
    **dict.fromkeys(("3c", "4e"), _REDUCTION),
}
_UNITS = {name: name for name in _STEM} | {
    f"inception_{block}_{unit}": f"inception_{block}.{unit}"
    for block, units in _BLOCKS.items()
    for unit in units
}
_HEAD = {f"last_linear.{name}": f"last_linear.{name}" for name in ("weight", "bias")}

KEY_MAPS: Mapping[str, KeyMap] = {
    "inception_v2": KeyMap(names=expand_tensors(_UNITS, _ENDINGS) | _HEAD),
    "inception_resnet_v2": KeyMap(prefixes={"last_linear.": "classif."}),
}
