"""Names in Cadene's pretrained-models.pytorch: bninception, inceptionv4, inceptionresnetv2.

bninception has one name without dots per layer, as Caffe. Its batch norms may be stored as [1, C].
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap, spelled

_STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_ENDINGS = {
    ".weight": ".conv.weight",
    ".bias": ".conv.bias",
    **{f"_bn.{name}": f".bn.{name}" for name in _STATISTICS},
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
    "inception_v2": KeyMap(names=spelled(_UNITS, _ENDINGS) | _HEAD),
    "inception_v4": SAME_NAMES,
    "inception_resnet_v2": KeyMap(prefixes={"last_linear.": "classif."}),
}
