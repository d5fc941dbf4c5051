"""Cost of calibration over a plain forward pass: `python tests/benchmarks/calibration.py`.

Full-size Inception-v4 at 299 x 299 with 1000 classes: He weights, batch-norm statistics of real
photos. Every measurement is a fresh process; the processes of one round are interleaved. What is
compared is CPU time (user and system, all threads) after the imports:

- plain: read, compile and run the graph in OpenVINO at f32, static batch;
- calibrate: the whole stage, from reading the graph to the published range table;
- decode: reading and preprocessing the photos, done by both, so its time is taken off both.

Beside it: peak memory over the number of photos, what the sampled histograms cost in accuracy of
amax, and onnxruntime's quantize_static with its entropy calibrator on the same graph and photos.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_inception import artifact
from edge_inception.artifact import SimplifiedGraph
from edge_inception.data import images, imageset
from edge_inception.data.imageset import ImageSet
from edge_inception.export.options import ExportOptions
from edge_inception.graph.options import SimplifyOptions
from edge_inception.latency import machine
from edge_inception.metrics import intervals
from edge_inception.quant.options import CalibrateOptions
from edge_inception.spec import INPUT_NAME, Preprocess
from edge_inception.stage import plain, tool_version

ROOT = Path(__file__).parents[2]
SET = ROOT / "calibration" / "sets" / "solar.json"
HOW = Preprocess(input_size=(299, 299))
TOOLS = ("openvino", "onnxruntime", "onnx", "numpy", "torch")
GOAL_RATIO = 1.15
GOAL_MEMORY = 1.05
SMALL, LARGE = 32, 512
STATISTICS_IMAGES = 16
ERROR_IMAGES = 64
CALIBRATORS = ("mse", "percentile:99.99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one fresh process does."""

    role: str
    graph: Path
    num_images: int
    threads: int
    batch: int = 8
    skip: int = 0
    max_positions: int = CalibrateOptions.__dataclass_fields__["max_positions"].default
    calibrator: str = "mse"


def photos(job: Job) -> ImageSet:
    """The job's photos out of the training split, which is the largest."""
    whole = imageset.open_set(SET, split="train")
    return replace(whole, items=whole.items[job.skip : job.skip + job.num_images])


def options(job: Job) -> CalibrateOptions:
    """What the job calibrates with."""
    return CalibrateOptions(
        preprocess=HOW,
        calibrator=job.calibrator,
        batch=job.batch,
        threads=job.threads,
        max_positions=job.max_positions,
    )


def run_decode(job: Job, _: Path) -> Callable[[], None]:
    """Decode and preprocess, nothing else."""
    chosen = photos(job)

    def work() -> None:
        for _batch in images.batches(chosen.items, HOW, job.batch):
            pass

    return work


def run_plain(job: Job, _: Path) -> Callable[[], None]:
    """The graph as it is, with the settings of calibration."""
    import openvino as ov

    chosen = photos(job)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
    }

    def work() -> None:
        core = ov.Core()
        model = core.read_model(str(job.graph))
        model.reshape([job.batch, 3, *HOW.input_size])
        compiled = core.compile_model(model, "CPU", settings)
        assert compiled.get_property("INFERENCE_NUM_THREADS") == job.threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
        request = compiled.create_infer_request()
        for batch in images.batches(chosen.items, HOW, job.batch):
            missing = job.batch - len(batch.items)
            padded = np.pad(batch.images, [(0, missing), (0, 0), (0, 0), (0, 0)])
            request.infer([padded], share_inputs=True, share_outputs=True)

    return work


def run_calibrate(job: Job, folder: Path) -> Callable[[], None]:
    """The stage itself."""
    from edge_inception.quant.observe import calibrate

    chosen = photos(job)
    graph = artifact.load(SimplifiedGraph, job.graph)
    return lambda: calibrate(graph, chosen, options(job), folder / "ranges.json") and None


def run_onnxruntime(job: Job, folder: Path) -> Callable[[], None]:
    """quantize_static with the entropy calibrator, symmetric int8 as TensorRT needs it."""
    from onnxruntime import quantization as q

    chosen = photos(job)

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        """One photo at a time."""

        def __init__(self) -> None:
            self._batches = images.batches(chosen.items, HOW, 1)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT_NAME: batch.images}

    def work() -> None:
        q.quantize_static(
            str(job.graph),
            str(folder / "ort.onnx"),
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod.Entropy,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )

    return work


