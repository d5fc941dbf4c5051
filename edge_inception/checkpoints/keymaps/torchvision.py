"""Tensor names in torchvision, which are ours too.

torchvision's googlenet and inception_v3 files have auxiliary heads; timm's inception_v3 has none.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {
    "googlenet": KeyMap(has_auxiliary=True),
    "inception_v3": KeyMap(has_auxiliary=True),
}
