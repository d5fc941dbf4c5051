"""Refit: give a plan that was built without weights the weights of its typed graph.

This code has not run on hardware; the tests run it on stand-ins that have the recorded members of
TensorRT 10.0 and later.

Source: "Refitting a Weight-Stripped Engine Directly from ONNX", TensorRT docs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_inception import artifact
from edge_inception.artifact import EngineFile
from edge_inception.engines import _inspection
from edge_inception.engines._inspection import VendorError
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.engines._library import Engine, Library


def graph_of(engine: EngineFile, name: str) -> Path:
    """Path of the typed graph ``name`` that a plan without weights was compiled from.

    Raises:
        InputError: The graph is not in the plan's folder, or was changed since the compile.
    """
    sha256, path = engine.provenance.parents.get("typed graph"), engine.path.with_name(name)
    if not path.is_file() or artifact.file_sha256(path) != sha256:
        raise InputError(
            f"{engine.path} was compiled without its weights, and {name} with "
            f"sha256 {str(sha256)[:12]} is not beside it",
            hint="copy the typed graph that it was compiled from there, or compile without "
            "--strip-weights",
        )
    return path


def refit(trt: Library, engine: Engine, graph: Path) -> None:
    """Give a deserialized engine the weights of ``graph``.

    Raises:
        VendorError: The graph cannot be read, or lacks weights; the message is the library's own.
    """
    logger = _inspection.capturing_logger(trt)
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(graph)):
        raise VendorError(_inspection.parser_errors(parser, logger))
    if not refitter.refit_cuda_engine():
        reason, missing = _inspection.logged_errors(logger), refitter.get_missing_weights()[:3]
        raise VendorError(f"{reason}; missing weights: {', '.join(missing) or 'none'}")
