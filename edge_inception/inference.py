"""Open an engine file, and classify images with the preprocessing that its sidecar records.

The sidecar is the file ``<engine>.json`` beside the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_inception import artifact
from edge_inception.artifact import EngineFile
from edge_inception.data import images
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import Session, SessionOptions
from edge_inception.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The most likely classes of one image, best first, as (name or index, softmax score 0..1)."""

    path: Path
    top: tuple[tuple[str, float], ...]


def open_engine(path: str | Path, *, threads: int = 0, cuda_graph: bool = True) -> Session:
    """The engine at ``path`` as an open session; use it as a context manager.

    ``threads`` 0 means all CPU threads that this process may use. With ``cuda_graph``, an engine on
    a GPU launches each run as one CUDA graph where the driver can.

    Raises:
        InputError: The file is no engine, or its hash or its library's version is not the one that
            the sidecar records.
        BackendMissing: The engine's library is not installed or finds no device.
    """
    options = SessionOptions(threads=threads, cuda_graph=cuda_graph)
    return _open(artifact.load(EngineFile, Path(path)), options)


def _open(engine: EngineFile, options: SessionOptions) -> Session:
    return backends.backend(engine.details.backend).open(engine, options)


def classify(
    engine_path: Path, paths: Sequence[Path], *, top: int = 5, threads: int = 0
) -> Iterator[Prediction]:
    """Predictions for image files, in the order of ``paths``.

    Args:
        engine_path: Engine with its sidecar beside it.
        paths: Image files.
        top: How many classes to keep; all classes, or all K of a top-k head, if there are fewer.
        threads: CPU threads; 0 means all that this process may use.

    Raises:
        InputError: An image is unusable, or the engine does not fit this machine or gives
            embeddings.
    """
    engine = artifact.load(EngineFile, engine_path)
    preprocess, head = engine.details.preprocess, engine.details.head
    if head.kind == "embedding":
        raise InputError(
            f"{engine_path} gives embeddings, which name no class",
            hint="edge_inception.open_engine(path).run(images) gives the vectors",
        )
    with _open(engine, SessionOptions(threads=threads)) as session:
        for path in paths:
            output = session.run(images.load_image(path, preprocess)[np.newaxis])[0]
            scores = softmax(output) if head.kind == "logits" else output
            limit = min(top, head.k or top)
            yield Prediction(path=path, top=_top(scores, engine.details.classes, limit))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax probabilities [C] of the logits [C] of one image."""
    shifted: NDArray[np.float32] = np.exp(logits - logits.max())
    shares: NDArray[np.float32] = shifted / shifted.sum()
    return shares


def _top(
    scores: NDArray[np.float32], classes: Sequence[str], top: int
) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple((classes[i] if classes else str(i), float(scores[i])) for i in order)
