"""Tables of how publishers name and store tensors, one file for each family (publisher)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from edge_inception.checkpoints.keymaps._keymap import SAME_NAMES, KeyMap

# Families without a file, since their tensor names are ours: ``native`` is what ``edge-inception
# train`` writes, ``torchvision_v2`` the second weights of torchvision's ResNets (IMAGENET1K_V2).
_FAMILIES_WITH_OUR_NAMES = {"facenet", "native", "timm", "torchvision_v2"}


def families() -> list[str]:
    """Names of all families, sorted; ``--checkpoint-format`` takes these names, or ``auto``."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    files = {module.name for module in modules if not module.name.startswith("_")}
    return sorted(files | _FAMILIES_WITH_OUR_NAMES)


def key_map(family: str, model: str) -> KeyMap:
    """The table of ``family`` for ``model``; without a table, the family uses our names."""
    if family in _FAMILIES_WITH_OUR_NAMES:
        return SAME_NAMES
    tables: Mapping[str, KeyMap] = importlib.import_module(
        f"edge_inception.checkpoints.keymaps.{family}"
    ).KEY_MAPS
    return tables.get(model, SAME_NAMES)
