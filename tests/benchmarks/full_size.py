"""Full-size Inception-v4 through every stage: `python tests/benchmarks/full_size.py --out X.json`.

1000 classes, 299 x 299, timm's keys; random weights with batch-norm statistics taken from photos,
so ranges are realistic and accuracy means nothing. Calibrated on 64 photos. Latencies are of one
interleaved run, a fresh process for each contender: PyTorch as it is used and at its best, the
engine library at f32 and bf16, the INT8 engine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from edge_inception import registry, stage
from edge_inception.artifact import EngineFile, TypedGraph
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet, open_set
from edge_inception.device.outputs import sqnr_db
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions
from edge_inception.export.export import export
from edge_inception.export.options import ExportOptions
from edge_inception.graph.options import SimplifyOptions
from edge_inception.graph.simplify import simplify
from edge_inception.latency import machine, measure
from edge_inception.latency.measure import Contender, LatencyOptions
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import CalibrateOptions, QuantizeOptions
from edge_inception.spec import Precision

MODEL = "inception_v4"
SOLAR = Path(__file__).parents[2] / "calibration" / "sets" / "solar.json"
NUM_PHOTOS = 64
EAGER = "PyTorch eager FP32"
INT8 = "OpenVINO INT8"


def write_checkpoint(path: Path, photos: ImageSet) -> None:
    """Kaiming-normal weights; batch-norm mean and variance are those of 16 photos."""
    torch.manual_seed(0)
    spec = registry.model(MODEL)
    model = spec.build(num_classes=spec.num_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average over the batches
            torch.nn.init.constant_(module.weight, 0.5)
            torch.nn.init.constant_(module.bias, 0.5)
    with torch.no_grad():
        for batch in images.batches(photos.items[:16], spec.preprocess, 8):
            model.train()(torch.from_numpy(batch.images))
    save_file(model.state_dict(), path, metadata={"model": MODEL})


def make_engines(folder: Path, photos: ImageSet, threads: int) -> tuple[dict[str, EngineFile], Any]:
    """Every stage up to the engines; the second value is counts and seconds by stage."""
    spec = registry.model(MODEL)
    record: dict[str, Any] = {}

    def timed(name: str, run: Any) -> Any:
        started = time.monotonic()
        made = run()
        seconds = round(time.monotonic() - started, 2)
        record[name] = {"seconds": seconds, "counts": stage.plain(made.counts)}
        sys.stderr.write(f"{name}: {seconds} s\n")
        return made

    choices = ExportOptions(model=MODEL)
    graph = timed("export", lambda: export(folder / "full.safetensors", choices, folder / "m.onnx"))
    simple = timed("simplify", lambda: simplify(graph, SimplifyOptions(), folder / "s.onnx"))
    how = CalibrateOptions(preprocess=spec.preprocess, threads=threads)
    ranges = timed("calibrate", lambda: calibrate(simple, photos, how, folder / "ranges.json"))
    typed: dict[Precision, TypedGraph] = {}
    for precision in (Precision.FP32, Precision.INT8):
        table = ranges if precision is Precision.INT8 else None
        options = QuantizeOptions(precision=precision)
        path = folder / f"{precision.value}.onnx"
        typed[precision] = timed(
            f"quantize {precision.value}",
            lambda t=table, o=options, p=path: quantize(simple, t, o, p),
        )
    wanted = (
        ("OpenVINO f32", "openvino", Precision.FP32, "f32"),
        ("OpenVINO bf16", "openvino", Precision.FP32, "bf16"),
        (INT8, "openvino", Precision.INT8, "f32"),
        ("TensorRT-RTX FP32", "tensorrt_rtx", Precision.FP32, "f32"),
        ("TensorRT-RTX INT8", "tensorrt_rtx", Precision.INT8, "f32"),
    )
    engines: dict[str, EngineFile] = {}
    for name, backend, precision, float_precision in wanted:
        library = backends.backend(backend)
        if float_precision not in library.availability().float_precisions:
            continue
        options = CompileOptions(float_precision=float_precision)
        path = folder / f"{name.replace(' ', '-')}{library.suffix}"
        engines[name] = timed(
            f"compile {name}",
            lambda b=library, g=typed[precision], o=options, p=path: b.compile(g, o, p),
        )
        record[f"compile {name}"]["size_bytes"] = engines[name].path.stat().st_size
        record[f"compile {name}"]["details"] = {
            key: getattr(engines[name].details, key, None)
            for key in ("executed_layers", "weight_bytes")
        }
    return engines, record


def contenders(folder: Path, engines: dict[str, EngineFile]) -> list[Contender]:
    """PyTorch three ways and the OpenVINO engines."""
    ways = {
        EAGER: {},
        "PyTorch channels_last FP32": {"memory_format": "channels_last"},
        "PyTorch channels_last bf16": {"memory_format": "channels_last", "autocast": "bf16"},
    }
    checkpoint = {"checkpoint": str(folder / "full.safetensors"), "model": MODEL}
    torch_ways = [
        Contender(
            name=name,
            factory="edge_inception.baseline.pytorch:open_session",
            arguments={**checkpoint, **way},
        )
        for name, way in ways.items()
    ]
    return torch_ways + [
        Contender(
            name=name,
            factory="edge_inception.inference:open_engine",
            arguments={"path": str(engine.path)},
        )
        for name, engine in engines.items()
        if name.startswith("OpenVINO")
    ]


def main() -> int:
    """Run, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    photos = open_set(SOLAR, split="calibration").subset(NUM_PHOTOS)
    with tempfile.TemporaryDirectory(prefix="full-size-") as name:
        folder = Path(name)
        write_checkpoint(folder / "full.safetensors", photos)
        engines, stages = make_engines(folder, photos, arguments.threads)
        how = registry.model(MODEL).preprocess
        pixels = next(images.batches(photos.items[:8], how, 8)).images
        np.save(folder / "pixels.npy", pixels)
        options = LatencyOptions(threads=arguments.threads, rounds=arguments.rounds)
        measured = measure.measure(contenders(folder, engines), folder / "pixels.npy", options)
        logits = {}
        for engine in ("OpenVINO f32", INT8):
            with backends.backend("openvino").open(engines[engine], _session(arguments)) as session:
                logits[engine] = session.run(pixels)
    ratios = {
        name: stage.plain(measure.ratio(measured[name], measured[INT8]))
        for name in measured
        if name != INT8
    }
    record = {
        "benchmark": "full_size",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": stage.plain(machine.describe()),
        "tools": {
            tool: stage.tool_version(tool)
            for tool in ("torch", "onnx", "onnxsim", "openvino", "tensorrt-rtx-cu12-libs", "numpy")
        },
        "threads": arguments.threads,
        "num_photos": NUM_PHOTOS,
        "stages": stages,
        "latency_ms": {
            name: {"n": m.num_calls, "p50": m.p50_ms, "p90": m.p90_ms, "p99": m.p99_ms}
            for name, m in measured.items()
        },
        "latency_over_int8": ratios,
        "int8_sqnr_db_random_weights": sqnr_db(logits["OpenVINO f32"], logits[INT8]),
    }
    text = json.dumps(record, indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return 0


def _session(arguments: argparse.Namespace) -> Any:
    from edge_inception.engines._backend import SessionOptions

    return SessionOptions(threads=arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
