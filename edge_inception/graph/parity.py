"""Comparison of two graphs by running them in onnxruntime without its optimisations."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_inception.errors import InputError
from edge_inception.graph.check import image_input, shape_of, without_head

MAX_ROUNDING = 4.0
"""Largest accepted multiple of ``rounding_difference``; 0.7 to 1.1 were measured."""
_DYNAMIC_BATCHES = (1, 3)  # two sizes: a graph with a fixed size somewhere inside fails on one


def largest_difference(first: onnx.ModelProto, second: onnx.ModelProto, *, seed: int) -> float:
    """Largest difference of a logit on random images, as a share of the largest logit of ``first``.

    The graphs run without their heads, whose probabilities would hide differences of logits. The
    result is infinite when a logit is NaN or infinite.

    Raises:
        InputError: onnxruntime refuses a graph, its channels or sides are dynamic, or all logits of
            ``first`` are 0.
    """
    batches = _random_images(first, seed)
    bare = (without_head(first), without_head(second))
    wanted, got = ([run(model, images) for images in batches] for model in bare)
    unit = max(float(np.abs(logits).max()) for logits in wanted)
    if unit == 0.0:
        raise InputError(
            "all logits of the exported graph are 0", hint="the checkpoint holds no trained weights"
        )
    worst = max(float(np.abs(a - b).max()) for a, b in zip(got, wanted, strict=True))
    return worst / unit if math.isfinite(worst) else math.inf


def rounding_difference(model: onnx.ModelProto, *, seed: int) -> float:
    """``largest_difference`` when every weight of rank 2 or more changes by float32 rounding.

    Each weight is multiplied by 1 + r, r random within 2**-23 of 0. The difference depends on the
    weights: 2e-7 of the largest logit on a ResNet-50, 2e-5 on an Inception-v3, both untrained.
    """
    moved = copy.deepcopy(model)
    rng = np.random.default_rng(seed)
    for tensor in moved.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor)
            share = rng.uniform(-1, 1, values.shape) * np.finfo(np.float32).eps
            tensor.CopyFrom(
                numpy_helper.from_array((values * (1 + share)).astype(np.float32), tensor.name)
            )
    return largest_difference(model, moved, seed=seed)


def require_tolerance(difference: float, tolerance: float) -> None:
    """Check that the difference of the logits is within the tolerance.

    Raises:
        InputError: The difference is larger.
    """
    if not difference <= tolerance:
        raise InputError(
            f"simplified graph differs from the exported one by {difference:.1e} of the largest "
            f"logit, wanted at most {tolerance:.0e}",
            hint="report it with the checkpoint's architecture; nothing was written",
        )


def run(model: onnx.ModelProto, images: NDArray[Any]) -> NDArray[np.float32]:
    """Output of a graph with one output, as float32, run node by node: one thread, no fusions.

    Raises:
        InputError: onnxruntime cannot load or run the graph.
    """
    with _onnxruntime_errors():
        session = _session(model)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    result: NDArray[np.float32] = np.asarray(logits, dtype=np.float32)
    return result


class Probe:
    """A session that returns tensors of a graph by name, run node by node without fusions.

    Raises:
        InputError: onnxruntime cannot load the graph.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        source = image_input(model)
        self._input = source.name
        first = shape_of(source)[0]
        self._batch = first if isinstance(first, int) else 1
        self._names = [name for name in dict.fromkeys(names) if name != self._input]
        probed = copy.deepcopy(model)
        del probed.graph.output[:]
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names)
        with _onnxruntime_errors():
            self._session = _session(probed)

    def tensors(self, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The tensors by name for one image [1, ...]; a static batch is filled with its copies.

        Raises:
            InputError: onnxruntime cannot run the graph on the image.
        """
        with _onnxruntime_errors():
            images = np.repeat(image, self._batch, axis=0)
            outputs = self._session.run(self._names, {self._input: images})
        values = {name: value[:1] for name, value in zip(self._names, outputs, strict=True)}
        return {**values, self._input: image}


def _session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # log errors only
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@contextmanager
def _onnxruntime_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's exception classes have no common base of their own
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        line = str(error).splitlines()[0]
        raise InputError(f"onnxruntime refuses the graph: {line}", hint="export again") from error


def _random_images(model: onnx.ModelProto, seed: int) -> list[NDArray[Any]]:
    source = image_input(model)
    batch, *sizes = shape_of(source)
    sides = [size for size in sizes if isinstance(size, int)]
    if len(sides) != len(sizes):
        raise InputError(
            f"graph input {source.name} is {shape_of(source)}, wanted fixed channels and sides",
            hint="only the batch may be dynamic; export again",
        )
    batches: Sequence[int] = (batch,) if isinstance(batch, int) else _DYNAMIC_BATCHES
    rng = np.random.default_rng(seed)
    if source.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        return [rng.integers(0, 256, (n, *sides), dtype=np.uint8) for n in batches]
    return [rng.standard_normal((n, *sides), dtype=np.float32) for n in batches]
