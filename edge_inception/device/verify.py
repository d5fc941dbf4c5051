"""Whether an engine on this device answers as the bundle promises.

The golden images are preprocessed again and replayed. Their answers are compared with those of the
engine that was validated on the host, and with the FP32 baseline; the limits are in the manifest.
With a folder of images the whole recorded baseline is compared, photo by photo, by sha256.
This file travels to devices: Python 3.6 syntax, numpy, and Pillow where image files are read.
"""

import importlib
import os
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

if __package__:
    from edge_inception.device import errors, manifest, outputs, replay
    from edge_inception.device.errors import Refusal
else:
    import errors  # type: ignore[import-not-found,no-redef]
    import manifest  # type: ignore[import-not-found,no-redef]
    import outputs  # type: ignore[import-not-found,no-redef]
    import replay  # type: ignore[import-not-found,no-redef]
    from errors import Refusal  # type: ignore[no-redef]

SCHEMA = "edge-inception/verify"
SCHEMA_VERSION = 1
PASSED, FAILED, UNKNOWN = "PASSED", "FAILED", "NOT CHECKED"
_PILLOW_LEAST = (8,)
_UNLABELLED = -1
_WHITE = 255.0

Check = Dict[str, Any]


def golden_checks(bundle: Any, runner: Any, profile: Mapping[str, int]) -> List[Check]:
    """The golden images through ``runner``: preprocessing, answers, classes.

    Raises:
        Refusal: The engine answers NaN or infinity.
    """
    golden, limits = _arrays(bundle, "golden.npz"), bundle.record["golden"]["tolerance"]
    got = replay.run(runner, golden["images"], bundle, profile)
    head = bundle.record["head"]
    checks = [_preprocessing(bundle, golden, limits)]
    checks.append(
        _at_least(
            "validated answers",
            outputs.sqnr_db(*outputs.same_kind(golden["validated"], got, head)),
            limits["min_sqnr_db"],
            "SQNR {:.1f} dB against the validated engine",
        )
    )
    checks.append(
        _at_least(
            "baseline answers",
            outputs.sqnr_db(*outputs.comparable(golden["baseline"], got, head)),
            limits["min_baseline_sqnr_db"],
            "SQNR {:.1f} dB against the FP32 baseline",
        )
    )
    if limits["min_agreement"] is not None:
        checks.append(
            _at_least(
                "classes",
                100 * outputs.agreement(golden["validated"], got, head),
                100 * limits["min_agreement"],
                "{:.1f} % of golden images in the class of the validated engine",
            )
        )
    return checks


def _arrays(bundle: Any, name: str) -> Dict[str, Any]:
    with np.load(bundle.path(name), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _at_least(name: str, got: float, wanted: Optional[float], sentence: str) -> Check:
    is_met = wanted is None or got >= wanted
    text = sentence.format(got) + ("" if wanted is None else ", wanted {:g}".format(wanted))
    return {
        "name": name,
        "status": PASSED if is_met else FAILED,
        "got": got if abs(got) != float("inf") else str(got),
        "wanted": wanted,
        "sentence": text,
    }


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


def _preprocessing(bundle: Any, golden: Mapping[str, Any], limits: Mapping[str, Any]) -> Check:
    """Image files to arrays, bit for bit; another Pillow may resize by a step of 255."""
    try:
        pixels = _pixels()
    except Refusal as error:
        return {
            "name": "preprocessing",
            "status": UNKNOWN,
            "got": None,
            "wanted": 0,
            "sentence": "{}; {}".format(error, error.fix),
        }
    how = pixels.how_of(bundle.record["preprocess"])
    worst, num_different = 0.0, 0
    for name, wanted in zip(golden["files"], golden["images"]):
        steps = _steps(read_image(bundle.path(str(name)), how), wanted, how)
        worst = max(worst, float(steps.max()))
        num_different += int(np.count_nonzero(steps))
    limit = limits["max_pixel_steps"]
    if worst == 0:
        text = "{} images bit for bit".format(len(golden["images"]))
    else:
        text = "{} values differ, by at most {:.1f} of 255; limit {:g} (Pillow here {}, there {})"
        made_with = bundle.record["made_with"].get("Pillow", "unknown")
        text = text.format(num_different, worst, limit, _pillow_version(), made_with)
    return {
        "name": "preprocessing",
        "status": PASSED if worst <= limit else FAILED,
        "got": worst,
        "wanted": limit,
        "sentence": text,
    }


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


def preprocess_of(bundle: Any) -> Any:
    """The manifest's preprocessing.

    Raises:
        Refusal: Pillow is missing.
    """
    return _pixels().how_of(bundle.record["preprocess"])


def folder_checks(
    bundle: Any, runner: Any, profile: Mapping[str, int], folder: str
) -> Tuple[List[Check], int]:
    """The photos of ``folder`` that the baseline knows, against its answers; and their number.

    Raises:
        Refusal: The folder cannot be read, or holds none of them.
    """
    baseline = _arrays(bundle, "baseline.npz")
    rows = {str(digest): row for row, digest in enumerate(baseline["sha256"])}
    found = [(rows[d], path) for path, d in _digests(folder) if d in rows]
    if not found:
        raise Refusal(
            "none of the files in {} is among the {} images of the baseline".format(
                folder, len(rows)
            ),
            "give the folder of validation images that the build was run with",
        )
    how, head = preprocess_of(bundle), bundle.record["head"]
    got = []
    for start in range(0, len(found), profile["max"]):
        paths = [path for _, path in found[start : start + profile["max"]]]
        images = np.stack([read_image(path, how) for path in paths])
        got.append(replay.run(runner, images, bundle, profile))
    chosen = [row for row, _ in found]
    exact, labels = baseline["logits"][chosen], baseline["labels"][chosen]
    return _against(exact, np.concatenate(got), labels, bundle.record["gates"], head), len(found)


def _digests(folder: str) -> List[Tuple[str, str]]:
    if not os.path.isdir(folder):
        raise Refusal("no such folder: {}".format(folder), "give the folder of validation images")
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    return [(path, manifest.file_sha256(path)) for path in sorted(paths)]


def _against(exact: Any, got: Any, labels: Any, gates: Mapping[str, Any], head: str) -> List[Check]:
    """The figures that the gates limit; without bounds, which are the host's to compute."""
    signal, approximation = outputs.comparable(exact, got, head)
    sqnr = outputs.sqnr_db(signal, approximation)
    checks = [_at_least("SQNR", sqnr, gates.get("min_sqnr_db"), "SQNR {:.1f} dB")]
    if len(exact) > 1 or head != "embedding":
        share, wanted = 100 * outputs.agreement(exact, got, head), gates.get("min_agreement")
        limit = None if wanted is None else 100 * wanted
        checks.append(_at_least("agreement", share, limit, "agreement {:.2f} %"))
    known = labels != _UNLABELLED
    if known.any() and head != "embedding":
        was = float(np.mean(exact[known].argmax(axis=1) == labels[known]))
        now = float(np.mean(got[known].argmax(axis=1) == labels[known]))
        drop, limit = 100 * (was - now), gates.get("max_drop_pp")
        text = "top-1 {:.2f} %, the baseline has {:.2f} %: drop {:.2f} pp".format(
            100 * now, 100 * was, drop
        )
        status = PASSED if limit is None or drop <= limit else FAILED
        checks.append(
            {"name": "top-1", "status": status, "got": drop, "wanted": limit, "sentence": text}
        )
    return checks
