"""Whether an engine on this device answers as the bundle promises, and the record of it.

The golden images are preprocessed again and replayed. Their answers are compared with those of the
engine that was validated on the host, and with the FP32 baseline; the limits are in the manifest.
With a folder of images the whole recorded baseline is compared, photo by photo, by sha256.
This file travels to devices: Python 3.6 syntax, numpy, and Pillow where image files are read.
"""

import importlib
import os
from typing import Any, List, NamedTuple, Optional, Tuple, Union

import numpy as np

if __package__:
    from edge_inception.device import (  # fmt: skip
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
else:
    import errors  # type: ignore[import-not-found,no-redef]
    import jetson_board  # type: ignore[import-not-found,no-redef]
    import manifest  # type: ignore[import-not-found,no-redef]
    import outputs  # type: ignore[import-not-found,no-redef]
    import recorded  # type: ignore[import-not-found,no-redef]
    import records  # type: ignore[import-not-found,no-redef]
    import replay  # type: ignore[import-not-found,no-redef]
    import store  # type: ignore[import-not-found,no-redef]
    from errors import Refusal  # type: ignore[no-redef]

SCHEMA = "edge-inception/verify"
SCHEMA_VERSION = 1
PASSED, FAILED, UNKNOWN = _STATUSES = ("PASSED", "FAILED", "NOT CHECKED")
_PILLOW, _PILLOW_LEAST = "Pillow", (8,)
_UNLABELLED = -1
_WHITE = 255.0


class Check(NamedTuple):
    """One figure and its limit; an infinite ``got`` is a text, as JSON has no such number."""

    name: str
    status: str
    got: Union[float, str, None]
    wanted: Optional[float]
    sentence: str


class Verification(NamedTuple):
    """The record of ``verify``; ``num_images`` photos were compared besides the golden ones."""

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
    """The record that ``verify`` wrote, from the JSON value of its file.

    Raises:
        Refusal: It is not such a record, or one of another version.
    """
    records.require_version(value, SCHEMA, SCHEMA_VERSION, where)
    record = records.convert(Verification, value, where, fix)
    statuses = [records.one_of("status", record.status, (PASSED, FAILED))]
    statuses += [records.one_of("checks", one.status, _STATUSES) for one in record.checks]
    records.require(statuses, where, fix)
    return record


def golden_checks(bundle: manifest.Bundle, runner: Any, profile: manifest.Profile) -> List[Check]:
    """The golden images through ``runner``: preprocessing, answers, classes.

    Raises:
        Refusal: The engine answers NaN or infinity.
    """
    golden, limits = recorded.read_golden(bundle), bundle.record.golden.tolerance
    got = replay.run(runner, golden.images, bundle, profile)
    for known in (golden.validated, golden.baseline):
        _require_alike(got, known)
    head = bundle.record.head
    checks = [_preprocessing(bundle, golden, limits)]
    checks.append(
        _at_least(
            "validated answers",
            outputs.sqnr_db(*outputs.same_kind(golden.validated, got, head)),
            limits.min_sqnr_db,
            "SQNR {:.1f} dB against the validated engine",
        )
    )
    checks.append(
        _at_least(
            "baseline answers",
            outputs.sqnr_db(*outputs.comparable(golden.baseline, got, head)),
            limits.min_baseline_sqnr_db,
            "SQNR {:.1f} dB against the FP32 baseline",
        )
    )
    if limits.min_agreement is not None:
        checks.append(
            _at_least(
                "classes",
                100 * outputs.agreement(golden.validated, got, head),
                100 * limits.min_agreement,
                "{:.1f} % of golden images in the class of the validated engine",
            )
        )
    return checks


def _require_alike(got: Any, known: Any) -> None:
    """Refuse answers that were recorded with another number of columns.

    Raises:
        Refusal: They were.
    """
    if got.shape[1:] != known.shape[1:]:
        raise Refusal(
            "the engine answers {} columns, recorded were {}".format(
                got.shape[1:], known.shape[1:]
            ),
            "make the bundle again: edge-inception bundle",
        )


def _at_least(name: str, got: float, wanted: Optional[float], sentence: str) -> Check:
    is_met = wanted is None or got >= wanted
    text = sentence.format(got) + ("" if wanted is None else ", wanted {:g}".format(wanted))
    return Check(
        name=name,
        status=PASSED if is_met else FAILED,
        got=got if abs(got) != float("inf") else str(got),
        wanted=wanted,
        sentence=text,
    )


def _pixels() -> Any:
    """The module ``pixels``, which needs Pillow.

    Raises:
        Refusal: Pillow is missing or too old: the package of Ubuntu 18.04 is 5.1, of 20.04 7.0.
    """
    found: Any = None
    try:
        found = importlib.import_module("edge_inception.data.pixels" if __package__ else "pixels")
        reason = "" if _is_new_enough() else "Pillow {} is too old".format(_pillow_version())
    except (ImportError, AttributeError) as error:
        reason = str(error)
    if reason:
        raise Refusal(
            "image files cannot be read here: {}".format(reason),
            "pip3 install --upgrade pip && pip3 install 'Pillow>=8'",
            errors.LIBRARY_MISSING,
        )
    return found


def _is_new_enough() -> bool:
    return manifest.numbers(_pillow_version()) >= _PILLOW_LEAST


def _preprocessing(
    bundle: manifest.Bundle, golden: recorded.Golden, limits: manifest.Tolerance
) -> Check:
    """Image files to arrays, bit for bit; another Pillow may resize by a step of 255."""
    try:
        _pixels()
    except Refusal as error:
        return Check("preprocessing", UNKNOWN, None, 0, "{}; {}".format(error, error.fix))
    how = bundle.record.preprocess
    worst, num_different = 0.0, 0
    for name, wanted in zip(golden.files, golden.images):
        image = read_image(bundle.path(str(name)), how)
        _require_alike(image[None], wanted[None])
        steps = _steps(image, wanted, how)
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


def _steps(got: Any, wanted: Any, how: Any) -> Any:
    """How far pixels lie apart, in steps of 1 of 255; 0 only where they are the same bits."""
    apart = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    if how.element == "uint8":
        return apart
    # The least float difference is far below one step, and must not vanish.
    return apart * (np.array(how.std, np.float64).reshape(3, 1, 1) * _WHITE)


def _pillow_version() -> str:
    return str(importlib.import_module("PIL").__version__)


def read_image(path: str, how: Any) -> Any:
    """One image file as the engine takes it.

    Raises:
        Refusal: It is not a usable image, or Pillow is missing.
    """
    pixels = _pixels()
    try:
        return pixels.load_image(path, how)
    except pixels.ImageError as error:
        raise Refusal(str(error), error.remedy or "give another image") from error


def folder_checks(
    bundle: manifest.Bundle, runner: Any, profile: manifest.Profile, folder: str
) -> Tuple[List[Check], int]:
    """The photos of ``folder`` that the baseline knows, against its answers; and their number.

    Raises:
        Refusal: The folder cannot be read, or holds none of them.
    """
    baseline = recorded.read_baseline(bundle)
    rows = {str(digest): row for row, digest in enumerate(baseline.sha256)}
    found = [(rows[d], path) for path, d in _digests(folder) if d in rows]
    if not found:
        raise Refusal(
            "none of the files in {} is among the {} images of the baseline".format(
                folder, len(rows)
            ),
            "give the folder of validation images that the build was run with",
        )
    how, record = bundle.record.preprocess, bundle.record
    got = []
    for start in range(0, len(found), profile.max):
        paths = [path for _, path in found[start : start + profile.max]]
        images = np.stack([read_image(path, how) for path in paths])
        got.append(replay.run(runner, images, bundle, profile))
    chosen = [row for row, _ in found]
    exact, labels = baseline.logits[chosen], baseline.labels[chosen]
    _require_alike(got[0], exact)
    return _against(exact, np.concatenate(got), labels, record.gates, record.head), len(found)


def _digests(folder: str) -> List[Tuple[str, str]]:
    if not os.path.isdir(folder):
        raise Refusal("no such folder: {}".format(folder), "give the folder of validation images")
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    return [(path, manifest.file_sha256(path)) for path in sorted(paths)]


def _against(exact: Any, got: Any, labels: Any, gates: manifest.Gates, head: str) -> List[Check]:
    """The figures that the gates limit; without bounds, which are the host's to compute."""
    signal, approximation = outputs.comparable(exact, got, head)
    sqnr = outputs.sqnr_db(signal, approximation)
    checks = [_at_least("SQNR", sqnr, gates.min_sqnr_db, "SQNR {:.1f} dB")]
    if len(exact) > 1 or head != "embedding":
        share, wanted = 100 * outputs.agreement(exact, got, head), gates.min_agreement
        limit = None if wanted is None else 100 * wanted
        checks.append(_at_least("agreement", share, limit, "agreement {:.2f} %"))
    known = labels != _UNLABELLED
    if known.any() and head != "embedding":
        was = float(np.mean(exact[known].argmax(axis=1) == labels[known]))
        now = float(np.mean(got[known].argmax(axis=1) == labels[known]))
        drop, limit = 100 * (was - now), gates.max_drop_pp
        text = "top-1 {:.2f} %, the baseline has {:.2f} %: drop {:.2f} pp".format(
            100 * now, 100 * was, drop
        )
        status = PASSED if limit is None or drop <= limit else FAILED
        checks.append(Check("top-1", status, drop, limit, text))
    return checks
