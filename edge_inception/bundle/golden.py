"""Golden images of a bundle: a few photos whose recorded answers test an engine on the device.

``golden.npz`` holds the preprocessed arrays, the answers of the engine that was validated here, and
the answers of the baseline. An engine of another library rounds in another way, so the limits are:

- the SQNR against the validated engine is at least that of the validated engine against the
  baseline, or ``_REACHABLE_DB`` where that is less;
- the SQNR against the baseline may be 3 dB lower, which is twice the error power;
- every golden image keeps its class. A photo near a class border tests no engine, so the margin of
  a golden image is at least the median, and its class is the baseline's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inception import inference
from edge_inception.artifact import EngineFile
from edge_inception.data import images
from edge_inception.data.imageset import ImageItem, ImageSet
from edge_inception.device import outputs, recorded
from edge_inception.device.manifest import Tolerance
from edge_inception.errors import InputError
from edge_inception.validate.accuracy import BaselineArrays

# SQNR that two correct libraries reach. fp32: TensorRT multiplies in TF32 (11 bits, 66 dB for
# one product) through some hundred layers; fp16: 11 bits in the sums too. int8: OpenVINO and
# onnxruntime on the demo's graph are 38 dB apart (24 photos), and 23 dB from the baseline. Nothing
# of this was measured on a device.
_REACHABLE_DB = {"fp32": 40.0, "fp16": 30.0, "int8": 30.0}
_BASELINE_LOSS_DB = 3.0
_PIXEL_STEPS = 2  # of 255: decoders and resizers of other Pillow versions round in another way
_CANDIDATES = 4  # times as many photos are looked at
_SCORE_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Chosen photos in order; each array has one row for each photo.

    ``images`` are preprocessed as the engine takes them; ``validated`` and ``baseline`` are
    answers, float32 [G, columns].
    """

    items: tuple[ImageItem, ...]
    images: NDArray[Any]
    validated: NDArray[np.float32]
    baseline: NDArray[np.float32]
    tolerance: Tolerance

    def names(self) -> list[str]:
        """Paths of the photos in a bundle."""
        return [
            f"golden/{index:03}{item.path.suffix.lower()}" for index, item in enumerate(self.items)
        ]

    def write(self, folder: Path) -> None:
        """Write golden.npz and the photos; every member of the zip is stamped 1980."""
        (folder / "golden").mkdir()
        for name, item in zip(self.names(), self.items, strict=True):
            (folder / name).write_bytes(item.path.read_bytes())
        arrays = recorded.Golden(
            images=self.images,
            validated=self.validated,
            baseline=self.baseline,
            files=np.array(self.names()),
            sha256=np.array([item.sha256 for item in self.items]),
        )
        with (folder / recorded.GOLDEN).open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays._asdict())


def record_golden(
    engine: EngineFile, baseline: BaselineArrays, photos: ImageSet, count: int
) -> Golden:
    """Choose ``count`` photos of ``photos`` and record what ``engine`` answers to them.

    Args:
        engine: The validated engine, which runs on this machine.
        baseline: Recorded answers, whose rows name the photos by sha256.
        photos: Validation images; those that the baseline lacks are left out.
        count: At least 1; fewer photos are taken where there are fewer.

    Raises:
        InputError: None of the photos is in the baseline.
    """
    rows = {digest: row for row, digest in enumerate(baseline.sha256)}
    recorded_items = [item for item in photos.items if item.sha256 in rows]
    if not recorded_items:
        raise InputError(
            f"none of the {len(photos.items)} images of {photos.name} is in the baseline",
            hint="give the validation images that the build was run with: --validation",
        )
    candidates = spread(recorded_items, _CANDIDATES * count)
    arrays, validated = _answers(engine, candidates)
    exact = baseline.logits[[rows[item.sha256] for item in candidates]]
    head = engine.details.head_text
    chosen = spread(_confident_rows(validated, exact, head), count)
    return Golden(
        items=tuple(candidates[index] for index in chosen),
        images=arrays[chosen],
        validated=validated[chosen],
        baseline=exact[chosen],
        tolerance=_tolerance(
            exact[chosen], validated[chosen], head, engine.details.precision.value
        ),
    )


def spread(values: list[Any], count: int) -> list[Any]:
    """At most ``count`` of ``values``, spread evenly over their order."""
    if count >= len(values):
        return values
    return [values[index * len(values) // count] for index in range(count)]


def _answers(
    engine: EngineFile, items: list[ImageItem]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    preprocess = engine.details.preprocess
    with inference.open_engine(engine.path) as session:
        parts = [
            (batch.images, session.run(batch.images))
            for batch in images.batches(items, preprocess, _SCORE_BATCH)
        ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _confident_rows(
    validated: NDArray[np.float32], exact: NDArray[np.float32], head: str
) -> list[int]:
    """Rows with a large margin and the baseline's class; every row where answers name no class."""
    if head == "embedding" or validated.shape[1] == 1:
        return list(range(len(validated)))
    ordered = np.sort(validated, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    is_confident = (margins >= np.median(margins)) & (validated.argmax(1) == exact.argmax(1))
    rows = [int(row) for row in np.flatnonzero(is_confident)]
    return rows or [int(margins.argmax())]


def _tolerance(
    exact: NDArray[np.float32], validated: NDArray[np.float32], head: str, precision: str
) -> Tolerance:
    own = outputs.sqnr_db(*outputs.comparable(exact, validated, head))
    if own == -math.inf:
        raise InputError(
            "the baseline answers the same to every class of every golden image, which proves no "
            "engine",
            hint="give other photos: --validation",
        )
    reachable = _REACHABLE_DB[precision]
    has_classes = head != "embedding"
    return Tolerance(
        min_sqnr_db=round(min(own, reachable), 2),
        min_baseline_sqnr_db=round(min(own - _BASELINE_LOSS_DB, reachable), 2),
        min_agreement=1.0 if has_classes else None,
        max_pixel_steps=_PIXEL_STEPS,
    )
