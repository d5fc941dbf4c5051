"""Golden images of a bundle: a few photos whose recorded outputs test an engine on the device.

``golden.npz`` holds the preprocessed photos, and for each photo the output of the engine validated
here and of the baseline (FP32). Another library rounds differently, so an engine has to meet these
limits, where S is the signal-to-noise ratio (SQNR) of the validated engine against the baseline:

- its SQNR against the validated engine is at least S, or ``_REACHABLE_DB`` if that is less;
- its SQNR against the baseline is at least S - 3 dB (twice the error power), or ``_REACHABLE_DB``
  if that is less;
- its class of every golden image is that of the validated engine.

A photo whose two best classes score alike cannot test an engine. So golden images are photos whose
margin between these scores is at least the median of all candidates, and to which the validated
engine gives the baseline's class. If no photo is such, the one with the largest margin is taken.
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

# SQNR in dB that two correct libraries reach against each other. fp32: TensorRT multiplies in TF32
# (11 bits, 66 dB for one product) through some hundred layers. fp16: the sums have 11 bits too.
# int8: on the demo's graph and 24 photos OpenVINO and onnxruntime have 38 dB against each other,
# and 23 dB against the baseline. None of these figures was measured on a device.
_REACHABLE_DB = {"fp32": 40.0, "fp16": 30.0, "int8": 30.0}
_BASELINE_LOSS_DB = 3.0
_MAX_PIXEL_STEPS = 2  # of 255: other Pillow versions decode and resize with another rounding
_CANDIDATES_PER_IMAGE = 4  # photos to run for each golden image that is chosen
_BATCH_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """Golden photos, their arrays in the same order, and the limits for an engine's outputs."""

    items: tuple[ImageItem, ...]
    arrays: recorded.Golden
    tolerance: Tolerance

    def write(self, folder: Path) -> None:
        """Write golden.npz and the photos; every member of the npz has the date 1980."""
        (folder / "golden").mkdir()
        for name, item in zip(self.arrays.files, self.items, strict=True):
            (folder / str(name)).write_bytes(item.path.read_bytes())
        with (folder / recorded.GOLDEN).open("wb") as stream:
            np.savez(stream, allow_pickle=False, **self.arrays._asdict())


def record_golden(
    engine: EngineFile, baseline: BaselineArrays, photos: ImageSet, count: int
) -> GoldenSet:
    """Choose at most ``count`` of the ``photos`` and record the outputs of ``engine`` for them.

    Args:
        engine: The validated engine, which runs on this machine.
        baseline: Recorded outputs, whose rows name their photos by sha256.
        photos: Validation images; images that the baseline lacks are left out.
        count: Number of photos to choose, at least 1; fewer are chosen if fewer qualify.

    Raises:
        InputError: No photo is in the baseline, or the baseline scores all classes alike.
    """
    rows = {digest: row for row, digest in enumerate(baseline.sha256)}
    recorded_items = [item for item in photos.items if item.sha256 in rows]
    if not recorded_items:
        raise InputError(
            f"none of the {len(photos.items)} images of {photos.name} is in the baseline",
            hint="give the validation images that the build was run with: --validation",
        )
    candidates = spread_evenly(recorded_items, _CANDIDATES_PER_IMAGE * count)
    arrays, validated = _run_engine(engine, candidates)
    baseline_outputs = baseline.logits[[rows[item.sha256] for item in candidates]]
    head = engine.details.head_text
    chosen = spread_evenly(_confident_rows(validated, baseline_outputs, head), count)
    items = tuple(candidates[index] for index in chosen)
    names = [f"golden/{index:03}{item.path.suffix.lower()}" for index, item in enumerate(items)]
    return GoldenSet(
        items=items,
        arrays=recorded.Golden(
            images=arrays[chosen],
            validated=validated[chosen],
            baseline=baseline_outputs[chosen],
            files=np.array(names),
            sha256=np.array([item.sha256 for item in items]),
        ),
        tolerance=_tolerance(
            baseline_outputs[chosen], validated[chosen], head, engine.details.precision.value
        ),
    )


def spread_evenly(values: list[Any], count: int) -> list[Any]:
    """At most ``count`` of ``values``, spread evenly over their order."""
    if count >= len(values):
        return values
    return [values[index * len(values) // count] for index in range(count)]


def _run_engine(
    engine: EngineFile, items: list[ImageItem]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    preprocess = engine.details.preprocess
    with inference.open_engine(engine.path) as session:
        parts = [
            (batch.images, session.run(batch.images))
            for batch in images.batches(items, preprocess, _BATCH_SIZE)
        ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _confident_rows(
    validated: NDArray[np.float32], baseline_outputs: NDArray[np.float32], head: str
) -> list[int]:
    """Rows with a large margin and the baseline's class, at least one; all rows of embeddings."""
    if head == "embedding" or validated.shape[1] == 1:
        return list(range(len(validated)))
    ordered = np.sort(validated, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    is_confident = (margins >= np.median(margins)) & (
        validated.argmax(1) == baseline_outputs.argmax(1)
    )
    rows = [int(row) for row in np.flatnonzero(is_confident)]
    return rows or [int(margins.argmax())]


def _tolerance(
    baseline_outputs: NDArray[np.float32], validated: NDArray[np.float32], head: str, precision: str
) -> Tolerance:
    validated_sqnr_db = outputs.sqnr_db(*outputs.comparable(baseline_outputs, validated, head))
    if validated_sqnr_db == -math.inf:
        raise InputError(
            "the baseline gives all classes of every golden image the same score, so these images "
            "cannot test an engine",
            hint="give other photos: --validation",
        )
    reachable = _REACHABLE_DB[precision]
    has_classes = head != "embedding"
    return Tolerance(
        min_sqnr_db=round(min(validated_sqnr_db, reachable), 2),
        min_baseline_sqnr_db=round(min(validated_sqnr_db - _BASELINE_LOSS_DB, reachable), 2),
        min_agreement=1.0 if has_classes else None,
        max_pixel_steps=_MAX_PIXEL_STEPS,
    )
