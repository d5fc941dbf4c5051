"""Similarity of two engines' answers: the figures of ``edge_inception.validate``.

Logits are centred over the classes of each image, probabilities are compared as centred logs,
embeddings as they are. The host uses this file too.
This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

import math
from typing import Any, Tuple

import numpy as np

_LEAST = float(np.finfo(np.float32).tiny)  # a smaller probability is 0 in float32, its log -inf
_ROWS = 1024  # rows of cosines in memory at a time


def head_of(text: str) -> Tuple[str, int]:
    """``"topk:5"`` as ("topk", 5), any other head with 0."""
    kind, _, k = text.partition(":")
    return kind, int(k or 0)


def sqnr_db(signal: Any, approximation: Any) -> float:
    """Signal power over error power in dB; ``inf`` for no error, ``-inf`` where there is no signal.

    Both arrays have the same shape; sums are taken in float64. Logits that are the same for every
    class carry no signal, so an engine that repeats them is not shown to be right.
    """
    exact = signal.astype(np.float64)
    noise = float(np.sum((exact - approximation) ** 2))
    power = float(np.sum(exact**2))
    if power == 0:
        return -math.inf
    return 10 * math.log10(power / noise) if noise > 0 else math.inf


def comparable(baseline: Any, engine: Any, head: str) -> Tuple[Any, Any]:
    """The values that SQNR compares of a baseline and of an engine, both float64 of one shape.

    Args:
        baseline: Logits [N, C], or embeddings [N, D].
        engine: The engine's answers to the same images, of ``head``.
        head: The engine's head as text, such as ``"topk:5"``.

    Returns:
        Both centred over the classes of each image. Of a top-k head only the k classes that the
        engine chose count, and where k is 1 the probabilities themselves are compared.
    """
    kind, k = head_of(head)
    exact = baseline.astype(np.float64)
    if kind != "topk":
        return same_kind(_softmax(exact) if kind == "softmax" else exact, engine, head)
    answers, exact = _top_k(engine.astype(np.float64), _softmax(exact), k)
    if k == 1:
        return exact, answers
    return centred(_log(exact)), centred(_log(answers))


def same_kind(first: Any, second: Any, head: str) -> Tuple[Any, Any]:
    """The values that SQNR compares of two engines' answers [N, C] of one head, in float64.

    Of a top-k head only the k classes that the first engine chose count.
    """
    kind, k = head_of(head)
    pair = first.astype(np.float64), second.astype(np.float64)
    if kind == "topk":
        return _top_k(*pair, k)
    if kind == "softmax":
        pair = _log(pair[0]), _log(pair[1])
    return pair if kind == "embedding" else (centred(pair[0]), centred(pair[1]))


def _top_k(chooser: Any, other: Any, k: int) -> Tuple[Any, Any]:
    """Both arrays [N, C] at the k largest columns of ``chooser``, as [N, k]."""
    rows = np.arange(len(chooser))[:, np.newaxis]
    columns = np.argsort(-chooser, axis=1, kind="mergesort")[:, :k]
    return chooser[rows, columns], other[rows, columns]


def agreement(first: Any, second: Any, head: str) -> float:
    """Share of images in the same class; of embeddings, with the same nearest other image."""
    if head_of(head)[0] != "embedding":
        return float(np.mean(first.argmax(axis=1) == second.argmax(axis=1)))
    return float(np.mean(nearest(first) == nearest(second)))


def nearest(vectors: Any) -> Any:
    """Index of the other vector with the largest cosine, for each of [N, D], N >= 2."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, _LEAST)
    indices = np.empty(len(units), np.intp)
    for start in range(0, len(units), _ROWS):
        cosines = np.dot(units[start : start + _ROWS], units.T)
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        indices[start : start + _ROWS] = cosines.argmax(axis=1)
    return indices


def centred(values: Any) -> Any:
    """Values [N, C] minus the mean of each row."""
    return values - values.mean(axis=1, keepdims=True)


def _softmax(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def probabilities(answers: Any, head: str) -> Any:
    """Scores of 0..1 from answers [N, C]: the softmax of logits, any other answers as they are."""
    return _softmax(answers.astype(np.float64)) if head_of(head)[0] == "logits" else answers


def _log(values: Any) -> Any:
    return np.log(np.maximum(values, _LEAST))
