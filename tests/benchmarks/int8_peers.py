"""INT8 against other quantizers: `python tests/benchmarks/int8_peers.py`, then `--markdown`.

The same weights, calibration photos and evaluation photos for all. Every quantization is a fresh
process on one thread. Rivals live in an environment of their own, build/peers/venv, which this file
makes with pinned versions; the product never imports them. What was quantized is kept and used
again, so an interrupted run goes on where it stopped; accuracy and latency are measured anew.

Accuracy is that of the graph as written: OpenVINO in f32, int8 kernels off, so every Q/DQ computes
what it says. "executed" is the same engine or file with the int8 kernels of this CPU.

Legal for TensorRT: symmetric int8, zero point 0, float biases. The rest may use unsigned tensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import _peer_measure as measure
import _peer_table as table
import numpy as np
from _peer_tools import peak_mib

from edge_inception import artifact, stage
from edge_inception.artifact import SimplifiedGraph, TypedGraph
from edge_inception.data import images, imageset
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions
from edge_inception.latency import machine
from edge_inception.latency import measure as latency
from edge_inception.latency.measure import Contender, LatencyOptions
from edge_inception.quant.options import (
    CalibrateOptions,
    Effort,
    FloatRest,
    QuantizeOptions,
    Typing,
)
from edge_inception.recipe import reader
from edge_inception.spec import Precision

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "peers"
RESULTS = ROOT / "tests" / "benchmarks" / "results" / "int8_peers.json"
RECIPES = ("solar", "solar-inception_v3", "solar-inception_resnet_v1")
PINS = (
    "torch==2.13.0",
    "nvidia-modelopt[onnx]==0.47.0",
    "nncf==3.4.0",
    "openvino==2026.4.1",
    "onnxruntime==1.32.0",
    "onnx==1.21.0",
)
NUM_CALIBRATION = 256  # whole chunks of what onnxruntime holds at once
RECIPE = "recipe"  # calibrator and placement of calibration/recipes/NAME.toml
FEW = 8  # images of a quantization that only the TensorRT compiler sees
FULL_SIZE = (
    "ours-quick",
    "nncf-performance",
    "modelopt-max",
    "ort-legal-entropy",
)  # without modelopt-entropy, which took 718 s of CPU time for 8 photos
FULL_SIZE_IMAGES = (32, 64)  # beyond the 16 that bias correction takes, whatever the set
LIMIT_S = 1200
_TOOLS = ("openvino", "onnxruntime", "onnx", "numpy", "torch", "tensorrt-rtx-cu12-libs")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to quantize; ``is_legal``: meant for TensorRT.

    ``is_raced``: it is executed, timed and given to NVIDIA's compiler too; what differs from it in
    scales alone is not. Ours have a ``calibrator``, and the ``typing`` and ``effort`` of options.
    """

    name: str
    says: str
    is_legal: bool = True
    is_raced: bool = False
    calibrator: str = ""
    typing: str = "strong"
    effort: str = "default"


PEERS = (
    Peer(name="ours", says="edge-inception, no flag", is_raced=True, calibrator=RECIPE),
    Peer(
        name="ours-cpu",
        says="edge-inception, for CPUs",
        is_legal=False,
        is_raced=True,
        calibrator=RECIPE,
        typing="cpu",
    ),
    Peer(name="ours-quick", says="edge-inception, quick", calibrator=RECIPE, effort="quick"),
    Peer(name="modelopt-max", says="ModelOpt, max", is_raced=True),
    Peer(name="ort-legal-minmax", says="onnxruntime symmetric, MinMax", is_raced=True),
    Peer(name="ort-legal-entropy", says="onnxruntime symmetric, Entropy"),
    Peer(name="ort-legal-percentile", says="onnxruntime symmetric, 99.999 %"),
    Peer(name="ort-free-minmax", says="onnxruntime uint8, MinMax", is_legal=False, is_raced=True),
    Peer(name="nncf-performance", says="NNCF PERFORMANCE", is_legal=False, is_raced=True),
    Peer(name="nncf-mixed", says="NNCF MIXED", is_legal=False),
    Peer(name="modelopt-entropy", says="ModelOpt, entropy (its default)"),
)


def say(line: str) -> None:
    """Progress on stderr; stdout is for the record."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def make_environment() -> Path:
    """The interpreter of the rivals' environment, made at the first call."""
    folder = WORK / "venv"
    python, stamp = folder / "bin" / "python", folder / "pins.txt"
    if not stamp.exists() or stamp.read_text() != "\n".join(PINS):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PINS], check=True)
        stamp.write_text("\n".join(PINS))
    return python


def load_recipe(name: str) -> reader.Recipe:
    """The recipe of a trained network."""
    return reader.load_recipe(ROOT / "calibration" / "recipes" / f"{name}.toml")


