"""Folders of solar photos without labels, and records of a benchmark with its environment."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_inception import stage
from edge_inception.data.imageset import ImageSet, open_set
from edge_inception.latency import machine

SOLAR = Path(__file__).parents[2] / "calibration" / "sets" / "solar.json"


def photo_folders(folder: Path, counts: dict[str, int]) -> dict[str, Path]:
    """A folder of ``counts[split]`` photos for every split of the solar set."""
    return {
        split: _linked(folder / split, open_set(SOLAR, split=split).subset(count))
        for split, count in counts.items()
    }


def _linked(folder: Path, chosen: ImageSet) -> Path:
    """A plain folder of the photos: two classes of solar cells do not fit a larger head."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in chosen.items:
        link = folder / item.path.name
        if not link.exists():
            link.symlink_to(item.path)
    return folder


def write_record(path: Path, name: str, tools: Sequence[str], **facts: Any) -> None:
    """Write a benchmark's facts with the date, the machine and the versions of ``tools``."""
    record = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": stage.plain(machine.describe()),
        "tools": {tool: stage.tool_version(tool) for tool in tools},
        **facts,
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
