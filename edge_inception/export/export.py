"""The stage ``export``: the model of a checkpoint as an ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_inception import artifact
from edge_inception._version import __version__
from edge_inception.artifact import Graph
from edge_inception.checkpoints.load import LoadedModel, load, num_classes_of
from edge_inception.errors import InputError
from edge_inception.export import interface
from edge_inception.export.options import ExportOptions, export_provenance
from edge_inception.graph import check
from edge_inception.sidecar import GraphDetails
from edge_inception.spec import INPUT_NAME, OUTPUT_NAME, Head, ShapeProfile

__all__ = ["OPSET", "ExportOptions", "export"]

OPSET = 18  # the lowest that the exporter writes without its own down-conversion
IR_VERSION = 8  # of opset 18; see the table in onnx/docs/Versioning.md
_CHANNELS = 3
MAX_ERROR_RATIO = 4.0
"""Largest accepted error of the graph, as a multiple of PyTorch's own float32 error.

Measured on the full Inception-v4: a right graph, which adds in another order, errs 0.8 to 1.2 times
as much as PyTorch; with one average pool that treats padding wrongly, at least 400 times."""
# Least error assumed of PyTorch, as a share of the largest logit: small networks may round to 0.
_FLOOR = 1e-6
# PyTorch's error on up to 10 logits may be small by chance, so 4 batches are compared, not 1.
_FEW_CLASSES, _BATCHES_FOR_FEW_CLASSES = 10, 4
_NUM_COMPARED = 2  # images per batch; float64 is slow, and a wrong graph is wrong on any image
_MIN_EXAMPLE_BATCH = 2  # images; from an example batch of 1, torch.export makes the batch static


def export(checkpoint: Path, options: ExportOptions, out: Path) -> Graph:
    """The model of ``checkpoint`` as ONNX: ``input`` [N, 3, H, W] -> ``logits`` [N, classes].

    ``element`` uint8 in ``options.preprocess`` adds preprocessing nodes and ``options.head`` adds a
    head, see ``interface``. The file's bytes depend only on weights, options and tools: stack
    traces, paths and other records of the exporter are removed. The weights are inside the file.

    Raises:
        InputError: The checkpoint does not fit the model, class names or the head do not fit its
            classes, the images are too small, the logits are all 0 or not finite, torch wrote
            another opset, or the graph's outputs in onnxruntime are not the model's.
    """
    provenance = export_provenance(checkpoint, options)
    loaded = load(
        options.model,
        checkpoint,
        family=options.checkpoint_format,
        num_classes=options.num_classes,
        options=options.model_options,
    )
    preprocess = structs.replace(loaded.preprocess, **options.preprocess)
    examples = _Examples(size=preprocess.input_size, profile=options.profile)
    head = _head(loaded, options)
    num_classes = 0 if head.kind == "embedding" else num_classes_of(loaded.model)
    classes = _class_names(checkpoint, loaded, options, num_classes) if num_classes else ()
    notes = list(loaded.notes)
    if num_classes:
        interface.check_top_k(head, num_classes)
    elif options.classes:
        notes.append(f"{len(options.classes)} class names not used: an embedding has no classes")
    _require_usable_logits(loaded.model, examples, options.model, checkpoint)
    exported = _to_onnx(loaded.model, examples, head)
    _strip(exported)
    _require_opset(exported)
    before_head = exported.SerializeToString()
    error_ratio = _require_parity(before_head, loaded.model, examples, num_classes)
    interface.add_preprocessing_and_head(exported, preprocess, head)
    content: bytes = exported.SerializeToString(deterministic=True)
    return artifact.publish(
        Graph,
        out,
        content,
        provenance=provenance,
        counts=dict(sorted(Counter(node.op_type for node in exported.graph.node).items())),
        details=GraphDetails(
            model=options.model,
            model_options=loaded.options,
            checkpoint_family=loaded.family,
            checkpoint_notes=tuple(notes),
            num_classes=num_classes,
            classes=classes,
            preprocess=preprocess,
            profile=options.profile,
            head_text=str(head),
            input=INPUT_NAME,
            output=head.outputs[0],
            input_shape=(examples.batch, *preprocess.image_shape),
            opset=OPSET,
            checkpoint_types=loaded.stored_types,
            error_of_pytorchs=error_ratio,
        ),
    )


def _class_names(
    checkpoint: Path, loaded: LoadedModel, options: ExportOptions, num_classes: int
) -> tuple[str, ...]:
    """Class names by logit index: those of the options, else those in the checkpoint."""
    names = options.classes or loaded.classes
    if names and len(names) != num_classes:
        raise InputError(
            f"{len(names)} class names for a head of {num_classes} classes in {checkpoint}",
            hint="give --labels with one class name per logit, in logit order",
        )
    if loaded.classes and sorted(names) == sorted(loaded.classes) and names != loaded.classes:
        raise InputError(
            f"class names are in another order than in {checkpoint}: "
            f"{', '.join(names[:5])} against {', '.join(loaded.classes[:5])}",
            hint="give --labels with the checkpoint's order",
        )
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examples:
    """Input of the model: images of ``size`` (height, width), in batch sizes of ``profile``."""

    size: tuple[int, int]
    profile: ShapeProfile

    @property
    def batch(self) -> int | str:
        return "batch" if self.profile.is_dynamic else self.profile.max

    def random_images(self, seed: int = 0) -> Tensor:
        """Normally distributed images, float32 [N, 3, H, W], of a batch size the graph takes."""
        profile = self.profile
        batch = max(profile.min, _MIN_EXAMPLE_BATCH) if profile.is_dynamic else profile.max
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((batch, _CHANNELS, *self.size), generator=generator)


def _head(loaded: LoadedModel, options: ExportOptions) -> Head:
    """The head that ``options`` ask for; for an embedding network, the head ``embedding``."""
    if not getattr(loaded.model, "is_embedding", False):
        return options.head
    if options.head != Head():
        raise InputError(
            f"head {options.head} needs classes, this {options.model} gives embeddings",
            hint="leave --head out, or give it a classifier: --option tail=facenet-classifier "
            f"--checkpoint-format {loaded.family}",
        )
    return Head(kind="embedding")


def _to_onnx(model: nn.Module, examples: _Examples, head: Head) -> onnx.ModelProto:
    profile, shapes = examples.profile, None
    if profile.is_dynamic:
        shapes = ({0: torch.export.Dim("batch", min=profile.min, max=profile.max)},)
    with _quiet():
        program = torch.onnx.export(
            model,
            (examples.random_images(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME if head.kind != "embedding" else head.outputs[0]],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None  # dynamo=True returns a program
    exported: onnx.ModelProto = program.model_proto
    return exported


def _require_parity(
    content: bytes, model: nn.Module, examples: _Examples, num_classes: int
) -> float:
    """Check onnxruntime's logits; their error as a multiple of PyTorch's, both against float64.

    Float32 errors depend on the weights, so PyTorch's own error on the same images is the unit.
    This function converts ``model`` to float64.

    Raises:
        InputError: The multiple is more than MAX_ERROR_RATIO.
    """
    num_batches = _BATCHES_FOR_FEW_CLASSES if 0 < num_classes <= _FEW_CLASSES else 1
    batches = [examples.random_images(seed) for seed in range(num_batches)]
    session = _onnxruntime(content)
    outputs = [session.run(None, {INPUT_NAME: batch.numpy()})[0] for batch in batches]
    logits = np.concatenate([output[:_NUM_COMPARED] for output in outputs])
    compared = torch.cat([batch[:_NUM_COMPARED] for batch in batches])
    rounded = _run_model(model, compared)
    exact = _run_model(model.double(), compared.double())
    largest_logit = float(np.abs(exact).max())
    pytorch_error = max(float(np.abs(rounded - exact).max()), _FLOOR * largest_logit)
    error_ratio = float(np.abs(logits - exact).max()) / pytorch_error
    if not error_ratio <= MAX_ERROR_RATIO:
        raise InputError(
            f"the exported graph errs {error_ratio:.1f} times as much as PyTorch's float32, wanted "
            f"at most {MAX_ERROR_RATIO:.0f} (largest logit {largest_logit:.2e})",
            hint="report it with the architecture's name",
        )
    return round(error_ratio, 3)


def _run_model(model: nn.Module, images: Tensor) -> NDArray[np.float64]:
    with torch.inference_mode():
        logits: NDArray[np.float64] = model(images).double().numpy()
    return logits


def _onnxruntime(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _require_usable_logits(
    model: nn.Module, examples: _Examples, name: str, checkpoint: Path
) -> None:
    """Refuse images that are too small and weights that give no finite logits, before exporting."""
    try:
        logits = _run_model(model, examples.random_images()[:1])
    except RuntimeError as error:
        height, width = examples.size
        raise InputError(
            f"{name} cannot take {height} x {width} images: {str(error).splitlines()[0]}",
            hint="use a larger --input-size; `edge-inception models NAME` shows the published one",
        ) from error
    if not logits.any():
        raise InputError(
            f"{checkpoint}: logits of a random image are all 0",
            hint="the weights are not trained",
        )
    if not np.isfinite(logits).all():
        raise InputError(
            f"{checkpoint}: logits of a random image are NaN or infinite in PyTorch",
            hint="activations overflow float32: the training diverged or the weights are damaged",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress lines, and a deprecation warning about code inside torch."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Name nodes by module path; remove metadata that depends on folder, run or exporter."""
    for node in model.graph.node:
        node.name = f"{check.module_path(node)}/{node.op_type}"
        del node.metadata_props[:]
        node.ClearField("doc_string")
    graph = model.graph
    values: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for item in (graph, model, *values):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    check.make_names_unique(model)
    model.producer_name, model.producer_version = "edge-inception", __version__
    model.ir_version = IR_VERSION
    graph.name = "graph"


def _require_opset(model: onnx.ModelProto) -> None:
    """Refuse ONNX functions and any opset but OPSET, which the exporter may change silently."""
    got = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if got != {"ai.onnx": OPSET} or model.functions:
        raise InputError(
            f"torch wrote opsets {got}, wanted ai.onnx {OPSET}, and {len(model.functions)} ONNX "
            "functions, wanted plain operators",
            hint="install the torch and onnxscript versions of .ci/constraints.txt",
        )
