"""The FP32 baseline by PyTorch, and a session that runs PyTorch in latency comparisons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_inception.artifact import Baseline
from edge_inception.baseline import record
from edge_inception.baseline.options import BaselineOptions, baseline_provenance
from edge_inception.checkpoints.load import load, num_classes_of
from edge_inception.data.imageset import ImageSet
from edge_inception.engines._backend import Session
from edge_inception.errors import InputError, unknown
from edge_inception.hardware.cores import usable_threads
from edge_inception.sidecar import BaselineDetails
from edge_inception.spec import Progress, no_progress

_NUM_AXES, _NUM_CHANNELS = 4, 3
_MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_AUTOCAST_TYPES = {"none": None, "bf16": torch.bfloat16}


class TorchSession(Session):
    """A session that runs a PyTorch model eagerly on the CPU, in inference mode."""

    def __init__(
        self,
        model: nn.Module,
        *,
        threads: int,
        memory_format: torch.memory_format,
        autocast: torch.dtype | None,
    ) -> None:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or usable_threads())
        self._memory_format, self._autocast = memory_format, autocast
        self._model = model.eval().to(memory_format=memory_format)  # type: ignore[call-overload]

    @property
    def info(self) -> Mapping[str, Any]:
        formats = {value: name for name, value in _MEMORY_FORMATS.items()}
        return {
            "library": f"torch {torch.__version__}",
            "threads": torch.get_num_threads(),
            "float_precision": "bf16" if self._autocast else "f32",
            "memory_format": formats[self._memory_format],
            "num_classes": num_classes_of(self._model),
        }

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = list(images.shape)
        is_batch = len(shape) == _NUM_AXES and shape[0] > 0 and shape[1] == _NUM_CHANNELS
        if images.dtype != np.float32 or not is_batch:
            raise InputError(
                f"PyTorch takes float32 [N, 3, H, W], got {images.dtype} {shape}",
                hint="preprocess with edge_inception.data.images",
            )
        with (
            torch.inference_mode(),
            torch.autocast("cpu", dtype=self._autocast, enabled=self._autocast is not None),
        ):
            pixels = _as_tensor(images).to(memory_format=self._memory_format)
            logits: NDArray[np.float32] = self._model(pixels).float().numpy()
        return logits

    def close(self) -> None:
        torch.set_num_threads(self._threads_before)


def _as_tensor(images: NDArray[np.float32]) -> Tensor:
    """A tensor that shares the memory of ``images``, which may be a read-only mapped file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def open_session(  # noqa: PLR0913 -- the keywords of one JSON line
    checkpoint: str | Path,
    model: str,
    *,
    model_options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    threads: int = 0,
    memory_format: str = "contiguous",
    autocast: str = "none",
    checkpoint_format: str = "auto",
) -> TorchSession:
    """A session on a checkpoint's model, which a worker process opens from JSON arguments.

    ``memory_format`` is ``contiguous`` or ``channels_last``, ``autocast`` ``none`` (float32) or
    ``bf16``; the other arguments are as in ``BaselineOptions``.

    Raises:
        InputError: A name is unknown, or the checkpoint does not fit.
    """
    if memory_format not in _MEMORY_FORMATS:
        raise unknown("memory format", memory_format, _MEMORY_FORMATS)
    if autocast not in _AUTOCAST_TYPES:
        raise unknown("autocast", autocast, _AUTOCAST_TYPES)
    loaded = load(
        model,
        Path(checkpoint),
        family=checkpoint_format,
        num_classes=num_classes,
        options=model_options,
    )
    return TorchSession(
        loaded.model,
        threads=threads,
        memory_format=_MEMORY_FORMATS[memory_format],
        autocast=_AUTOCAST_TYPES[autocast],
    )


def record_baseline(
    checkpoint: Path,
    image_set: ImageSet,
    options: BaselineOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Baseline:
    """Record PyTorch's logits as the baseline in ``out``, in the format of ``record.publish``.

    Raises:
        InputError: The set is empty, an image cannot be decoded, a label is not below the number of
            logits, a logit is NaN or infinite, or the checkpoint does not fit.
    """
    provenance = baseline_provenance(checkpoint, image_set, options)
    loaded = load(
        options.model,
        checkpoint,
        family=options.checkpoint_format,
        num_classes=options.num_classes,
        options=options.model_options,
    )
    preprocess = structs.replace(loaded.preprocess, **options.preprocess)
    session = TorchSession(
        loaded.model,
        threads=options.threads,
        memory_format=torch.contiguous_format,
        autocast=None,
    )
    with session:
        outputs = record.compute_outputs(
            session,
            image_set,
            preprocess,
            options.batch,
            is_embedding=bool(loaded.model.is_embedding),
            progress=progress,
        )
    return record.publish(
        outputs,
        image_set,
        out,
        provenance=provenance,
        details=BaselineDetails(
            set=image_set.name,
            classes=image_set.classes,
            num_classes=outputs.num_classes,
            model=options.model,
            preprocess=preprocess,
            checkpoint_family=loaded.family,
            checkpoint_notes=tuple(loaded.notes),
        ),
    )
