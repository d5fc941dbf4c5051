"""Images that the engine classifies otherwise than the baseline, with thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_inception.artifact import file_sha256
from edge_inception.data.images import decode
from edge_inception.errors import InputError
from edge_inception.report.provenance import class_name
from edge_inception.report.sources import Source
from edge_inception.report.table import number
from edge_inception.validate.report_record import ChangedImage

MAX_SHOWN = 24
_THUMBNAIL_PX = 96  # longer side
_MAX_BYTES = 64 << 20
"""Size in bytes of the largest image file that gets a thumbnail."""


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
