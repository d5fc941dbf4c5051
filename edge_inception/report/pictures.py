"""Images whose class changed, with both scores, and what calibration saw of each tensor."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_inception.artifact import file_sha256
from edge_inception.data.images import decode
from edge_inception.errors import InputError
from edge_inception.report.sources import Source
from edge_inception.report.vega import NARROW, Chart, draw, finite

MOST_SHOWN = 24
_THUMBNAIL_PX = 96
_MOST_BYTES = 64 << 20
"""Of a file that is read for a thumbnail."""


def changed(source: Source) -> dict[str, Any] | None:
    """Images that the subject gives another class, up to ``MOST_SHOWN``, with thumbnails.

    None where the report has no accuracy of a subject, or is older than this part of it.
    """
    subjects = [row for row in source.report["rows"] if row["role"] == "subject"]
    accuracy = subjects[0]["accuracy"] if subjects else None
    found = accuracy.get("changed") if accuracy else None
    if not isinstance(found, list):
        return None
    names = source.report["data"]["classes"]
    whole = [one for one in found if isinstance(one, dict) and _is_whole(one)]
    return {
        "rows": [_image(one, names) for one in whole[:MOST_SHOWN]],
        "num_listed": len(whole),
        "row": subjects[0]["name"],
    }


def _is_whole(one: Mapping[str, Any]) -> bool:
    pairs = (one.get("baseline_scores"), one.get("engine_scores"))
    return (
        isinstance(one.get("image"), str)
        and all(isinstance(one.get(key), int) for key in ("before", "after"))
        and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)  # noqa: PLR2004
    )


def _image(one: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    label = one.get("label")
    return {
        "name": Path(one["image"]).name,
        "thumbnail": thumbnail(Path(one["image"]), str(one.get("sha256"))),
        "label": _class(label, names) if isinstance(label, int) else "",
        "is_right_after": label == one["after"],
        "is_right_before": label == one["before"],
        "before": _class(one["before"], names),
        "after": _class(one["after"], names),
        "baseline_scores": [_share(value) for value in one["baseline_scores"]],
        "engine_scores": [_share(value) for value in one["engine_scores"]],
    }


def _class(index: int, names: Sequence[str]) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


def _share(value: Any) -> str:
    number = finite(value)
    return "-" if number is None else f"{100 * number:.1f} %"


def thumbnail(path: Path, sha256: str) -> str:
    """A small JPEG as a data address; empty where the file is gone or is another one."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES or file_sha256(path) != sha256:
            return ""
        picture = decode(path)
    except (InputError, OSError, ValueError):
        return ""
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def calibration(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The record of ``quant.seen`` with its histograms drawn; None where there is none."""
    if record is None:
        return None
    return {**record, "charts": [_histogram(one) for one in record["drawn"]]}


def _histogram(row: Mapping[str, Any]) -> Chart:
    bars = [
        {"from": a, "to": b, "share": share}
        for a, b, share in zip(row["edges"][:-1], row["edges"][1:], row["shares"], strict=True)
        if share > 0.0
    ]
    floor = min((bar["share"] for bar in bars), default=1e-6) / 2
    bars = [{**bar, "floor": floor} for bar in bars]

    def spec(width: int) -> Mapping[str, Any]:
        x = {"type": "quantitative", "title": "magnitude", "axis": {"tickCount": 4, "grid": False}}
        y = {
            "type": "quantitative", "scale": {"type": "log", "domainMin": floor}, "title": "share",
            "axis": {"tickCount": 4, "format": "~e"},
        }  # fmt: skip
        place = {
            "x": {**x, "field": "from"}, "x2": {"field": "to"},
            "y": {**y, "field": "share"}, "y2": {"field": "floor"},
        }  # fmt: skip
        chosen = {"data": {"values": [{"amax": row["amax"], "text": f"amax {row['amax']:.3g}"}]}}
        at = {"x": {**x, "field": "amax"}}
        return {
            "height": 170 if width > NARROW else 150,
            "layer": [
                {
                    "data": {"values": bars},
                    "mark": {"type": "rect", "color": "var(--quiet)"},
                    "encoding": place,
                },
                {**chosen, "mark": {"type": "rule", "color": "var(--accent)"}, "encoding": at},
                {
                    **chosen,
                    "mark": {"type": "text", "align": "right", "dx": -5, "y": 8},
                    "encoding": {**at, "text": {"field": "text"}},
                },
            ],
        }

    says = (
        f"histogram of the magnitudes of {row['name']}: largest {row['observed']:.3g}, chosen "
        f"amax {row['amax']:.3g}"
    )
    return draw(str(row["name"]), says, spec)
