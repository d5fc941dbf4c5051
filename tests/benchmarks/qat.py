"""What fine-tuning in int8 wins: `python tests/benchmarks/qat.py`.

The committed solar network (Inception-v4 of width 0.25), photos of the training split to train on
and of the validation split to compare on; none of them calibrated. Two tables of ranges: ``mse``,
with which int8 loses next to nothing, and one that clips the largest 1 % of every tensor, for a
network that calibration fails on. Single-threaded; the number of photos is what fits in minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_inception import artifact
from edge_inception.artifact import SimplifiedGraph
from edge_inception.data import imageset
from edge_inception.export.export import export
from edge_inception.export.options import ExportOptions
from edge_inception.graph.options import SimplifyOptions
from edge_inception.graph.simplify import simplify
from edge_inception.latency import machine
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import CalibrateOptions
from edge_inception.stage import plain, tool_version
from edge_inception.training.qat import QatOptions, fine_tune

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "calibration"
SET = CALIBRATION / "sets" / "solar.json"
CHECKPOINT = CALIBRATION / "checkpoints" / "solar-inception_v4-w025.safetensors"
CALIBRATORS = ("percentile:99", "mse")
TOOLS = ("torch", "onnx", "onnxruntime", "openvino", "numpy")


def exported(folder: Path) -> SimplifiedGraph:
    """The solar network as a simplified graph."""
    how = {"input_size": (299, 299), "crop_fraction": 1.0, "interpolation": "bilinear"}
    options = ExportOptions(
        model="inception_v4", model_options={"width": 0.25}, preprocess=how, num_classes=2
    )
    graph = export(CHECKPOINT, options, folder / "model.onnx")
    return simplify(graph, SimplifyOptions(), folder / "model.simplified.onnx")


def measured(
    graph: SimplifiedGraph, calibrator: str, arguments: argparse.Namespace, folder: Path
) -> Mapping[str, Any]:
    """Calibrate, fine-tune, and what came of it; a worse graph is a result too."""
    how = CalibrateOptions(
        preprocess=graph.details.preprocess, calibrator=calibrator, threads=1, max_images=64
    )
    images = imageset.open_set(SET, split="calibration")
    table = calibrate(graph, images, how, folder / "ranges.json")
    sets = tuple(
        imageset.open_set(SET, split=split).subset(count)
        for split, count in (("train", arguments.images), ("validation", arguments.held))
    )
    options = QatOptions(
        epochs=arguments.epochs, batch=arguments.batch, threads=1, is_kept_when_worse=True
    )
    started = time.process_time()
    fine_tune(graph, table, (sets[0], sets[1]), options, folder / "qat")
    record: Mapping[str, Any] = json.loads((folder / "qat" / "qat.json").read_text("utf-8"))
    kept = ("float32", "before", "after", "train", "monitor", "history", "seconds", "options")
    return {
        "calibrator": calibrator,
        "distillation": options.distillation,
        "cpu_seconds": round(time.process_time() - started),
        **{name: record[name] for name in kept},
    }


def main() -> None:
    """Measure every calibrator and write the results, after each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, help="simplified solar graph; else it is exported")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--held", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/benchmarks/results/qat.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = arguments.graph
        graph = artifact.load(SimplifiedGraph, given) if given else exported(folder)
        record: dict[str, Any] = {
            "schema": 1,
            "date": datetime.now(timezone.utc).date().isoformat(),
            "machine": plain(machine.describe()),
            "tools": {tool: tool_version(tool) for tool in TOOLS},
            "runs": [],
        }
        for number, calibrator in enumerate(CALIBRATORS):
            record["runs"].append(measured(graph, calibrator, arguments, folder / str(number)))
            arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            figures = {when: record["runs"][-1][when] for when in ("float32", "before", "after")}
            print(calibrator, json.dumps(figures))  # noqa: T201 -- a script


if __name__ == "__main__":
    main()
