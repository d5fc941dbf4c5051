"""ResNets with second weights in torchvision (IMAGENET1K_V2); the tensor names are ours too."""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {}
