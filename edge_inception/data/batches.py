"""Running images through an engine in the batch sizes that it takes; outputs as one array.

This file is copied to devices and runs there: Python 3.6 syntax and numpy 1.13.
"""

from typing import Any, Callable, Mapping

import numpy as np

_TOP_K = ("scores", "classes")  # outputs of a top-k head, as in spec.HEAD_OUTPUTS


def in_batches(run: Callable[[Any], Any], images: Any, smallest: int, largest: int) -> Any:
    """Outputs [N, ...] of an engine for images [N, ...], N >= 1.

    ``run`` is the engine, which takes ``smallest`` to ``largest`` images per call and must return a
    new array each time. More images take several calls; a smaller batch is padded by repeating the
    last image, and the outputs of the padding are dropped.
    """
    if smallest <= len(images) <= largest:
        return run(np.ascontiguousarray(images))
    parts = []
    for start in range(0, len(images), largest):
        batch = images[start : start + largest]
        missing = max(smallest - len(batch), 0)
        padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        parts.append(run(padded)[: len(batch)])
    return np.concatenate(parts)


def dense(outputs: Mapping[str, Any], num_classes: int) -> Any:
    """The outputs of an engine, by name, as one array float32 [N, columns].

    A single output keeps its values. The outputs of a top-k head become [N, num_classes]: the k
    scores of each image at their classes, and 0 elsewhere.
    """
    if set(outputs) != set(_TOP_K):
        (output,) = outputs.values()
        return np.asarray(output).astype(np.float32, copy=False)
    scores, classes = (outputs[name] for name in _TOP_K)
    spread = np.zeros((len(scores), num_classes), np.float32)
    spread[np.arange(len(scores))[:, np.newaxis], classes.astype(np.int64)] = scores
    return spread
