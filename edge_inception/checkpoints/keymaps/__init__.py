"""Tables of how publishers name and store tensors, one file for each family (publisher)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap


def families() -> list[str]:
    """Names of all families, sorted; ``--checkpoint-format`` takes these names, or ``auto``."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def key_map(family: str, model: str) -> KeyMap:
    """Names that ``family`` gives the tensors of ``model``, which are ours if it has no table."""
    tables: Mapping[str, KeyMap] = importlib.import_module(
        f"edge_inception.checkpoints.keymaps.{family}"
    ).KEY_MAPS
    return tables.get(model, SAME_NAMES)