def prepare(name: str) -> Path:
    """Folder with a network's simplified graph, its photos as .npy and their labels."""
    from edge_inception.export.export import export
    from edge_inception.export.options import ExportOptions
    from edge_inception.graph.options import SimplifyOptions
    from edge_inception.graph.simplify import simplify

    how = load_recipe(name)
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    choices = ExportOptions(
        model=how.model,
        preprocess=how.preprocess,
        model_options=how.model_options,
        num_classes=how.num_classes,
    )
    graph = export(how.checkpoint, choices, folder / "model.onnx")
    simple = simplify(graph, SimplifyOptions(), folder / "model.simplified.onnx")
    preprocess = simple.details.preprocess
    for source in (how.calibration, how.validation):
        assert source is not None
        target = folder / f"{source.split}.npy"
        chosen = photos(source.location, source.split)
        if not target.exists():
            stack = [batch.images for batch in images.batches(chosen.items, preprocess, 32)]
            np.save(target, np.concatenate(stack))
        np.save(folder / f"{source.split}.labels.npy", [item.label for item in chosen.items])
    return folder


def photos(location: Path, split: str) -> imageset.ImageSet:
    """The split; of the calibration split the first NUM_CALIBRATION."""
    whole = imageset.open_set(location, split=split)
    return replace(whole, items=whole.items[:NUM_CALIBRATION]) if split == "calibration" else whole


