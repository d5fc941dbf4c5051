"""Streaming of images through a graph in OpenVINO, with outputs for inner tensors.

Every forward pass has the same batch shape: a smaller last batch is padded with zeros, and the
outputs of the padding are cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from edge_inception.data.images import Batch, batches
from edge_inception.data.imageset import ImageItem
from edge_inception.errors import CompileFailed, InputError
from edge_inception.graph.batch import possible_batch
from edge_inception.hardware.cores import usable_threads
from edge_inception.quant.options import CalibrateOptions
from edge_inception.sidecar import StreamEngine
from edge_inception.spec import INPUT_NAME, Progress

Readings = list[NDArray[Any]]
"""One array [N, ...] per chosen output, then one per output of the graph; without padding."""


class Stream:
    """A graph with chosen outputs, compiled in float32 for one batch size.

    The batch is that of the options, or the graph's own where it can take no other.

    ``outputs`` gets the graph's tensors by name, with fixed shapes, and returns the chosen outputs
    as OpenVINO results. They come before the outputs of the graph itself.

    Attributes:
        engine: Threads and float precision, read back from OpenVINO.

    Raises:
        InputError: The graph takes another shape or type of image than preprocessing makes.
        CompileFailed: OpenVINO does not take the graph, or would not compute in float32.
    """

    def __init__(
        self,
        path: Path,
        options: CalibrateOptions,
        outputs: Callable[[Mapping[str, Any]], Sequence[Any]],
    ) -> None:
        self._path, self._options = path, options
        self._batch = possible_batch(path, options.batch)
        with _openvino_errors(path):
            core = ov.Core()
            model = core.read_model(str(path))
            _fix_shape(model, path, options, self._batch)
            results = list(outputs(_outputs_by_name(model)))
            results += [ops.result(own.get_node().input_value(0)) for own in model.outputs]
            model = ov.Model(results, model.get_parameters())
            properties = {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": options.threads or usable_threads(),
                "NUM_STREAMS": 1,
                "LP_TRANSFORMS_MODE": "NO",  # Q/DQ pairs are computed in float as written
            }
            compiled = core.compile_model(model, "CPU", properties)
            self._request = compiled.create_infer_request()
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision != "f32":
            raise CompileFailed(
                f"OpenVINO computes in {precision}, wanted f32", hint="calibrate on another machine"
            )
        self.engine = StreamEngine(
            precision=precision, threads=int(compiled.get_property("INFERENCE_NUM_THREADS"))
        )

    def read(
        self, items: Sequence[ImageItem], progress: Progress
    ) -> Iterator[tuple[Batch, Readings]]:
        """Every batch in order, with its outputs, which stay valid until the next batch.

        Raises:
            InputError: An image is not usable, or its pixels are NaN or infinite.
        """
        done = 0
        for batch in batches(items, self._options.preprocess, self._batch):
            size = len(batch.items)
            require_finite(INPUT_NAME, batch.images, batch)
            padding = [(0, self._batch - size), (0, 0), (0, 0), (0, 0)]
            with _openvino_errors(self._path):
                outputs = self._request.infer(
                    [np.pad(batch.images, padding)], share_inputs=True, share_outputs=True
                )
            yield batch, [outputs[index][:size] for index in range(len(outputs))]
            done += size
            progress(done, len(items))


def require_finite(name: str, values: NDArray[Any], batch: Batch) -> None:
    """Check that all values of a tensor of a batch are finite.

    Raises:
        InputError: The tensor holds NaN or infinity.
    """
    if not np.isfinite(values).all():
        first = batch.items[0].path
        raise InputError(
            f"tensor '{name}' becomes NaN or infinite in the batch that starts with {first}",
            hint="the checkpoint or the preprocessing does not fit the model",
        )


@contextmanager
def _openvino_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-300:]
        raise CompileFailed(
            f"OpenVINO cannot run {path}: {reason}", hint="simplify the graph again"
        ) from error


def _fix_shape(model: Any, path: Path, options: CalibrateOptions, batch: int) -> None:
    """Give the one image input its static shape, such as [batch, 3, height, width]."""
    source, preprocess = model.inputs[0], options.preprocess
    shape, image = source.get_partial_shape(), list(preprocess.image_shape)
    element = {"f32": "float32", "u8": "uint8"}.get(source.get_element_type().get_type_name())
    is_fit = element == preprocess.element and shape.compatible(ov.PartialShape([shape[0], *image]))
    if len(model.inputs) != 1 or not is_fit:
        raise InputError(
            f"{path} takes {len(model.inputs)} inputs, the first {element} {shape}; preprocessing "
            f"gives {preprocess.element} [N, {', '.join(map(str, image))}]",
            hint="calibrate with the preprocessing that the graph was exported with",
        )
    model.reshape([batch, *image])


def _outputs_by_name(model: Any) -> dict[str, Any]:
    outputs = [output for node in model.get_ordered_ops() for output in node.outputs()]
    return {name: output for output in outputs for name in output.get_names()}
