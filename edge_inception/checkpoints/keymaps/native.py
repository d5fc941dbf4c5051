"""Our own names of tensors, which ``edge-inception train`` writes for every architecture."""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {}
