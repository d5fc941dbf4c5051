"""Quantizers of others, each called as its documentation says; `int8_peers.py` starts this file.

Run by the interpreter of the rivals' environment: `python _peer_tools.py NAME GRAPH IMAGES OUT`.
IMAGES is float32 [N, 3, H, W] as .npy, OUT a path without suffix. The last line of standard output
is JSON: the file that was written, seconds after the imports, peak memory of the process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

NOT_QUANTIZED_BEHIND = (
    *("Conv", "Gemm", "Relu", "Concat", "Add", "Flatten", "Reshape", "Softmax", "ReduceMean"),
    *("AveragePool", "MaxPool", "GlobalAveragePool"),
)
"""Ops behind whose output onnxruntime may be told to put no pair: TensorRT fuses better so."""

STRIDE = 32  # images whose activations onnxruntime holds at once; without it all of them


def onnxruntime(
    source: Path, pixels: np.ndarray, out: Path, *, method: str, is_legal: bool
) -> Path:
    """quantize_static; ``is_legal``: as TensorRT parses it, else uint8 and int32 biases."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        """One image at a time, from ``start`` to ``end`` of the set."""

        def __init__(self) -> None:
            self.set_range(0, len(pixels))

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = iter(range(start_index, min(end_index, len(pixels))))

        def get_next(self) -> dict[str, np.ndarray] | None:
            index = next(self._rest, None)
            return None if index is None else {"input": np.ascontiguousarray(pixels[index, None])}

        def __len__(self) -> int:
            return len(pixels)

    extra: dict[str, Any] = {"CalibStridedMinMax": min(STRIDE, len(pixels))}
    if is_legal:
        extra |= {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        extra["OpTypesToExcludeOutputQuantization"] = list(NOT_QUANTIZED_BEHIND)
    kind, _, percentile = method.partition(":")
    if percentile:
        extra["CalibPercentile"] = float(percentile)
    target = out.with_suffix(".onnx")
    q.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QInt8 if is_legal else q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        calibrate_method=getattr(q.CalibrationMethod, kind),
        extra_options=extra,
    )
    return target


def nncf(
    source: Path, pixels: np.ndarray, out: Path, *, preset: str, is_onnx: bool = False
) -> Path:
    """nncf.quantize on all images, with its fast bias correction."""
    import nncf as library
    import onnx
    import openvino as ov

    model = onnx.load(str(source)) if is_onnx else ov.Core().read_model(str(source))
    items = library.Dataset(range(len(pixels)), lambda i: {"input": pixels[i, None]})
    made = library.quantize(
        model,
        items,
        preset=library.QuantizationPreset[preset],
        subset_size=len(pixels),
    )
    target = out.with_suffix(".onnx" if is_onnx else ".xml")
    if is_onnx:
        onnx.save(made, str(target))
    else:
        ov.save_model(made, str(target), compress_to_fp16=False)
    return target


def modelopt(source: Path, pixels: np.ndarray, out: Path, *, method: str) -> Path:
    """ModelOpt's ONNX PTQ on the CPU; floats stay float32, so that CPUs run the graph too."""
    from modelopt.onnx.quantization import quantize

    target = out.with_suffix(".onnx")
    quantize(
        str(source),
        quantize_mode="int8",
        calibration_data={"input": np.asarray(pixels)},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(target),
    )
    return target


METHODS: Mapping[str, Callable[[Path, np.ndarray, Path], Path]] = {
    "ort-legal-minmax": partial(onnxruntime, method="MinMax", is_legal=True),
    "ort-legal-entropy": partial(onnxruntime, method="Entropy", is_legal=True),
    "ort-legal-percentile": partial(onnxruntime, method="Percentile:99.999", is_legal=True),
    "ort-free-minmax": partial(onnxruntime, method="MinMax", is_legal=False),
    "nncf-mixed": partial(nncf, preset="MIXED"),
    "nncf-performance": partial(nncf, preset="PERFORMANCE"),
    "nncf-onnx": partial(nncf, preset="PERFORMANCE", is_onnx=True),
    "modelopt-entropy": partial(modelopt, method="entropy"),
    "modelopt-max": partial(modelopt, method="max"),
}


def peak_mib() -> float:
    """High-water mark of this process's resident memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (row for row in status.splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """One quantization."""
    name, source, images, out = sys.argv[1:]
    pixels = np.load(images, mmap_mode="r")
    wall, cpu = time.perf_counter(), time.process_time()
    made = METHODS[name](Path(source), pixels, Path(out))
    record = {
        "path": str(made),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": peak_mib(),
    }
    sys.stdout.write("\n" + json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
