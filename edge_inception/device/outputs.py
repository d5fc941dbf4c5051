"""How near two engines' answers are: the figures of ``edge_inception.validate``, host and device.

Logits are centred over the classes of each image, probabilities are compared as centred logs,
embeddings as they are. This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

import math
from typing import Any, Tuple

import numpy as np

_LEAST = float(np.finfo(np.float32).tiny)


def head_of(text: str) -> Tuple[str, int]:
    """``"topk:5"`` as ("topk", 5), any other head with 0."""
    kind, _, k = text.partition(":")
    return kind, int(k or 0)


def sqnr_db(signal: Any, approximation: Any) -> float:
    """Signal power over error power in dB; ``inf`` for no error, ``-inf`` where there is no signal.

    Both arrays have the same shape; sums are taken in float64. Logits that are the same for every
    class carry no signal: an engine proves nothing by repeating them.
    """
    exact = signal.astype(np.float64)
    noise = float(np.sum((exact - approximation) ** 2))
    power = float(np.sum(exact**2))
    if power == 0:
        return -math.inf
    return 10 * math.log10(power / noise) if noise > 0 else math.inf


def comparable(baseline: Any, engine: Any, head: str) -> Tuple[Any, Any]:
    """What SQNR compares of baseline logits [N, C] and of the engine's answers, in float64."""
    kind, k = head_of(head)
    exact, found = baseline.astype(np.float64), engine.astype(np.float64)
    if kind == "embedding":
        return exact, found
    if kind == "logits":
        return centred(exact), centred(found)
    exact = _softmax(exact)
    if kind == "topk":
        rows = np.arange(len(found))[:, np.newaxis]
        chosen = np.argsort(-found, axis=1, kind="mergesort")[:, :k]
        exact, found = exact[rows, chosen], found[rows, chosen]
        if k == 1:
            return exact, found
    return centred(_log(exact)), centred(_log(found))


def same_kind(first: Any, second: Any, head: str) -> Tuple[Any, Any]:
    """What SQNR compares of two engines' answers of one head: of top-k the first's k classes."""
    kind, k = head_of(head)
    exact, found = first.astype(np.float64), second.astype(np.float64)
    if kind == "embedding":
        return exact, found
    if kind == "logits":
        return centred(exact), centred(found)
    if kind == "topk":
        rows = np.arange(len(exact))[:, np.newaxis]
        chosen = np.argsort(-exact, axis=1, kind="mergesort")[:, :k]
        return exact[rows, chosen], found[rows, chosen]
    return centred(_log(exact)), centred(_log(found))


def agreement(first: Any, second: Any, head: str) -> float:
    """Share of images in the same class; of embeddings, with the same nearest other image."""
    if head_of(head)[0] != "embedding":
        return float(np.mean(first.argmax(axis=1) == second.argmax(axis=1)))
    return float(np.mean(_nearest(first) == _nearest(second)))


def _nearest(vectors: Any) -> Any:
    lengths = np.sqrt(np.sum(vectors.astype(np.float64) ** 2, axis=1, keepdims=True))
    units = vectors / np.maximum(lengths, _LEAST)
    cosines = np.dot(units, units.T)
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(axis=1)


def centred(values: Any) -> Any:
    """Values less their mean in each row."""
    return values - values.mean(axis=1, keepdims=True)


def _softmax(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def probabilities(answers: Any, head: str) -> Any:
    """Scores in 0..1 of answers [N, C] that are logits or scores already."""
    return _softmax(answers.astype(np.float64)) if head_of(head)[0] == "logits" else answers


def _log(values: Any) -> Any:
    return np.log(np.maximum(values, _LEAST))
