"""Images through an engine in the batches it takes, and its answers as one array.

This very file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

from typing import Any, Callable, Mapping

import numpy as np

_TOP_K = ("scores", "classes")  # outputs of spec.HEAD_OUTPUTS


def in_batches(run: Callable[[Any], Any], images: Any, smallest: int, largest: int) -> Any:
    """Answers [N, ...] to images [N, ...], N >= 1, by an engine that takes so many at a time.

    More than ``largest`` go through in several runs; fewer than ``smallest`` are padded by
    repeating the last image, and the padding's answers are dropped. ``run`` gives a fresh array.
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
    """float32 [N, columns] of an engine's outputs by name.

    The only output as it is; of a top-k head probabilities that are 0 outside the k classes.
    """
    if set(outputs) != set(_TOP_K):
        (answer,) = outputs.values()
        return np.asarray(answer).astype(np.float32, copy=False)
    scores, classes = (outputs[name] for name in _TOP_K)
    spread = np.zeros((len(scores), num_classes), np.float32)
    spread[np.arange(len(scores))[:, np.newaxis], classes.astype(np.int64)] = scores
    return spread
