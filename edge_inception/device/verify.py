"""The comparison of an engine on this device with the recorded outputs in its bundle.

The golden images, photos of the bundle, are preprocessed again and run. The engine's outputs are
compared with those of the engine that was validated on the host, and with the FP32 baseline; the
limits are in the manifest. With a folder of images, those in the baseline (by sha256) are run too.
This file travels to devices: Python 3.6 syntax, numpy, and Pillow where image files are read.
"""

import importlib
import os
from typing import Any, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from edge_inception.device import (
    errors,
    jetson_board,
    manifest,
    outputs,
    recorded,
    records,
    replay,
    store,
)
from edge_inception.device.errors import Refusal

SCHEMA = "edge-inception/verify"
SCHEMA_VERSION = 1
PASSED, FAILED, UNKNOWN = _STATUSES = ("PASSED", "FAILED", "NOT CHECKED")
_PILLOW, MIN_PILLOW = "Pillow", (8,)
_UNLABELLED = -1
_MAX_PIXEL = 255.0


class Check(NamedTuple):
    """One figure and its limit; an infinite ``got`` is a text, since JSON has no infinity."""

    name: str
    status: str
    got: Union[float, str, None]
    wanted: Optional[float]
    sentence: str


class Verification(NamedTuple):
    """The record of ``verify``; ``num_images`` counts compared images besides the golden images."""

    status: str
    created_utc: str
    bundle: manifest.Identity
    engine: store.EngineFacts
    checks: List[Check]
    num_images: int
    board: jetson_board.Board
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION


def read_verification(value: Any, where: str, fix: str) -> Verification:
    """The record of ``verify`` in a JSON value, with the refusals of ``convert_versioned``."""
    record: Verification = records.convert_versioned(Verification, value, where, fix)
    statuses = [records.one_of("status", record.status, (PASSED, FAILED))]
    statuses += [records.one_of("checks", check.status, _STATUSES) for check in record.checks]
    records.require(statuses, where, fix)
    return record


def golden_checks(bundle: manifest.Bundle, runner: Any, profile: manifest.Profile) -> List[Check]:
    """Checks of preprocessing, and of the outputs and classes that ``runner`` gives golden images.

    Raises:
        Refusal: An output of the engine is NaN or infinite.
    """
    golden, limits = recorded.read_golden(bundle), bundle.record.golden.tolerance
    got = replay.run(runner, golden.images, bundle, profile)
    for wanted in (golden.validated, golden.baseline):
        _require_same_columns(got, wanted)
    head = bundle.record.head
    checks = [
        _preprocessing(bundle, golden, limits),
        _check_minimum(
            "validated answers",
            outputs.sqnr_db(*outputs.comparable_engines(golden.validated, got, head)),
            limits.min_sqnr_db,
            "SQNR {:.1f} dB against the validated engine",
        ),
        _check_minimum(
            "baseline answers",
            outputs.sqnr_db(*outputs.comparable(golden.baseline, got, head)),
            limits.min_baseline_sqnr_db,
            "SQNR {:.1f} dB against the FP32 baseline",
        ),
    ]
    if limits.min_agreement is not None:
        checks.append(
            _check_minimum(
                "classes",
                100 * outputs.agreement(golden.validated, got, head),
                100 * limits.min_agreement,
                "{:.1f} % of golden images in the class of the validated engine",
            )
        )
    return checks


def _require_same_columns(got: Any, wanted: Any) -> None:
    """Refuse outputs that have another number of columns than the recorded outputs."""
    shape, recorded_shape = got.shape[1:], wanted.shape[1:]
    if shape != recorded_shape:
        raise Refusal(
            "the engine's outputs have shape {}, recorded was {}".format(shape, recorded_shape),
            "make the bundle again: edge-inception bundle",
        )


def _check_minimum(name: str, got: float, wanted: Optional[float], sentence: str) -> Check:
    is_met = wanted is None or got >= wanted
    text = sentence.format(got) + ("" if wanted is None else ", wanted {:g}".format(wanted))
    return Check(
        name=name,
        status=PASSED if is_met else FAILED,
        got=got if abs(got) != float("inf") else str(got),
        wanted=wanted,
        sentence=text,
    )


def _import_pixels() -> Any:
    """The module ``pixels``, unless Pillow is missing or too old.

    Ubuntu's package of Pillow is too old in 18.04 (5.1) and 20.04 (7.0).
    """
    pixels: Any = None
    try:
        pixels = importlib.import_module("edge_inception.data.pixels")
        is_old = manifest.version_numbers(_pillow_version()) < MIN_PILLOW
        reason = "Pillow {} is too old".format(_pillow_version()) if is_old else ""
    except (ImportError, AttributeError) as error:
        reason = str(error)
    if reason:
        raise Refusal(
            "image files cannot be read here: {}".format(reason),
            "pip3 install --upgrade pip && pip3 install 'Pillow>=8'",
            errors.LIBRARY_MISSING,
        )
    return pixels