ROLES = {
    "decode": run_decode,
    "plain": run_plain,
    "calibrate": run_calibrate,
    "onnxruntime": run_onnxruntime,
}


def child(job: Job, folder: Path) -> dict[str, float]:
    """CPU seconds of the job after its imports, and the peak memory of the process."""
    work = ROLES[job.role](job, folder)
    started, wall = time.process_time(), time.perf_counter()
    work()
    return {
        "cpu_s": time.process_time() - started,
        "wall_s": time.perf_counter() - wall,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """High-water mark of this process's resident memory; ru_maxrss would include the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (row for row in status.splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def spawn(job: Job, folder: Path) -> dict[str, float]:
    """Run a job in a fresh interpreter."""
    text = json.dumps({**asdict(job), "graph": str(job.graph)})
    command = [sys.executable, __file__, "--child", text, "--work", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(f"{job.role:12} {job.num_images:4} photos  {found['cpu_s']:7.2f} s CPU  "
        f"{found['peak_mib']:6.0f} MiB")  # fmt: skip
    return found


def say(line: str) -> None:
    """Progress on stderr; stdout is for the record."""
    sys.stderr.write(line + "\n")


def make_graph(folder: Path) -> Path:
    """Checkpoint -> graph -> simplified graph of the full Inception-v4; reused when it is there."""
    path = folder / "model.simplified.onnx"
    if not path.exists():
        from edge_inception.export.export import export
        from edge_inception.graph.simplify import simplify

        checkpoint = folder / "full.safetensors"
        write_checkpoint(checkpoint)
        how = ExportOptions(model="inception_v4")
        simplify(export(checkpoint, how, folder / "model.onnx"), SimplifyOptions(), path)
    return path


def write_checkpoint(path: Path) -> None:
    """1000 classes, He weights, batch-norm statistics of real photos: activations near one."""
    import torch
    from safetensors.torch import save_file

    from edge_inception import registry

    torch.manual_seed(0)
    model = registry.model("inception_v4").build(num_classes=1000)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            module.momentum = None  # a plain average over the photos
    torch.nn.init.normal_(model.last_linear.weight, 0.0, 0.05)
    items = imageset.open_set(SET, split="train").items[:STATISTICS_IMAGES]
    with torch.no_grad():
        model.train()
        for batch in images.batches(items, HOW, 8):
            model(torch.from_numpy(batch.images))
    save_file(model.state_dict(), path)


def measure_ratio(job: Job, rounds: int, folder: Path) -> dict[str, Any]:
    """Calibration over plain forward, decoding taken off both, one ratio per round."""
    times: dict[str, list[float]] = {"decode": [], "plain": [], "calibrate": []}
    for number in range(rounds):
        order = list(times) if number % 2 == 0 else list(reversed(times))
        for role in order:
            times[role].append(spawn(replace(job, role=role), folder)["cpu_s"])
    decode = np.array(times["decode"])
    ours, theirs = (list(np.array(times[role]) - decode) for role in ("calibrate", "plain"))
    return {
        "num_images": job.num_images,
        "batch": job.batch,
        "threads": job.threads,
        "max_positions": job.max_positions,
        "calibrator": job.calibrator,
        "rounds": rounds,
        "cpu_s": {role: [round(value, 3) for value in values] for role, values in times.items()},
        "plain_ms_per_image": round(1e3 * float(np.median(theirs)) / job.num_images, 2),
        "calibrate_ms_per_image": round(1e3 * float(np.median(ours)) / job.num_images, 2),
        "ratio": asdict(intervals.paired_ratio(ours, theirs)),
        "ratio_with_decoding": asdict(intervals.paired_ratio(times["calibrate"], times["plain"])),
        "goal_upper": GOAL_RATIO,
    }


def measure_memory(job: Job, folder: Path) -> dict[str, Any]:
    """Peak memory of the stage at few and at many photos."""
    found = {
        count: spawn(replace(job, num_images=count), folder)["peak_mib"] for count in (SMALL, LARGE)
    }
    return {
        "peak_mib": {str(count): round(peak, 1) for count, peak in found.items()},
        "ratio": round(found[LARGE] / found[SMALL], 4),
        "goal": GOAL_MEMORY,
    }


def measure_error(job: Job, folder: Path) -> dict[str, Any]:
    """Relative change of amax: sample against all elements, and other photos beside it."""
    result: dict[str, Any] = {"num_images": ERROR_IMAGES}
    for name in CALIBRATORS:
        base = replace(job, num_images=ERROR_IMAGES, calibrator=name)
        whole = amaxes(replace(base, max_positions=0), folder)
        sampled = amaxes(base, folder)
        others = amaxes(replace(base, skip=ERROR_IMAGES), folder)
        result[name] = {
            "sampled_against_all_elements": spread(sampled, whole),
            "other_photos_against_these": spread(others, sampled),
        }
    return result


def amaxes(job: Job, folder: Path) -> np.ndarray:
    """amax of every tensor after a calibration."""
    spawn(job, folder)
    record = json.loads((folder / "ranges.json").read_text(encoding="utf-8"))
    return np.array([tensor["amax"] for tensor in record["tensors"].values()])


def spread(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Median, 90th percentile and largest relative difference over the tensors."""
    difference = np.abs(found / wanted - 1)
    p50, p90 = np.percentile(difference, [50, 90])
    return {name: round(float(value), 5) for name, value in
            (("median", p50), ("p90", p90), ("max", difference.max()))}  # fmt: skip


def measure_onnxruntime(job: Job, folder: Path) -> dict[str, Any]:
    """quantize_static entropy at 16 and 32 photos: time and memory per photo."""
    found = {n: spawn(replace(job, num_images=n), folder) for n in (16, 32)}
    cpu = {n: found[n]["cpu_s"] for n in found}
    peak = {n: found[n]["peak_mib"] for n in found}
    return {
        "cpu_s": {str(n): round(value, 2) for n, value in cpu.items()},
        "peak_mib": {str(n): round(value, 1) for n, value in peak.items()},
        "cpu_ms_per_image": round((cpu[32] - cpu[16]) / 16 * 1e3, 1),
        "peak_mib_per_image": round((peak[32] - peak[16]) / 16, 1),
    }


def parent(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements, in the order in which they matter."""
    job = Job(
        role="calibrate",
        graph=make_graph(folder),
        num_images=arguments.images,
        threads=arguments.threads,
    )
    record: dict[str, Any] = {
        "benchmark": "calibration",
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "machine": plain(machine.describe()),
        "versions": {name: tool_version(name) for name in TOOLS},
        "model": "inception_v4, 1000 classes, 299 x 299",
        "calibration_over_forward": measure_ratio(job, arguments.processes, folder),
        "memory": measure_memory(job, folder),
        "sampling": measure_error(job, folder),
        "onnxruntime_entropy": measure_onnxruntime(replace(job, role="onnxruntime"), folder),
    }
    plain_ms = record["calibration_over_forward"]["plain_ms_per_image"]
    rival = record["onnxruntime_entropy"]
    rival["over_plain_forward"] = round(rival["cpu_ms_per_image"] / plain_ms, 2)
    return record


def verdict(record: dict[str, Any]) -> bool:
    """Whether both goals are met."""
    upper: float = record["calibration_over_forward"]["ratio"]["upper"]
    growth: float = record["memory"]["ratio"]
    return upper <= GOAL_RATIO and abs(growth - 1) <= GOAL_MEMORY - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write JSON; exit 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=LARGE, help="photos per timed process")
    parser.add_argument("--processes", type=int, default=7, help="rounds of fresh processes")
    # Threads that wait for each other spin, and spinning is CPU time but no work: with one thread
    # the figure is repeatable on a busy machine.
    parser.add_argument("--threads", type=int, default=1, help="of both stages")
    parser.add_argument("--work", type=Path, help="folder to keep the graph in")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "calibration.json"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        record = json.loads(given.child)
        job = Job(**{**record, "graph": Path(record["graph"])})
        sys.stdout.write(json.dumps(child(job, given.work)) + "\n")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = parent(given, folder)
    text = json.dumps(result, indent=1) + "\n"
    sys.stdout.write(text)
    artifact.replace_file(given.out, text.encode())
    return 0 if verdict(result) else 1


if __name__ == "__main__":
    sys.exit(main())
