"""torchvision's names, which are ours, of its second weights of the ResNets (IMAGENET1K_V2)."""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {
    "resnet50": SAME_NAMES,
    "resnet101": SAME_NAMES,
    "resnet152": SAME_NAMES,
}
