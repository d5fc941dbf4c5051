"""Take a trained Inception network and put it, verified, on an edge device.

This module holds the public functions; importing it imports only the standard library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_inception._version import __version__

if TYPE_CHECKING:
    from edge_inception.engines._backend import Session
    from edge_inception.inference import Prediction
    from edge_inception.pipeline.build import BuildResult
    from edge_inception.recipe.reader import Recipe

# OpenVINO and onnxruntime tell their makers of every import, and leave files in the home and the
# temporary folder. The former does so by a package that it can do without.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["__version__", "build", "classify", "load_recipe", "open_engine"]


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, with ``overrides`` such as ``{"build.precision": "fp16"}``.

    Raises:
        InputError: The file is missing, or has an unknown key or a value of a wrong type.
    """
    from edge_inception.recipe import reader

    return reader.load_recipe(Path(path), overrides)


def build(recipe: Recipe, *, force: bool = False, keep_failed: bool = False) -> BuildResult:
    """Run the whole pipeline; see ``edge_inception.pipeline.build``.

    Raises:
        EdgeInceptionError: See ``edge_inception.errors``.
    """
    from edge_inception.pipeline import build as pipeline

    return pipeline.build(recipe, force=force, keep_failed=keep_failed)


def open_engine(path: str | Path, *, threads: int = 0, cuda_graph: bool = True) -> Session:
    """A session on an engine file: ``run(images float32 [N, 3, H, W]) -> logits [N, classes]``.

    ``threads`` 0 means all that this process may use. ``cuda_graph`` concerns engines on a GPU.

    Raises:
        InputError: The file is no engine, or does not fit this machine.
        BackendMissing: The library of the engine is not installed.
    """
    from edge_inception import inference

    return inference.open_engine(Path(path), threads=threads, cuda_graph=cuda_graph)


def classify(
    engine: str | Path, images: Sequence[str | Path], *, top: int = 5
) -> Iterator[Prediction]:
    """Predictions for image files, in order.

    Raises:
        InputError: An image is unusable, or the engine does not fit this machine.
    """
    from edge_inception import inference

    return inference.classify(Path(engine), [Path(image) for image in images], top=top)
