"""Tables of how publishers name and store tensors, one file per family of names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap


def families() -> list[str]:
    """Names of all families, sorted; ``--checkpoint-format`` takes them, and ``auto``."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def key_map(family: str, model: str) -> KeyMap:
    """The names that ``family`` gives the tensors of ``model``; ours where it has no table."""
    tables: Mapping[str, KeyMap] = importlib.import_module(
        f"edge_inception.checkpoints.keymaps.{family}"
    ).KEY_MAPS
    return tables.get(model, SAME_NAMES)
