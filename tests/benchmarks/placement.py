"""Every placement policy on trained networks: `python tests/benchmarks/placement.py --out X.json`.

Networks are those of the recipes given, else of all in calibration/recipes. Per policy: accuracy on
the validation split against the same library at f32; latency on the CPU, one interleaved run, as
ratio to the default; kernels and activation traffic of the plan that TensorRT-RTX compiles, which
needs no GPU. A policy that makes the very graph of an earlier one is not measured again.
`--markdown X.json` prints the table of a record instead.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edge_inception import stage
from edge_inception.artifact import EngineFile, RangeTable, TypedGraph
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.export.export import export
from edge_inception.export.options import ExportOptions
from edge_inception.graph.options import SimplifyOptions
from edge_inception.graph.simplify import simplify
from edge_inception.latency import machine, measure
from edge_inception.latency.measure import Contender, LatencyOptions
from edge_inception.pipeline import inputs
from edge_inception.pipeline.listener import Silent
from edge_inception.quant.insert_qdq import quantize
from edge_inception.quant.observe import calibrate
from edge_inception.quant.options import CalibrateOptions, QuantizeOptions
from edge_inception.quant.policies import POLICIES, SANDWICH
from edge_inception.recipe.reader import Recipe, load_recipe
from edge_inception.spec import Precision
from edge_inception.validate import accuracy

RECIPES = Path(__file__).parents[2] / "calibration" / "recipes"
PLAN = ("num_kernels", "activation_bytes", "total_weight_bytes")
TOOLS = ("onnx", "openvino", "tensorrt-rtx-cu12-libs", "numpy")


def graphs(
    recipe: Recipe, folder: Path, threads: int
) -> tuple[TypedGraph, dict[str, TypedGraph], TypedGraph]:
    """The FP32 graph, the INT8 graph of every policy, and the FP16 graph."""
    asked = ExportOptions(
        model=recipe.model,
        preprocess=recipe.preprocess,
        model_options=recipe.model_options,
        checkpoint_format=recipe.checkpoint_format,
        num_classes=recipe.num_classes,
    )
    graph = export(recipe.checkpoint, asked, folder / "model.onnx")
    simple = simplify(graph, SimplifyOptions(), folder / "simplified.onnx")
    how = CalibrateOptions(
        preprocess=simple.details.preprocess,
        calibrator=recipe.calibrator,
        threads=threads,
        max_images=recipe.calibration_images,
    )
    photos = inputs.open_image_set(recipe.calibration, "calibration", recipe, Silent())
    ranges = calibrate(simple, photos, how, folder / "ranges.json")

    def typed(name: str, table: RangeTable | None, precision: Precision, **how: Any) -> TypedGraph:
        options = QuantizeOptions(precision=precision, **how)
        return quantize(simple, table, options, folder / f"{name}.onnx")

    plain = typed("fp32", None, Precision.FP32)
    int8 = {
        policy.name: typed(policy.name, ranges, Precision.INT8, placement=policy.name)
        for policy in POLICIES
    }
    return plain, int8, typed("fp16", None, Precision.FP16)


def answers(
    engines: dict[str, EngineFile],
    graph: TypedGraph,
    photos: ImageSet,
    threads: int,
) -> dict[str, Any]:
    """Logits [N, C] of every engine; each image is decoded once."""
    backend, found = backends.backend("openvino"), {name: [] for name in engines}
    how = graph.details.preprocess
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(backend.open(engine, SessionOptions(threads=threads)))
            for name, engine in engines.items()
        }
        for batch in images.batches(photos.items, how, 1):
            for name, session in sessions.items():
                found[name].append(session.run(batch.images).copy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def plans(typed: dict[str, TypedGraph], folder: Path) -> dict[str, Any]:
    """What TensorRT-RTX says of its plan, by graph."""
    backend, found = backends.backend("tensorrt_rtx"), {}
    for name, graph in typed.items():
        made = backend.compile(graph, CompileOptions(), folder / f"{name}.engine")
        found[name] = {key: getattr(made.details, key) for key in PLAN}
        found[name]["convolutions"] = made.details.convolutions
        sys.stderr.write(f"{name}: {found[name]}\n")
    return found


def race(
    engines: dict[str, EngineFile],
    photos: ImageSet,
    how: Any,
    options: LatencyOptions,
    folder: Path,
) -> dict[str, Any]:
    """Latency of every engine in one interleaved measurement."""
    np.save(folder / "pixels.npy", next(images.batches(photos.items[:8], how, 8)).images)
    contenders = [
        Contender(
            name=name,
            factory="edge_inception.inference:open_engine",
            arguments={"path": str(engine.path)},
        )
        for name, engine in engines.items()
    ]
    return measure.measure(contenders, folder / "pixels.npy", options)


def network(recipe: Recipe, folder: Path, options: LatencyOptions) -> dict[str, Any]:
    """The record of one network."""
    plain, typed, half = graphs(recipe, folder, options.threads)
    first: dict[str, str] = {}
    same = {name: first.setdefault(graph.sha256, name) for name, graph in typed.items()}
    distinct = {name: typed[name] for name in first.values()}
    cpu = backends.backend("openvino")
    engines = {
        name: cpu.compile(graph, CompileOptions(), folder / f"{name}{cpu.suffix}")
        for name, graph in {"fp32": plain, **distinct}.items()
    }
    photos = inputs.open_image_set(recipe.validation, "validation", recipe, Silent())
    how = plain.details.preprocess
    measured = race(engines, photos, how, options, folder)
    logits = answers(engines, plain, photos, options.threads)
    labels = np.array([-1 if item.label is None else item.label for item in photos.items], np.int64)
    compiled = plans({"fp16": half, **distinct}, folder)
    policies: dict[str, Any] = {}
    for name, original in same.items():
        if original != name:
            policies[name] = {"same_graph_as": original}
            continue
        found = accuracy.compare(logits["fp32"], labels, logits[name])
        policies[name] = {
            "counts": dict(typed[name].counts),
            "sqnr_db": found.sqnr_db,
            "agreement": stage.plain(found.agreement),
            "drop_pp": stage.plain(found.labelled.drop_pp) if found.labelled else None,
            "latency_ms_p50": measured[name].p50_ms,
            "latency_over_default": stage.plain(
                measure.ratio(measured[name], measured[SANDWICH.name])
            ),
            "executed_layers": getattr(engines[name].details, "executed_layers", None),
            "plan": compiled[name],
        }
    return {
        "recipe": Path(recipe.origin).name,
        "model": recipe.model,
        "model_options": dict(recipe.model_options),
        "num_validation": len(photos.items),
        "bias_correction": QuantizeOptions(precision=Precision.INT8).bias_correction,
        "foreign_cores": measured["fp32"].foreign_cores,
        "fp32_latency_ms_p50": measured["fp32"].p50_ms,
        "fp16_plan": compiled["fp16"],
        "policies": policies,
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown, one row for each network and policy."""
    columns = ("network", "placement", "SQNR dB", "agreement", "top-1 drop pp")
    columns += ("CPU latency over default", "RTX kernels", "RTX traffic MB")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in record["networks"]:
        title = f"{one['model']} w{one['model_options'].get('width', 1)}"
        plan = one["fp16_plan"]
        traffic = plan["activation_bytes"] / 1e6
        lines.append(f"| {title} | none: FP16 | | | | | {plan['num_kernels']} | {traffic:.1f} |")
        for name, row in one["policies"].items():
            if "same_graph_as" in row:
                lines.append(
                    f"| {title} | {name} | the graph of {row['same_graph_as']} | | | | | |"
                )
                continue
            plan, ratio, drop = row["plan"], row["latency_over_default"], row["drop_pp"]
            lines.append(
                f"| {title} | {name} | {row['sqnr_db']:.1f} | {row['agreement']['value']:.4f} | "
                f"{drop['value']:.2f} ({drop['lower']:.2f} to {drop['upper']:.2f}) | "
                f"{ratio['value']:.2f} ({ratio['lower']:.2f} to {ratio['upper']:.2f}) | "
                f"{plan['num_kernels']} | {plan['activation_bytes'] / 1e6:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, print, write JSON; or print the table of a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--markdown", type=Path, metavar="JSON")
    arguments = parser.parse_args()
    if arguments.markdown:
        sys.stdout.write(table(json.loads(arguments.markdown.read_text(encoding="utf-8"))))
        return 0
    options = LatencyOptions(threads=arguments.threads, rounds=arguments.rounds, block_s=0.4)
    networks = []
    for path in arguments.recipe or sorted(RECIPES.glob("*.toml")):
        with tempfile.TemporaryDirectory(prefix="placement-") as name:
            networks.append(network(load_recipe(path), Path(name), options))
    record = {
        "benchmark": "placement",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": stage.plain(machine.describe()),
        "tools": {tool: stage.tool_version(tool) for tool in TOOLS},
        "threads": arguments.threads,
        "networks": networks,
    }
    text = json.dumps(record, indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
