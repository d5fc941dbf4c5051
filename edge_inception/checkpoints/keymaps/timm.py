"""Architectures whose tensor names in timm are ours too."""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {
    "inception_v3": SAME_NAMES,
    "inception_v4": SAME_NAMES,
    "inception_resnet_v2": SAME_NAMES,
    "resnet50": SAME_NAMES,
    "resnet101": SAME_NAMES,
    "resnet152": SAME_NAMES,
}
