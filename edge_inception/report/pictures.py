"""Images whose class changed, with both scores, and what calibration saw of each tensor."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_inception.artifact import file_sha256
from edge_inception.data.images import decode
from edge_inception.errors import InputError
from edge_inception.report.sources import Source
from edge_inception.report.vega import NARROW, Chart, draw, finite
from edge_inception.validate.report_record import ChangedImage

if TYPE_CHECKING:
    from edge_inception.quant.clipping import ClippedTensor

MOST_SHOWN = 24
_THUMBNAIL_PX = 96
_MOST_BYTES = 64 << 20
"""Of a file that is read for a thumbnail."""


def changed(source: Source) -> dict[str, Any] | None:
    """Images that the subject gives another class, up to ``MOST_SHOWN``, with thumbnails.

    None where the report has no accuracy of a subject, or is older than this part of it.
    """
    subject = source.report.subjects[0]
    found = subject.accuracy.changed if subject.accuracy else None
    if found is None:
        return None
    names = source.report.data.classes
    return {
        "rows": [_image(one, names) for one in found[:MOST_SHOWN]],
        "num_listed": len(found),
        "row": subject.name,
    }


def _image(one: ChangedImage, names: Sequence[str]) -> dict[str, Any]:
    return {
        "name": Path(one.image).name,
        "thumbnail": thumbnail(Path(one.image), one.sha256),
        "label": "" if one.label is None else _class(one.label, names),
        "is_right_after": one.label == one.after,
        "is_right_before": one.label == one.before,
        "before": _class(one.before, names),
        "after": _class(one.after, names),
        "baseline_scores": [_share(value) for value in one.baseline_scores],
        "engine_scores": [_share(value) for value in one.engine_scores],
    }


def _class(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else f"class {index}"


def _share(value: float) -> str:
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


def histograms(drawn: Iterable[ClippedTensor]) -> list[Chart]:
    """How often each magnitude was seen, and the amax that was chosen."""
    return [_histogram(one) for one in drawn]


def _histogram(tensor: ClippedTensor) -> Chart:
    floor = min((share for share in tensor.shares if share > 0.0), default=1e-6) / 2
    bars = [
        {"from": a, "to": b, "share": share, "floor": floor}
        for (a, b), share in zip(pairwise(tensor.edges), tensor.shares, strict=True)
        if share > 0.0
    ]

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
        chosen = {"data": {"values": [{"amax": tensor.amax, "text": f"amax {tensor.amax:.3g}"}]}}
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
        f"histogram of the magnitudes of {tensor.name}: largest {tensor.observed:.3g}, chosen "
        f"amax {tensor.amax:.3g}"
    )
    return draw(tensor.name, says, spec)