def quantize(name: str, folder: Path, pixels: Path, *, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Quantize in a fresh process on one thread, or take what an earlier one made of the same."""
    graph = folder / "model.simplified.onnx"
    peer = next((peer for peer in PEERS if peer.name == name), None)
    is_ours = peer is not None and bool(peer.calibrator)
    tool = Path(__file__).with_name("_peer_tools.py").read_bytes()
    key = [artifact.file_sha256(graph), np.load(pixels, mmap_mode="r").shape[0], str(hash_of(tool))]
    out = folder / f"{pixels.stem}-{name}"
    record = out.with_suffix(".json.made")
    if record.exists() and not is_ours:
        known: dict[str, Any] = json.loads(record.read_text())
        if known.pop("key") == key and Path(known["path"]).exists():
            return known
    if is_ours:
        command = [sys.executable, __file__, "--child", name, "--pixels", str(pixels)]
    else:
        rival = Path(__file__).with_name("_peer_tools.py")
        command = [str(make_environment()), str(rival), name, str(graph), str(pixels), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=limit_s, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed on {graph}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    record.write_text(json.dumps({**found, "key": key}))
    say(f"{folder.name:28} {name:22} {found['cpu_s']:7.1f} s CPU {found['peak_mib']:6.0f} MiB")
    return found


def hash_of(content: bytes) -> str:
    """Short name of a file's content."""
    return hashlib.sha256(content).hexdigest()[:12]


def quantize_ours(name: str, pixels: Path) -> dict[str, Any]:
    """Calibrate and quantize; unlike the rivals' its time includes decoding the photos."""
    from edge_inception.quant.insert_qdq import quantize as insert
    from edge_inception.quant.observe import calibrate

    folder = pixels.parent
    peer = next(peer for peer in PEERS if peer.name == name)
    graph = artifact.load(SimplifiedGraph, folder / "model.simplified.onnx")
    chosen = photos(ROOT / "calibration" / "sets" / "solar.json", "calibration")
    count = np.load(pixels, mmap_mode="r").shape[0]
    chosen = replace(chosen, items=chosen.items[:count])
    calibrator, placement = peer.calibrator, ""
    if calibrator == RECIPE:
        chosen_by = load_recipe(folder.name)
        calibrator, placement = chosen_by.calibrator, chosen_by.placement
    how = CalibrateOptions(
        preprocess=graph.details.preprocess,
        calibrator=calibrator,
        placement=placement,
        threads=1,
        typing=Typing(peer.typing),
        effort=Effort(peer.effort),
    )
    out = folder / f"{pixels.stem}-{name}"
    wall, cpu = time.perf_counter(), time.process_time()
    ranges = calibrate(graph, chosen, how, out.with_suffix(".ranges.json"))
    options = QuantizeOptions(
        precision=Precision.INT8,
        typing=how.typing,
        float_rest=FloatRest.FP32,
        placement=placement,
    )
    made = insert(graph, ranges, options, out.with_suffix(".onnx"))
    return {
        "path": str(made.path),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": peak_mib(),
    }


def run_network(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One trained network: every peer's graph, accuracy, latency, and what RTX makes of it."""
    folder = prepare(name)
    labels = np.load(folder / "validation.labels.npy")[:: arguments.every]
    pixels = np.load(folder / "validation.npy", mmap_mode="r")[:: arguments.every]
    exact = measure.as_written(folder / "model.simplified.onnx", pixels)
    rows = []
    chosen = arguments.peers.split(",") if arguments.peers else [peer.name for peer in PEERS]
    for peer in (peer for peer in PEERS if peer.name in chosen):
        made = quantize(peer.name, folder, folder / "calibration.npy")
        path = Path(made["path"])
        row = {**asdict(peer), "calibration": made, "runs": str(path)}
        row["written"] = measure.closeness(exact, labels, measure.as_written(path, pixels))
        if peer.calibrator:
            row["runs"] = str(compile_ours(path))
        if peer.is_raced:
            executed = measure.as_executed(Path(row["runs"]), pixels)
            row["executed"] = measure.closeness(exact, labels, executed)
        if peer.is_raced and peer.typing == "strong":
            row["rtx"] = measure.rtx(for_compiler(path, folder))
        row["images_to_decide"] = measure.images_to_decide(row["written"], 0.5, len(labels))
        rows.append(row)
        say(f"{name:28} {peer.name:22} {row['written']['sqnr_db']:6.2f} dB")
    np.save(folder / "some.npy", pixels[:8])
    race(rows, folder / "some.npy", arguments)
    how = load_recipe(name)
    return {
        "name": name,
        "model": how.model,
        "size": list(pixels.shape[2:]),
        "num_calibration": NUM_CALIBRATION,
        "num_evaluation": len(labels),
        "float": measure.closeness(exact, labels, exact + 0.0),
        "rows": rows,
        "verdict": table.judged(rows),
    }


def for_compiler(path: Path, folder: Path) -> Path:
    """ONNX for NVIDIA's compiler; NNCF's comes of its ONNX backend and few photos."""
    if path.suffix == ".onnx":
        return path
    few = folder / "few.npy"
    np.save(few, np.load(folder / "calibration.npy", mmap_mode="r")[:FEW])
    return Path(quantize("nncf-onnx", folder, few)["path"])


def compile_ours(path: Path) -> Path:
    """Our engine for this CPU."""
    typed = artifact.load(TypedGraph, path)
    backend = backends.backend("openvino")
    return backend.compile(typed, CompileOptions(), path.with_suffix(".blob")).path


def race(rows: list[dict[str, Any]], some: Path, arguments: argparse.Namespace) -> None:
    """Latency of the raced rows in one interleaved run, each over ours."""
    raced = [row for row in rows if row["is_raced"]]
    contenders = [
        Contender(
            name=row["name"],
            factory="edge_inception.inference:open_engine"
            if row["calibrator"]
            else "_peer_measure:open_plain",
            arguments={"path": row["runs"]},
        )
        for row in raced
    ]
    options = LatencyOptions(threads=arguments.threads, rounds=arguments.rounds)
    found = latency.measure(contenders, some, options)
    for row in raced:
        one = found[row["name"]]
        row["latency"] = {
            "p50_ms": one.p50_ms,
            "p90_ms": one.p90_ms,
            "num_calls": one.num_calls,
            "foreign_cores": one.foreign_cores,
            "ours_over_it": stage.plain(latency.ratio(found["ours"], one)),
            "for_cpus_over_it": stage.plain(latency.ratio(found["ours-cpu"], one)),
        }


def full_size() -> dict[str, Any]:
    """Cost of one more calibration image on the full Inception-v4 of `calibration.py`."""
    import calibration as cost

    folder = WORK / "full-size"
    folder.mkdir(parents=True, exist_ok=True)
    cost.make_graph(folder)
    chosen = photos(ROOT / "calibration" / "sets" / "solar.json", "calibration").items
    for count in FULL_SIZE_IMAGES:
        if not (folder / f"photos{count}.npy").exists():
            stack = [b.images for b in images.batches(chosen[:count], cost.HOW, 8)]
            np.save(folder / f"photos{count}.npy", np.concatenate(stack))
    result, says = {}, {peer.name: peer.says for peer in PEERS}
    for name in FULL_SIZE:
        made = [quantize(name, folder, folder / f"photos{n}.npy") for n in FULL_SIZE_IMAGES]
        result[name] = {"says": says[name], **table.per_image(made, FULL_SIZE_IMAGES)}
    return result


def main() -> int:
    """Measure and write JSON, or print the table of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="the network of this recipe alone")
    parser.add_argument("--peers", default="", help="names of these quantizers, with commas")
    parser.add_argument("--every", type=int, default=1, help="evaluate every n-th photo")
    parser.add_argument("--threads", type=int, default=1, help="of the latency measurement")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--full-size", action="store_true", help="calibration cost alone")
    parser.add_argument("--markdown", action="store_true", help="the table of --out, on stdout")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--pixels", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.stdout.write(json.dumps(quantize_ours(arguments.child, arguments.pixels)) + "\n")
        return 0
    record = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.markdown:
        sys.stdout.write(table.markdown(record))
        return 0
    record |= {
        "benchmark": "int8_peers",
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "machine": stage.plain(machine.describe()),
        "tools": {tool: stage.tool_version(tool) for tool in _TOOLS},
        "rivals": PINS,
        "threads": arguments.threads,
    }
    if arguments.full_size:
        record["full_size"] = full_size()
    else:
        known = {network["name"]: network for network in record.get("networks", ())}
        for name in RECIPES:
            if arguments.only in ("", name):
                known[name] = run_network(name, arguments)
                record["networks"] = [known[name] for name in RECIPES if name in known]
                write(record, arguments.out)
    write(record, arguments.out)
    return 0


def write(record: dict[str, Any], out: Path) -> None:
    """The record so far."""
    text = json.dumps(record, indent=1, default=str) + "\n"
    artifact.replace_file(out, text.encode())


if __name__ == "__main__":
    sys.exit(main())
