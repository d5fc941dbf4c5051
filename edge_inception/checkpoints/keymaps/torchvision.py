"""torchvision's names, which are ours: googlenet, inception_v3 and the ResNets.

Its googlenet and inception_v3 files carry auxiliary heads; timm's copies of the latter do not.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {
    "googlenet": KeyMap(has_auxiliary=True),
    "inception_v3": KeyMap(has_auxiliary=True),
    "resnet50": SAME_NAMES,
    "resnet101": SAME_NAMES,
    "resnet152": SAME_NAMES,
}
