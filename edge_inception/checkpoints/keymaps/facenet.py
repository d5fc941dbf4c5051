"""Names in facenet-pytorch, which are ours too; its classifier ``logits`` may be absent."""

from __future__ import annotations

from collections.abc import Mapping

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap

KEY_MAPS: Mapping[str, KeyMap] = {"inception_resnet_v1": SAME_NAMES}