def _preprocessing(
    bundle: manifest.Bundle, golden: recorded.Golden, limits: manifest.Tolerance
) -> Check:
    """Check preprocessing against the recorded arrays; another Pillow may differ by 1/255."""
    try:
        _import_pixels()
    except Refusal as error:
        return Check("preprocessing", UNKNOWN, None, 0, "{}; {}".format(error, error.fix))
    preprocess = bundle.record.preprocess
    worst, num_different = 0.0, 0
    for name, wanted in zip(golden.files, golden.images):
        image = read_image(bundle.path(str(name)), preprocess)
        _require_same_columns(image[None], wanted[None])
        steps = _pixel_differences(image, wanted, preprocess)
        worst = max(worst, float(steps.max()))
        num_different += int(np.count_nonzero(steps))
    limit = limits.max_pixel_steps
    if worst == 0:
        text = "{} images bit for bit".format(len(golden.images))
    else:
        text = "{} values differ, by at most {:.1f} of 255; limit {:g} (Pillow here {}, there {})"
        made_with = bundle.record.made_with.get(_PILLOW, "unknown")
        text = text.format(num_different, worst, limit, _pillow_version(), made_with)
    return Check("preprocessing", PASSED if worst <= limit else FAILED, worst, limit, text)


def _pixel_differences(got: Any, wanted: Any, preprocess: manifest.Preprocess) -> Any:
    """Differences of pixels in steps of 1/255; 0 only where the values are the same."""
    apart = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    if preprocess.element == "uint8":
        return apart
    # The smallest difference of two floats is far below one step, and must not become 0.
    return apart * (np.array(preprocess.std, np.float64).reshape(3, 1, 1) * _MAX_PIXEL)


def _pillow_version() -> str:
    return str(importlib.import_module("PIL").__version__)


def read_image(path: str, preprocess: manifest.Preprocess) -> Any:
    """The preprocessed array of one image file, as the engine takes it.

    Raises:
        Refusal: The file is not a usable image, or Pillow is missing.
    """
    pixels = _import_pixels()
    try:
        return pixels.load_image(path, preprocess)
    except pixels.ImageError as error:
        raise Refusal(str(error), error.remedy or "give another image") from error


def folder_checks(
    bundle: manifest.Bundle, runner: Any, profile: manifest.Profile, folder: str
) -> Tuple[List[Check], int]:
    """Checks of the photos of ``folder`` that are in the baseline, and the number of those photos.

    Raises:
        Refusal: The folder cannot be read, or holds none of the baseline's photos.
    """
    baseline = recorded.read_baseline(bundle)
    rows = {str(digest): row for row, digest in enumerate(baseline.sha256)}
    photos = [(rows[d], path) for path, d in _hash_files(folder) if d in rows]
    if not photos:
        raise Refusal(
            "none of the files in {} is among the {} images of the baseline".format(
                folder, len(rows)
            ),
            "give the folder of validation images that the build was run with",
        )
    record = bundle.record
    got = []
    for start in range(0, len(photos), profile.max):
        batch = photos[start : start + profile.max]
        images = np.stack([read_image(path, record.preprocess) for _, path in batch])
        got.append(replay.run(runner, images, bundle, profile))
    chosen = [row for row, _ in photos]
    exact, labels = baseline.logits[chosen], baseline.labels[chosen]
    _require_same_columns(got[0], exact)
    checks = _gate_checks(exact, np.concatenate(got), labels, record.gates, record.head)
    return checks, len(photos)


def _hash_files(folder: str) -> List[Tuple[str, str]]:
    if not os.path.isdir(folder):
        raise Refusal("no such folder: {}".format(folder), "give the folder of validation images")
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    return [(path, manifest.file_sha256(path)) for path in sorted(paths)]


def _gate_checks(
    exact: Any, got: Any, labels: Any, gates: manifest.Gates, head: str
) -> List[Check]:
    """Checks of the figures that have gates; confidence bounds are computed only on the host."""
    signal, approximation = outputs.comparable(exact, got, head)
    sqnr = outputs.sqnr_db(signal, approximation)
    checks = [_check_minimum("SQNR", sqnr, gates.min_sqnr_db, "SQNR {:.1f} dB")]
    if len(exact) > 1 or head != "embedding":
        share, wanted = 100 * outputs.agreement(exact, got, head), gates.min_agreement
        limit = None if wanted is None else 100 * wanted
        checks.append(_check_minimum("agreement", share, limit, "agreement {:.2f} %"))
    labelled = labels != _UNLABELLED
    if labelled.any() and head != "embedding":
        baseline_top1 = float(np.mean(exact[labelled].argmax(axis=1) == labels[labelled]))
        engine_top1 = float(np.mean(got[labelled].argmax(axis=1) == labels[labelled]))
        drop, limit = 100 * (baseline_top1 - engine_top1), gates.max_drop_pp
        text = "top-1 {:.2f} %, the baseline has {:.2f} %: drop {:.2f} pp".format(
            100 * engine_top1, 100 * baseline_top1, drop
        )
        status = PASSED if limit is None or drop <= limit else FAILED
        checks.append(Check("top-1", status, drop, limit, text))
    return checks
