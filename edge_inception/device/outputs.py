"""Similarity of two engines' outputs: the figures of ``edge_inception.validate``.

Logits are compared after each image's mean over the classes is subtracted (centred), probabilities
as centred logarithms, embeddings unchanged. The host uses this file too.
This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

import math
from typing import Any, Tuple

import numpy as np

_MIN_PROBABILITY = float(np.finfo(np.float32).tiny)  # smaller ones may have a log of -inf
_BLOCK_ROWS = 1024  # rows of the cosine matrix that are in memory at a time


def parse_head(text: str) -> Tuple[str, int]:
    """(kind, k) of a head's text: ("topk", 5) for ``"topk:5"``; k is 0 for any other head."""
    kind, _, k = text.partition(":")
    return kind, int(k or 0)


def sqnr_db(signal: Any, approximation: Any) -> float:
    """Signal power over error power in dB; ``inf`` if the error is 0, ``-inf`` if the signal is 0.

    Both arrays have the same shape; sums are taken in float64. Centred logits that are equal for
    all classes are a signal of 0, so an engine that repeats them is not shown to be right.
    """
    exact = signal.astype(np.float64)
    noise = float(np.sum((exact - approximation) ** 2))
    power = float(np.sum(exact**2))
    if power == 0:
        return -math.inf
    return 10 * math.log10(power / noise) if noise > 0 else math.inf


def comparable(baseline: Any, engine: Any, head: str) -> Tuple[Any, Any]:
    """The two arrays, baseline's and engine's, that SQNR compares: float64, of the same shape.

    ``baseline`` has logits [N, C] or embeddings [N, D], ``engine`` the outputs of ``head`` for the
    same images. Both are centred unless they are embeddings. For a top-k head only the k classes
    that the engine chose are compared; where k is 1, as uncentred probabilities.
    """
    kind, k = parse_head(head)
    exact = baseline.astype(np.float64)
    if kind != "topk":
        return comparable_engines(_softmax(exact) if kind == "softmax" else exact, engine, head)
    got, exact = _top_k(engine.astype(np.float64), _softmax(exact), k)
    if k == 1:
        return exact, got
    return centred(_log(exact)), centred(_log(got))


def comparable_engines(first: Any, second: Any, head: str) -> Tuple[Any, Any]:
    """The two float64 arrays that SQNR compares, of two engines' outputs [N, C] with one head.

    For a top-k head only the k classes that the first engine chose are compared.
    """
    kind, k = parse_head(head)
    pair = first.astype(np.float64), second.astype(np.float64)
    if kind == "topk":
        return _top_k(*pair, k)
    if kind == "softmax":
        pair = _log(pair[0]), _log(pair[1])
    return pair if kind == "embedding" else (centred(pair[0]), centred(pair[1]))


def _top_k(chooser: Any, other: Any, k: int) -> Tuple[Any, Any]:
    """The columns of both arrays [N, C] where ``chooser`` has its k largest values, as [N, k]."""
    rows = np.arange(len(chooser))[:, np.newaxis]
    columns = np.argsort(-chooser, axis=1, kind="mergesort")[:, :k]
    return chooser[rows, columns], other[rows, columns]


def agreement(first: Any, second: Any, head: str) -> float:
    """Share of images with the same top class; for embeddings, the same nearest other image."""
    if parse_head(head)[0] != "embedding":
        return float(np.mean(first.argmax(axis=1) == second.argmax(axis=1)))
    return float(np.mean(nearest(first) == nearest(second)))


def nearest(vectors: Any) -> Any:
    """For each of the vectors [N, D], N >= 2: index of the other vector with the largest cosine."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, _MIN_PROBABILITY)
    indices = np.empty(len(units), np.intp)
    for start in range(0, len(units), _BLOCK_ROWS):
        cosines = np.dot(units[start : start + _BLOCK_ROWS], units.T)
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        indices[start : start + _BLOCK_ROWS] = cosines.argmax(axis=1)
    return indices


def centred(values: Any) -> Any:
    """Values [N, C] minus the mean of their row."""
    return values - values.mean(axis=1, keepdims=True)


def _softmax(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def probabilities(outputs: Any, head: str) -> Any:
    """Scores of 0..1 from outputs [N, C]: softmax of logits; outputs of other heads unchanged."""
    return _softmax(outputs.astype(np.float64)) if parse_head(head)[0] == "logits" else outputs


def _log(values: Any) -> Any:
    return np.log(np.maximum(values, _MIN_PROBABILITY))
