"""Every architecture through a whole build on real photos: `make e2e`.

Weights are random and of realistic scale: Kaiming-normal convolutions, batch-norm statistics of
photos, so activations and their ranges are real and accuracy means nothing. Each form is built for
`cpu` and `rtx` at INT8, and for `rtx` at FP16; its report and sidecars give one row of the table. A
form that was built is reused, so an interrupted run goes on where it stopped.

The SQNR is that of centred logits: random networks have a large offset common to all classes, which
would flatter every engine. Agreement is shown where at least 10 different classes are predicted.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _photo_folders import photo_folders, write_record
from safetensors.torch import save_file
from torch import nn

from edge_inception import artifact, records, registry, stage
from edge_inception.artifact import EngineFile, SimplifiedGraph
from edge_inception.cli._terminal import Terminal
from edge_inception.data import images
from edge_inception.data.imageset import open_set
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions
from edge_inception.models._trace import total_cost, trace
from edge_inception.pipeline import build
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.options import QuantizeOptions
from edge_inception.recipe.reader import load_recipe
from edge_inception.spec import Precision
from edge_inception.validate.report_record import ReportRecord

NUM_STATISTICS, NUM_CALIBRATION, NUM_VALIDATION = 16, 64, 64
LEAST_CLASSES = 10
_COLUMNS = (
    *("network", "input", "nodes", "GMACs", "f32 ms", "INT8 ms", "over f32", "over eager"),
    *("SQNR dB", "agree %", "cpu MB", "rtx MB", "rtx FP16 MB", "rtx INT8 layers"),
)
_TOOLS = ("torch", "onnx", "onnxsim", "openvino", "tensorrt-rtx-cu12-libs", "numpy")


@dataclass(frozen=True, kw_only=True)
class Form:
    """A published form of an architecture: whose preprocessing, which options."""

    model: str
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.model}, {self.note}" if self.note else self.model


FORMS = (
    Form(model="googlenet", family="torchvision"),
    Form(
        model="googlenet",
        family="torchvision",
        options={"norm": "lrn", "branch_kernel": 5, "pool4_kernel": 3, "transform_input": False},
        note="paper",
    ),
    Form(model="inception_v2", family="cadene"),
    Form(model="inception_v2", family="slim", note="TF-slim"),
    Form(model="inception_v3", family="torchvision"),
    Form(model="inception_v4", family="timm"),
    Form(model="inception_resnet_v1", family="native"),
    Form(model="inception_resnet_v1", family="facenet", note="FaceNet"),
    Form(model="inception_resnet_v2", family="timm"),
    Form(model="inception_resnet_v2", family="timm", options={"form": "paper"}, note="paper"),
    Form(model="resnet50", family="torchvision"),
    Form(model="resnet101", family="torchvision"),
    Form(model="resnet152", family="torchvision"),
)


def main() -> int:
    """Build every form, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="Forms whose name contains this.")
    parser.add_argument("--folder", type=Path, default=Path("build/e2e"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON of all rows.")
    arguments = parser.parse_args()
    photos = photo_folders(
        arguments.folder, {"calibration": NUM_CALIBRATION, "validation": NUM_VALIDATION}
    )
    rows = []
    for form in FORMS:
        if arguments.only in form.name:
            sys.stderr.write(f"== {form.name}\n")
            rows.append(run(form, photos, arguments))
    sys.stdout.write(table(rows))
    if arguments.out:
        write_record(
            arguments.out,
            "family",
            _TOOLS,
            threads=arguments.threads,
            num_calibration=NUM_CALIBRATION,
            num_validation=NUM_VALIDATION,
            rows=rows,
        )
    return 0


_OF_GRAPH = ("element", "layout")  # fields of Preprocess that are the graph's, not the family's


def run(form: Form, photos: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """One form: checkpoint, build, and what the build's files say."""
    out = arguments.folder / form.name.replace(", ", "-").replace(" ", "-").lower()
    checkpoint = out / "checkpoint.safetensors"
    if not checkpoint.exists():
        write_checkpoint(form, photos["calibration"], checkpoint)
    families = registry.model(form.model).families
    family = next(family for family in families if family.name == form.family)
    how = stage.plain(family.preprocess)
    overrides = {
        "model.name": form.model,
        "model.checkpoint": str(checkpoint),
        "model.checkpoint_format": "native",  # our own keys, whatever the family calls them
        "model.options": {**family.options, **form.options},
        **{f"preprocess.{key}": value for key, value in how.items() if key not in _OF_GRAPH},
        "data.calibration": str(photos["calibration"]),
        "data.validation": str(photos["validation"]),
        "build.precision": "int8",
        "build.targets": ["cpu", "rtx"],
        "build.threads": arguments.threads,
        "build.out": str(out),
        "latency.rounds": arguments.rounds,
        "gates.min_sqnr_db": 0.0,  # the table is the result; random weights have no quality to gate
    }
    result = build.build(
        load_recipe(None, overrides), keep_failed=True, listener=Terminal(verbosity=0)
    )
    return {**_row(form, out, result.report), **_half(out)}


def _half(out: Path) -> dict[str, Any]:
    """The same graph at FP16 through NVIDIA's compiler."""
    simplified = artifact.load(SimplifiedGraph, out / "model.simplified.onnx")
    options = QuantizeOptions(precision=Precision.FP16)
    typed = quantize(simplified, None, options, out / "model.fp16.onnx")
    backend = backends.backend("tensorrt_rtx")
    engine = backend.compile(typed, CompileOptions(), out / f"model.fp16.rtx{backend.suffix}")
    return {"rtx_fp16_bytes": engine.path.stat().st_size, "rtx_fp16": engine.counts}


def write_checkpoint(form: Form, photos: Path, path: Path) -> None:
    """Weights in our own keys, statistics of the form's own preprocessing of photos."""
    torch.manual_seed(0)
    spec = registry.model(form.model)
    family = next(family for family in spec.families if family.name == form.family)
    model = spec.build(num_classes=spec.num_classes, **{**family.options, **form.options})
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = None  # a plain average over the batches
            nn.init.constant_(module.weight, 0.5)
            nn.init.constant_(module.bias, 0.5)
    with torch.no_grad():
        items = open_set(photos).items[:NUM_STATISTICS]
        for batch in images.batches(items, family.preprocess, 8):
            model.train()(torch.from_numpy(batch.images))
    path.parent.mkdir(parents=True, exist_ok=True)
    artifact.replace_file(path, lambda temporary: save_file(model.state_dict(), temporary))


def _row(form: Form, out: Path, report: ReportRecord) -> dict[str, Any]:
    spec = registry.model(form.model)
    family = next(family for family in spec.families if family.name == form.family)
    simplified = artifact.load(SimplifiedGraph, out / "model.simplified.onnx")
    size = tuple(simplified.details.preprocess.input_size)
    options = {**family.options, **form.options}
    macs = total_cost(trace(spec.describe(num_classes=spec.num_classes, **options), size)).macs
    rows = {row.name: row for row in report.rows}
    subject, eager = rows["INT8 (cpu)"], rows["PyTorch FP32"]
    with np.load(out / "baseline.npz") as baseline:
        num_predicted = len(np.unique(baseline["logits"].argmax(1)))
    p50 = {name: row.latency.p50_ms for name, row in rows.items() if row.latency}
    engines = {
        target: artifact.load(EngineFile, out / f"model.int8.{target}{suffix}")
        for target, suffix in (("cpu", ".blob"), ("rtx", ".engine"))
    }
    return {
        "name": form.name,
        "size": size,
        "num_nodes_before": simplified.counts["num_nodes_before"],
        "num_nodes": simplified.counts["num_nodes"],
        "gmacs": macs / 1e9,
        "p50_ms": p50,
        "speedup_over_eager": p50["PyTorch FP32"] / p50["INT8 (cpu)"],
        "speedup_over_f32": p50["engine f32 (cpu)"] / p50["INT8 (cpu)"],
        "sqnr_db": subject.accuracy.sqnr_db,
        "num_classes_predicted": num_predicted,
        "agreement": records.plain(subject.accuracy.agreement),
        "int8_layers": engines["cpu"].counts,
        "rtx_int8": engines["rtx"].counts,
        "engine_bytes": {target: e.path.stat().st_size for target, e in engines.items()},
        "num_images": eager.accuracy.num_images,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|---|" + "---:|" * (len(_COLUMNS) - 2)]
    for row in rows:
        is_decided = row["num_classes_predicted"] >= LEAST_CLASSES
        agreement = f"{100 * row['agreement']['value']:.1f}" if is_decided else "-"
        cpu, rtx = (row["engine_bytes"][target] / 1e6 for target in ("cpu", "rtx"))
        cells = (
            row["name"],
            "x".join(map(str, row["size"])),
            f"{row['num_nodes_before']} to {row['num_nodes']}",
            f"{row['gmacs']:.3f}",
            f"{row['p50_ms']['engine f32 (cpu)']:.1f}",
            f"{row['p50_ms']['INT8 (cpu)']:.1f}",
            f"{row['speedup_over_f32']:.2f}x",
            f"{row['speedup_over_eager']:.2f}x",
            f"{row['sqnr_db']:.1f}",
            agreement,
            f"{cpu:.1f}",
            f"{rtx:.1f}",
            f"{row['rtx_fp16_bytes'] / 1e6:.1f}",
            str(row["rtx_int8"]["int8_layers"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
