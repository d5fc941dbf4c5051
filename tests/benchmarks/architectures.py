"""24 timm architectures, exported by torch at its default opset, at fp32, fp16 and int8.

`python tests/benchmarks/architectures.py --out X.json`; `--markdown X.json` prints the table of a
record. Weights are random, with batch-norm statistics of photos; logits differ between photos.
Every build is a process of its own, whose traceback or death is recorded, as is the error line of a
refusal. Finished builds are kept in --folder and read again, so that an interrupted run goes on
where it stopped. TensorRT-RTX only compiles, which needs no GPU. INT8 over f32 is of OpenVINO on
this CPU, interleaved in one run; a row says how many cores other programs kept busy meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _photo_folders import photo_folders, write_record
from torch import nn

from edge_inception import stage
from edge_inception.data import images
from edge_inception.data.imageset import open_set
from edge_inception.spec import Preprocess
from edge_inception.validate import report_record

ROUNDS = {"fp32": 3, "fp16": 3, "int8": 6}  # of latency: only INT8 over f32 is in the table
NUM_STATISTICS, NUM_CALIBRATION, NUM_VALIDATION, NUM_CLASSES = 16, 64, 32, 100
PRECISIONS = ("fp32", "fp16", "int8")
TARGETS = ("cpu", "rtx")
_ENGINES = {"cpu": ".blob", "rtx": ".engine"}
_TOOLS = ("timm", "torch", "onnx", "onnxsim", "openvino", "tensorrt-rtx-cu12-libs", "onnxruntime")
_COLUMNS = (
    *("architecture", "kind", "side", "opset", "nodes", "fp32", "fp16", "int8"),
    *("INT8 layers", "SQNR dB", "INT8 over f32"),
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network of timm, what is particular of it, and the side of its square input in pixels."""

    name: str
    kind: str
    side: int = 160


def _of(kind: str, *names: str, side: int = 160) -> tuple[Architecture, ...]:
    return tuple(Architecture(name=name, kind=kind, side=side) for name in names)


