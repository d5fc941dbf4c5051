"""The outputs of an open engine for the images of a bundle.

This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

from typing import Any

import numpy as np

from edge_inception.data import batches
from edge_inception.device import errors, manifest
from edge_inception.device.errors import Refusal


def run(runner: Any, images: Any, bundle: manifest.Bundle, profile: manifest.Profile) -> Any:
    """The engine's outputs, float32 [N, columns], for images [N, ...], in batches of ``profile``.

    Raises:
        Refusal: An output is NaN or infinite, or the outputs are not those of the manifest.
    """

    def run_batch(batch: Any) -> Any:
        try:
            rows = batches.dense(runner.run(batch), bundle.record.num_classes)
        except (ValueError, IndexError) as error:
            raise _wrong_outputs(str(error)) from error
        if rows.ndim != 2 or len(rows) != len(batch):  # noqa: PLR2004 -- images and columns
            raise _wrong_outputs("shape {} for {} images".format(rows.shape, len(batch)))
        return np.array(rows)

    result = batches.in_batches(run_batch, images, profile.min, profile.max)
    is_bad = ~np.isfinite(result).all(axis=1)
    if is_bad.any():
        raise Refusal(
            "the engine's outputs are NaN or infinite for {} of {} images".format(
                int(is_bad.sum()), len(result)
            ),
            "float16 may overflow here: build with --float-rest fp32, and bundle that build",
            errors.GATE_FAILED,
        )
    return result


def _wrong_outputs(reason: str) -> Refusal:
    return Refusal(
        "the engine's outputs are not those of the bundle: {}".format(reason),
        "make the bundle again: edge-inception bundle",
    )
