"""Outputs of a baseline and an engine in comparable form, for every head of the engine.

The baseline holds logits or embeddings. A constant added to all logits of an image changes neither
its class nor its probabilities, so logits are *centred* before they are compared: their mean over
the classes is subtracted. Centred log-probabilities are equal to centred logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_inception.device import outputs
from edge_inception.device.outputs import nearest
from edge_inception.spec import Head

_LEAST = float(np.finfo(np.float32).tiny)  # lower limit of probabilities, since log(0) is -inf

SQNR_OF = {
    "logits": "centred logits",
    "softmax": "centred log-probabilities",
    "topk": "centred log-probabilities of the k classes",
    "embedding": "embeddings",
}
"""Kind of head -> name of the quantity that SQNR compares."""


def as_logits(answers: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """Logits [N, C] for an engine's outputs [N, C].

    Probabilities become their natural logarithms; logits and embeddings are returned unchanged.
    """
    if head.kind in {"logits", "embedding"}:
        return answers
    logs: NDArray[np.float32] = np.log(np.maximum(answers, np.float32(_LEAST)))
    return logs


def signals(
    baseline: NDArray[np.float32], engine: NDArray[np.float32], head: Head
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of baseline and engine that SQNR compares, float64 of one shape.

    Args:
        baseline: Logits [N, C] or embeddings [N, D].
        engine: Result of ``Session.run`` for the same images.
        head: Head of the engine.

    Returns:
        Values of the baseline and of the engine, each centred per image over the classes. For a
        top-k head only the k classes that the engine chose are compared and centred; with k = 1
        the values are probabilities. Embeddings are not centred.
    """
    exact, approximate = outputs.comparable(baseline, engine, str(head))
    return exact, approximate


def choices(answers: NDArray[np.float32], head: Head) -> NDArray[np.intp]:
    """Indices [N] that agreement compares: each image's class, or its nearest other image's index.

    Args:
        answers: Outputs [N, C] of the head; for embeddings N >= 2.
        head: Head of the engine.
    """
    indices: NDArray[np.intp]
    indices = nearest(answers) if head.kind == "embedding" else answers.argmax(axis=1)
    return indices