ARCHITECTURES = (
    *_of("convolution", "resnet18", "densenet121", "regnetx_002", "dla34", "hrnet_w18_small"),
    *_of("convolution, group norm", "resnetv2_50x1_bit"),
    *_of("depthwise", "mobilenetv2_100", "mobilenetv4_conv_small", "fastvit_t8"),
    *_of("depthwise, layer norm", "convnext_atto"),
    *_of("squeeze-and-excite", "mnasnet_small", "efficientnet_b0", "ghostnet_100", "regnety_002"),
    *_of("squeeze-and-excite", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *_of("squeeze-and-excite", "seresnext26t_32x4d"),
    *_of("transformer", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", side=224),
    *_of("transformer", "levit_128s", "xcit_nano_12_p16_224", side=224),
    *_of("transformer", "efficientvit_b0", "mobilevit_xxs", "pvt_v2_b0"),
)


def main() -> int:
    """Export and build every architecture, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="Architectures whose name contains this.")
    parser.add_argument("--folder", type=Path, default=Path("build/architectures"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--effort", default="quick", help="Effort of calibration.")
    parser.add_argument("--out", type=Path, help="JSON of all rows.")
    parser.add_argument("--markdown", type=Path, help="Print the table of this record instead.")
    arguments = parser.parse_args()
    if arguments.markdown:
        record = json.loads(arguments.markdown.read_text(encoding="utf-8"))
        sys.stdout.write(table(record["rows"]))
        return 0
    photos = photo_folders(
        arguments.folder, {"calibration": NUM_CALIBRATION, "validation": NUM_VALIDATION}
    )
    rows = []
    for architecture in ARCHITECTURES:
        if arguments.only in architecture.name:
            sys.stderr.write(f"== {architecture.name}\n")
            rows.append(_row(architecture, photos, arguments))
    sys.stdout.write(table(rows))
    if arguments.out:
        write_record(
            arguments.out,
            "architectures",
            _TOOLS,
            threads=arguments.threads,
            effort=arguments.effort,
            num_calibration=NUM_CALIBRATION,
            num_validation=NUM_VALIDATION,
            rows=rows,
        )
    return 0


def _row(
    architecture: Architecture, photos: dict[str, Path], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The outcome of every precision and target, what the graph is and what INT8 costs."""
    folder = arguments.folder / architecture.name
    source = folder / f"{architecture.name}.onnx"
    facts = folder / "export.json"
    if not facts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        facts.write_text(json.dumps(export(architecture, photos["calibration"], source)))
    outcomes = {
        precision: _build(source, precision, photos, arguments, folder) for precision in PRECISIONS
    }
    return {
        **asdict(architecture),
        **json.loads(facts.read_text(encoding="utf-8")),
        "builds": outcomes,
        **_figures(folder / "int8" / "report.json"),
    }


def export(architecture: Architecture, photos: Path, path: Path) -> dict[str, Any]:
    """Write the network with random weights by torch at its default opset; facts about the file."""
    import onnx

    timm = _import_timm()
    torch.manual_seed(0)
    model = timm.create_model(architecture.name, num_classes=NUM_CLASSES)
    _spread(model)
    how = Preprocess(input_size=(architecture.side, architecture.side))
    items = open_set(photos).items[:NUM_STATISTICS]
    (batch,) = images.batches(items, how, NUM_STATISTICS)
    pixels = torch.from_numpy(batch.images)
    with torch.no_grad():
        model.train()(pixels)
        logits = model.eval()(pixels)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (pixels[:1],), str(path), dynamo=True, external_data=False, verbose=False
        )
    graph = onnx.load(path)
    return {
        "opset": graph.opset_import[0].version,
        "num_nodes": len(graph.graph.node),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        # A graph whose logits are the same for every photo would pass any comparison.
        "logits_std_of_photos": float(logits.std(0).mean()),
        "logits_std_of_classes": float(logits.std(1).mean()),
    }


def _import_timm() -> Any:
    """Timm without torchvision's operators, which a CPU build of torch may not load."""
    if "torchvision" not in sys.modules and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        globals()["_LIBRARY"] = library  # must live as long as torchvision
    import timm

    return timm


def _spread(model: nn.Module) -> None:
    """Weights as after training in size: no zero head, no residual branch that is scaled away."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = None  # a plain average over the batches
    for name, parameter in model.named_parameters():
        if "layer_scale" in name or name.rpartition(".")[2].startswith("gamma"):
            nn.init.uniform_(parameter, 0.5, 1.0)
    heads = model.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)  # LeViT has two
    for linear in (each for head in heads for each in head.modules()):
        if not isinstance(linear, nn.Linear):
            continue
        nn.init.normal_(linear.weight, 0.0, linear.in_features**-0.5)


def _build(
    source: Path, precision: str, photos: dict[str, Path], arguments: argparse.Namespace, out: Path
) -> dict[str, str]:
    """Target -> ``built``, or why not; each target alone where they are refused together."""
    out /= precision
    done = out / "outcome.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    outcomes: dict[str, str] = {}
    for targets in (TARGETS, *((target,) for target in TARGETS)):
        line = _run(source, precision, targets, photos, arguments, out)
        outcomes |= {
            target: line or "built"
            for target in targets
            if line or (out / f"model.{precision}.{target}{_ENGINES[target]}").exists()
        }
        if not line:
            break
    done.write_text(json.dumps(outcomes))
    return outcomes


def _run(
    source: Path,
    precision: str,
    targets: tuple[str, ...],
    photos: dict[str, Path],
    arguments: argparse.Namespace,
    out: Path,
) -> str:
    """Build with the command line; empty if it went through, else its error line."""
    recipe = out.parent / f"{precision}.toml"
    recipe.write_text(f"schema = 1\n[latency]\nrounds = {ROUNDS[precision]}\ncalls_per_block = 5\n")
    command = [
        *(sys.executable, "-m", "edge_inception", "build", "--recipe", str(recipe)),
        *("--onnx", str(source)),
        *("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--precision", precision),
        *("--calibration", str(photos["calibration"]), "--validation", str(photos["validation"])),
        *("--threads", str(arguments.threads), "--effort", arguments.effort, "--out", str(out)),
        # Random weights have no quality to gate, and a slow INT8 is a row of the table.
        *("--min-sqnr", "0", "--min-agreement", "0", "--min-speedup", "0", "--keep-failed"),
        *(part for target in targets for part in ("--target", target)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (out.parent / f"{precision}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if "Traceback" in done.stderr:
        return f"TRACEBACK {done.stderr.splitlines()[-1]}"
    if (out / "report.json").exists() and done.returncode in {0, 6, 8}:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    return " ".join(lines) or f"exit code {done.returncode}"


def _figures(report: Path) -> dict[str, Any]:
    """SQNR and speed of INT8 on this CPU; none if it was not built."""
    if not report.exists():
        return {}
    rows = {row.name: row for row in report_record.read(report).rows}
    subject = rows.get("INT8 (cpu)")
    if subject is None or subject.accuracy is None:
        return {}
    return {
        "sqnr_db": subject.accuracy.sqnr_db,
        "agreement": subject.accuracy.agreement.value,
        "speedup_over_f32": stage.plain(subject.speedup),
        "p50_ms": {name: row.latency.p50_ms for name, row in rows.items() if row.latency},
        "executed_layers": dict(subject.executed_layers),
        "foreign_cores": subject.latency.foreign_cores if subject.latency else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, and below it every refusal."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|---|" + "---:|" * (len(_COLUMNS) - 2)]
    refusals = []
    for row in rows:
        cells = [row["name"], row["kind"], str(row["side"]), str(row["opset"])]
        cells.append(str(row["num_nodes"]))
        for precision, outcomes in row["builds"].items():
            built = [target for target, outcome in outcomes.items() if outcome == "built"]
            cells.append(", ".join(built) or "refused")
            refusals += [
                f"- {row['name']}, {precision}, {target}: {outcome}"
                for target, outcome in outcomes.items()
                if outcome != "built"
            ]
        layers = row.get("executed_layers", {})
        num_int8 = sum(number for name, number in layers.items() if name.endswith(("u8", "i8")))
        cells.append(f"{num_int8} of {sum(layers.values())}" if layers else "-")
        speedup = row.get("speedup_over_f32")
        cells.append(f"{row['sqnr_db']:.1f}" if layers else "-")
        bounds = f"{speedup['lower']:.2f} to {speedup['upper']:.2f}" if speedup else ""
        cells.append(f"{speedup['value']:.2f} ({bounds})" if speedup else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *refusals]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
