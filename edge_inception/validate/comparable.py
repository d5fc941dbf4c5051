"""Answers of a baseline and an engine in the same terms, whatever head the engine has.

The baseline holds logits, or embeddings. A common offset of all logits of an image changes no class
and no probability, so it is taken out before anything is compared: logits are *centred*. Centred
log-probabilities are centred logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_inception.device import outputs
from edge_inception.device.outputs import nearest
from edge_inception.spec import Head

_LEAST = float(np.finfo(np.float32).tiny)  # a smaller probability is 0 in float32, its log -inf

TERMS = {
    "logits": "centred logits",
    "softmax": "centred log-probabilities",
    "topk": "centred log-probabilities of the k classes",
    "embedding": "embeddings",
}
"""Kind of head -> what SQNR compares."""


def as_logits(found: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """Logits and embeddings as they are, of probabilities the logs; [N, C] in and out."""
    if head.kind in {"logits", "embedding"}:
        return found
    logs: NDArray[np.float32] = np.log(np.maximum(found, np.float32(_LEAST)))
    return logs


def signals(
    baseline: NDArray[np.float32], engine: NDArray[np.float32], head: Head
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What SQNR compares: baseline's and engine's values, float64 of one shape.

    Args:
        baseline: Logits [N, C], or embeddings [N, D].
        engine: What ``Session.run`` gives for the same images.
        head: The engine's.

    Returns:
        Both centred per image over the classes; of a top-k head over the k that the engine chose,
        where k is 1 the probabilities themselves; embeddings as they are.
    """
    exact, found = outputs.comparable(baseline, engine, str(head))
    return exact, found


def choices(found: NDArray[np.float32], head: Head) -> NDArray[np.intp]:
    """Per image what agreement compares: the class, or the nearest other image by cosine.

    Args:
        found: [N, C]; embeddings need N >= 2.
        head: Whose answers they are.
    """
    indices: NDArray[np.intp]
    indices = nearest(found) if head.kind == "embedding" else found.argmax(axis=1)
    return indices
