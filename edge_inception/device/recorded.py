"""The recorded arrays of a bundle: ``golden.npz`` and ``baseline.npz``.

This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

import struct
import zipfile
import zlib
from typing import Any, NamedTuple, Type, TypeVar

import numpy as np

from edge_inception.device import manifest
from edge_inception.device.errors import Refusal

GOLDEN, BASELINE = "golden.npz", "baseline.npz"
_REMAKE = "make the bundle again: edge-inception bundle"
_READ_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, SyntaxError),
)
_A = TypeVar("_A", "Golden", "Baseline")


class Golden(NamedTuple):
    """Arrays with a row for each golden image, a photo of the bundle that tests an engine.

    ``images`` are preprocessed as the engine takes them; ``validated`` and ``baseline`` are the
    outputs of the validated engine and of the FP32 model, float32 [N, columns]; ``files`` are paths
    in the bundle; ``sha256`` are digests of those files.
    """

    images: Any
    validated: Any
    baseline: Any
    files: Any
    sha256: Any


class Baseline(NamedTuple):
    """Arrays with a row for each validation image: outputs of the FP32 model, and labels.

    ``logits`` are float32 [N, columns], ``labels`` int64 [N], ``sha256`` text [N].
    """

    logits: Any
    labels: Any
    sha256: Any


_KINDS = {
    "images": "fu", "validated": "f", "baseline": "f", "logits": "f", "labels": "i", "files": "U",
    "sha256": "U",
}  # fmt: skip # array -> the values of numpy's ``dtype.kind`` that it may have


def read_golden(bundle: manifest.Bundle) -> Golden:
    """The arrays of ``golden.npz``.

    Raises:
        Refusal: The file is damaged, or names an image that the manifest does not list.
    """
    golden = _read(Golden, bundle, GOLDEN)
    wrong = [name for name in golden.files if str(name) not in bundle.record.files]
    if wrong:
        raise Refusal("{} names '{}', which the manifest lacks".format(GOLDEN, wrong[0]), _REMAKE)
    return golden


def read_baseline(bundle: manifest.Bundle) -> Baseline:
    """The arrays of ``baseline.npz``; a damaged file, and one with other arrays, is refused."""
    return _read(Baseline, bundle, BASELINE)


def _read(kind: Type[_A], bundle: manifest.Bundle, name: str) -> _A:
    try:
        with np.load(bundle.path(name), allow_pickle=False) as archive:
            arrays = {field: archive[field] for field in kind._fields}
    except _READ_ERRORS as error:
        raise Refusal("{} of the bundle cannot be read: {}".format(name, error), _REMAKE) from error
    wrong = [field for field, array in arrays.items() if array.dtype.kind not in _KINDS[field]]
    if wrong:
        kind_of_wrong = arrays[wrong[0]].dtype
        raise Refusal("{} holds '{}' as {}".format(name, wrong[0], kind_of_wrong), _REMAKE)
    shapes = [array.shape[:1] for array in arrays.values()]
    if shapes[0] in ((), (0,)) or len(set(shapes)) > 1:
        raise Refusal("{} holds arrays of {} rows".format(name, shapes), _REMAKE)
    return kind(**arrays)
