"""Images that the engine puts into another class, and histograms of calibrated tensors."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_inception.artifact import file_sha256
from edge_inception.data.images import decode
from edge_inception.errors import InputError
from edge_inception.report.sources import Source
from edge_inception.report.vega import NARROW, TEXT, Chart, draw, finite, layer
from edge_inception.validate.report_record import ChangedImage

if TYPE_CHECKING:
    from edge_inception.quant.clipping import ClippedTensor

MOST_SHOWN = 24
_THUMBNAIL_PX = 96  # longer side
_MOST_BYTES = 64 << 20
"""An image file of more bytes gets no thumbnail."""


def changed(source: Source) -> dict[str, Any] | None:
    """Cards with thumbnails of at most ``MOST_SHOWN`` images whose class the engine changed.

    None where the judged engine was not executed, or the report is too old to list such images.
    """
    subject = source.report.subjects[0]
    images = subject.accuracy.changed if subject.accuracy else None
    if images is None:
        return None
    names = source.report.data.classes
    return {
        "rows": [_card(image, names) for image in images[:MOST_SHOWN]],
        "num_listed": len(images),
        "row": subject.name,
    }


def _card(changed: ChangedImage, names: Sequence[str]) -> dict[str, Any]:
    path = Path(changed.image)
    return {
        "name": path.name,
        "thumbnail": thumbnail(path, changed.sha256),
        "label": "" if changed.label is None else _class(changed.label, names),
        "is_right_after": changed.label == changed.after,
        "is_right_before": changed.label == changed.before,
        "before": _class(changed.before, names),
        "after": _class(changed.after, names),
        "baseline_scores": [_share(value) for value in changed.baseline_scores],
        "engine_scores": [_share(value) for value in changed.engine_scores],
    }


def _class(index: int, names: Sequence[str]) -> str:
    return names[index] if index < len(names) else f"class {index}"


def _share(value: float) -> str:
    number = finite(value)
    return "-" if number is None else f"{100 * number:.1f} %"


def thumbnail(path: Path, sha256: str) -> str:
    """A small JPEG as a data URL; an empty text where the image is gone, changed or unreadable."""
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


def histogram(tensor: ClippedTensor) -> Chart:
    """Chart of the share of a tensor's values by magnitude, and the amax that was chosen."""
    # a logarithmic axis has no 0: bars start at half of the smallest share
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
        chosen = [{"amax": tensor.amax, "text": f"amax {tensor.amax:.3g}"}]
        at = {"x": {**x, "field": "amax"}}
        return {
            "height": 170 if width > NARROW else 150,
            "layer": [
                layer("rect", place, bars, color="var(--quiet)"),
                layer("rule", at, chosen, color="var(--accent)"),
                layer("text", {**at, **TEXT}, chosen, align="right", dx=-5, y=8),
            ],
        }

    says = (
        f"histogram of the magnitudes of {tensor.name}: largest {tensor.observed:.3g}, chosen "
        f"amax {tensor.amax:.3g}"
    )
    return draw(tensor.name, says, spec)
