"""The FP32 baseline by onnxruntime, for an imported graph, which has no PyTorch model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edge_inception.artifact import Baseline, Graph
from edge_inception.baseline import record
from edge_inception.baseline.options import OnnxBaselineOptions, onnx_baseline_provenance
from edge_inception.data.imageset import ImageSet
from edge_inception.engines._backend import InputSpec, Session, run_in_batches
from edge_inception.hardware.cores import usable_threads
from edge_inception.sidecar import BaselineDetails
from edge_inception.spec import Progress, ShapeProfile, no_progress


class OnnxSession(Session):
    """A session of onnxruntime's CPU provider on a float graph, with graph optimisations on.

    On float graphs the optimisations only fuse kernels; on Q/DQ graphs they would change outputs.
    """

    def __init__(self, path: Path, *, threads: int, profile: ShapeProfile) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # log errors only; onnxruntime raises them as well
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._threads, self._profile = options.intra_op_num_threads, profile
        image_input = self._session.get_inputs()[0]
        self._input_name = image_input.name
        self._input_spec = InputSpec(dtype="float32", shape=tuple(image_input.shape[1:]))

    @property
    def info(self) -> Mapping[str, Any]:
        return {
            "library": f"onnxruntime {onnxruntime.__version__}",
            "threads": self._threads,
            "float_precision": "f32",
        }

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return run_in_batches(
            self._infer, images, input_spec=self._input_spec, profile=self._profile
        )

    def _infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {self._input_name: images})[0]
        return logits

    def close(self) -> None:
        del self._session


def open_session(graph: str | Path, *, profile: Mapping[str, int], threads: int = 0) -> OnnxSession:
    """A session on an imported graph; all arguments are JSON values, so a worker can call it."""
    return OnnxSession(Path(graph), threads=threads, profile=ShapeProfile(**profile))


def record_baseline(
    graph: Graph,
    image_set: ImageSet,
    options: OnnxBaselineOptions,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Baseline:
    """Record onnxruntime's logits as the baseline in ``out``, in the format of ``record.publish``.

    ``graph`` is an imported graph, float32 images to logits.

    Raises:
        InputError: The set is empty, an image cannot be decoded, a label is not below the number of
            logits, or a logit is NaN or infinite.
    """
    preprocess = graph.details.preprocess
    with OnnxSession(graph.path, profile=graph.details.profile, threads=options.threads) as session:
        outputs = record.compute_outputs(
            session, image_set, preprocess, options.batch, progress=progress
        )
    return record.publish(
        outputs,
        image_set,
        out,
        provenance=onnx_baseline_provenance(graph, image_set, options),
        details=BaselineDetails(
            set=image_set.name,
            classes=image_set.classes,
            num_classes=outputs.num_classes,
            model=graph.details.model,
            preprocess=preprocess,
            library=f"onnxruntime {onnxruntime.__version__}",
        ),
    )
