"""Tensor names in facenet-pytorch, which are ours too; its classifier ``logits`` may be absent."""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {}
