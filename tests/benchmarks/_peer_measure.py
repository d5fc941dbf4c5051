"""What `int8_peers.py` measures of one quantized graph, whoever made it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_inception import stage
from edge_inception.artifact import EngineFile, file_sha256, load
from edge_inception.device.outputs import centred
from edge_inception.engines import _inspection, _nvidia, _nvinfer, tensorrt_rtx
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import SessionOptions
from edge_inception.metrics.intervals import paired_drop
from edge_inception.validate import accuracy

MOST_IMAGES = 1 << 20


class PlainSession:
    """A file that OpenVINO reads, compiled as its user would: f32 where it is not quantized."""

    def __init__(self, path: str, threads: int, *, is_written: bool = False) -> None:
        """``is_written`` computes every Q/DQ in float, as the graph says, and nothing in int8."""
        import openvino as ov

        core = ov.Core()
        model = core.read_model(path)
        model.reshape([1, *list(model.input(0).partial_shape)[1:]])
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
        }
        if is_written:
            settings["LP_TRANSFORMS_MODE"] = "NO"
        compiled = core.compile_model(model, "CPU", settings)
        self.info = {"threads": compiled.get_property("INFERENCE_NUM_THREADS")}
        self._request: Any = compiled.create_infer_request()

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits of images, one at a time."""
        found = [
            self._request.infer([np.ascontiguousarray(image[None])], share_outputs=False)[0]
            for image in images
        ]
        return np.concatenate(found)

    def __enter__(self) -> PlainSession:  # noqa: PYI034 -- Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._request = None


def open_plain(path: str, threads: int) -> PlainSession:
    """The contender of a rival in the latency measurement."""
    return PlainSession(path, threads)


def as_written(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Logits of a graph with every Q/DQ computed in float."""
    return _kept(path, pixels, "written", lambda: PlainSession(str(path), 1, is_written=True))


def as_executed(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Logits of what runs on this CPU: our engine through its session, else OpenVINO as it is."""

    def open_it() -> Any:
        if path.suffix != ".blob":
            return PlainSession(str(path), 1)
        engine = load(EngineFile, path)
        return backends.backend("openvino").open(engine, SessionOptions(threads=1))

    return _kept(path, pixels, "executed", open_it)


def _kept(path: Path, pixels: np.ndarray, how: str, open_it: Callable[[], Any]) -> np.ndarray:
    """Logits, one image at a time; kept beside the file under the hash of its content."""
    weights = path.with_suffix(".bin") if path.suffix == ".xml" else path
    key = file_sha256(path)[:12] + file_sha256(weights)[:12]
    target = path.with_name(f"{path.name}.{how}-{len(pixels)}-{key}.npy")
    if not target.exists():
        with open_it() as session:
            np.save(target, np.concatenate([session.run(image[None]) for image in pixels]))
    return np.load(target)


def closeness(exact: np.ndarray, labels: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Accuracy against labels and float logits; figures in percent are points."""
    compared = accuracy.compare(exact, labels, found)
    labelled = compared.labelled
    assert labelled is not None
    signal, noise = centred(exact), centred(found) - centred(exact)
    each = np.sum(signal**2, axis=1), np.maximum(np.sum(noise**2, axis=1), 1e-30)
    return {
        "top1": stage.plain(labelled.engine.top1),
        "balanced_accuracy": labelled.engine.balanced_accuracy,
        "drop_pp": stage.plain(labelled.drop_pp),
        "right_to_wrong": labelled.num_right_to_wrong,
        "wrong_to_right": labelled.num_wrong_to_right,
        "agreement": stage.plain(compared.agreement),
        "sqnr_db": compared.sqnr_db,
        "median_image_sqnr_db": float(np.median(10 * np.log10(each[0] / each[1]))),
    }


def images_to_decide(found: dict[str, Any], limit_pp: float, total: int) -> int | None:
    """Images from which a drop with the flips seen so far would be bounded by ``limit_pp``.

    None where the shares of flips themselves exceed it.
    """
    lost, gained = (found[key] / total for key in ("right_to_wrong", "wrong_to_right"))
    if 100 * (lost - gained) >= limit_pp:
        return None
    count = total
    while count <= MOST_IMAGES:
        if 100 * paired_drop(round(lost * count), round(gained * count), count).upper <= limit_pp:
            return count
        count = math.ceil(count * 1.1)
    return None


def rtx(path: Path) -> dict[str, Any]:
    """What TensorRT-RTX's compiler makes of a graph, without a GPU."""
    library = _nvidia.import_library(tensorrt_rtx._LIBRARY)
    settings = _nvinfer.BuildSettings(min_batch=1, opt_batch=1, max_batch=1)
    try:
        built = _nvinfer.build(library, str(path), settings)
    except _nvinfer.VendorError as error:
        return {"is_accepted": False, "why_not": str(error)[:300]}
    layers = _inspection.describe_layers(built.layers)
    return {
        "is_accepted": True,
        "plan_bytes": len(built.plan),
        "int8_layers": layers["int8_layers"],
        "int8_weight_bytes": layers["weight_bytes"].get("Int8", 0),
        "weight_bytes": layers["total_weight_bytes"],
        "num_kernels": layers["num_kernels"],
        "activation_bytes": layers["activation_bytes"],
    }
