"""Images through an open engine in the batches it takes.

This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

from typing import Any, Mapping

import numpy as np

if __package__:
    from edge_inception.device import errors
    from edge_inception.device import outputs as answers
    from edge_inception.device.errors import Refusal
else:
    import errors  # type: ignore[import-not-found,no-redef]
    import outputs as answers  # type: ignore[import-not-found,no-redef]
    from errors import Refusal  # type: ignore[no-redef]


def run(runner: Any, images: Any, bundle: Any, profile: Mapping[str, int]) -> Any:
    """float32 [N, columns]: answers to images [N, ...], in batches of profile min to max.

    Fewer images than ``min`` are padded by repeating the last; the padding's answers are dropped.

    Raises:
        Refusal: An answer is NaN or infinite.
    """
    record = bundle.record
    parts = []
    for start in range(0, len(images), profile["max"]):
        batch = images[start : start + profile["max"]]
        missing = max(profile["min"] - len(batch), 0)
        padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        outputs = runner.run(np.ascontiguousarray(padded))
        found = answers.dense(outputs, record["head"], record["num_classes"])
        parts.append(np.array(found[: len(batch)]))
    result = np.concatenate(parts)
    is_bad = ~np.isfinite(result).all(axis=1)
    if is_bad.any():
        raise Refusal(
            "the engine answers NaN or infinity to {} of {} images".format(
                int(is_bad.sum()), len(result)
            ),
            "float16 may overflow here: make a bundle with --float-rest fp32",
            errors.GATE_FAILED,
        )
    return result
