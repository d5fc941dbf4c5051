"""Images that the engine classifies otherwise than the baseline, and histograms of tensors."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_inception.artifact import file_sha256
from edge_inception.data.images import decode
from edge_inception.errors import InputError
from edge_inception.report.provenance import class_name
from edge_inception.report.sources import Source
from edge_inception.report.table import number
from edge_inception.report.vega import GREY, HIGHLIGHT, TEXT, Chart, axis, draw, layer
from edge_inception.validate.report_record import ChangedImage

if TYPE_CHECKING:
    from edge_inception.quant.clipping import ClippedTensor

MAX_SHOWN = 24
_THUMBNAIL_PX = 96  # longer side
_MAX_BYTES = 64 << 20
"""An image file of more bytes gets no thumbnail."""


def changed_images(source: Source) -> dict[str, Any] | None:
    """Cards with thumbnails of at most ``MAX_SHOWN`` images whose class the engine changed.

    None where the judged engine was not executed, or the report is too old to list such images.
    """
    subject = source.report.subjects[0]
    images = subject.accuracy.changed if subject.accuracy else None
    if images is None:
        return None
    names = source.report.data.classes
    return {
        "rows": [_card(image, names) for image in images[:MAX_SHOWN]],
        "num_listed": len(images),
        "row": subject.name,
    }


def _card(changed: ChangedImage, names: Sequence[str]) -> dict[str, Any]:
    path = Path(changed.image)
    return {
        "name": path.name,
        "thumbnail": thumbnail(path, changed.sha256),
        "label": "" if changed.label is None else class_name(changed.label, names),
        "is_right_after": changed.label == changed.after,
        "is_right_before": changed.label == changed.before,
        "before": class_name(changed.before, names),
        "after": class_name(changed.after, names),
        "baseline_scores": _percentages(changed.baseline_scores),
        "engine_scores": _percentages(changed.engine_scores),
    }


def _percentages(scores: Sequence[float]) -> list[str]:
    return [number(100 * score, ".1f", " %") for score in scores]


def thumbnail(path: Path, sha256: str) -> str:
    """A small JPEG as a data URL; empty where the file is gone, changed, too large or no image."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES or file_sha256(path) != sha256:
            return ""
        image = decode(path)
    except (InputError, OSError, ValueError):
        return ""
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def draw_histogram(tensor: ClippedTensor) -> Chart:
    """Chart of the share of a tensor's values by magnitude, and the amax that was chosen."""
    # a logarithmic axis has no 0: bars start at half of the smallest share
    floor = min((share for share in tensor.shares if share > 0.0), default=1e-6) / 2
    bars = [
        {"from": a, "to": b, "share": share, "floor": floor}
        for (a, b), share in zip(pairwise(tensor.edges), tensor.shares, strict=True)
        if share > 0.0
    ]

    x = axis("magnitude", ticks=4, grid=False)
    y = axis("share", "share", scale={"type": "log", "domainMin": floor}, ticks=4, format="~e")
    bar = {
        "x": {**x, "field": "from"}, "x2": {"field": "to"}, "y": y, "y2": {"field": "floor"},
    }  # fmt: skip
    chosen = [{"amax": tensor.amax, "text": f"amax {tensor.amax:.3g}"}]
    at_amax = {"x": {**x, "field": "amax"}}
    spec = {
        "height": 170,
        "layer": [
            layer("rect", bar, bars, color=GREY),
            layer("rule", at_amax, chosen, color=HIGHLIGHT),
            layer("text", {**at_amax, **TEXT}, chosen, align="right", dx=-5, y=8),
        ],
    }
    description = (
        f"histogram of the magnitudes of {tensor.name}: largest {tensor.observed:.3g}, chosen "
        f"amax {tensor.amax:.3g}"
    )
    return draw(tensor.name, description, spec)
