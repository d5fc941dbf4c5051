"""How publishers name and store tensors: one file per family of names, tables only."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap


def families() -> list[str]:
    """Names of all families, sorted; what ``--checkpoint-format`` takes besides ``auto``."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in found if not module.name.startswith("_"))


def key_map(family: str, model: str) -> KeyMap:
    """The names ``family`` gives the tensors of ``model``: ours where its table does not say."""
    tables: Mapping[str, KeyMap] = importlib.import_module(
        f"edge_inception.checkpoints.keymaps.{family}"
    ).KEY_MAPS
    return tables.get(model, SAME_NAMES)
