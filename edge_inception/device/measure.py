"""Latency of an engine in this process, and the record of it.

One process is one run: fresh warm-up, then timed calls one after the other, host to host, cycling
through the golden images. Runs of several engines are interleaved and compared by the host, which
starts one process for each (docs/latency.md, "Gate"); the record is its ``kind: single``.
This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

import hashlib
import json
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

if __package__:
    from edge_inception.device import jetson_board as board_files
    from edge_inception.device import manifest, store
else:
    import jetson_board as board_files  # type: ignore[import-not-found,no-redef]
    import manifest  # type: ignore[import-not-found,no-redef]
    import store  # type: ignore[import-not-found,no-redef]

SCHEMA = "edge-inception/bench"
SCHEMA_VERSION = 1
_UNSTABLE = 0.025  # trtexec's limit since 10.13 for the variation of compute times
_HOT_C = 90.0  # docs/hardware.md, "On the device"
_BOARD_KEYS = (
    "model", "compatible", "l4t", "jetpack", "cuda", "cpu", "num_cores", "machine", "system",
    "python", "power_mode", "clocks_locked", "gpu_mhz", "gpu_max_mhz", "emc_mhz", "governor",
    "fan_pwm", "container", "hostname_hash",
)  # fmt: skip
_FINGERPRINT = (
    "model", "compatible", "l4t", "cpu", "power_mode", "clocks_locked", "library", "sm"
)  # fmt: skip


class Protocol(NamedTuple):
    """How long a run is: warm-up and timed part each end when both their limits are reached."""

    warmup_s: float = 2.0
    warmup_calls: int = 50
    seconds: float = 5.0
    calls: int = 300
    most_s: float = 120.0


def bench(
    bundle: Any, way: Any, engine: Any, board: Mapping[str, Any], protocol: Protocol
) -> Dict[str, Any]:
    """One run of an engine, as a record with every timed call.

    Raises:
        Refusal: The engine cannot be loaded.
    """
    started = time.time()
    with open(engine.path, "rb") as stream:
        runner = way.load(stream.read(), engine.facts)
    opened_s = time.time() - started
    graph = way.graph()
    try:
        batches = _batches(bundle, graph["profile"]["opt"])
        run = timed_run(runner.run, batches, protocol, _gpu_ms(runner))
        run["cuda_graph"] = bool(getattr(runner, "uses_graph", False))
    finally:
        runner.close()
    run.update({"arm": "A", "block": 0, "slot": 0, "open_s": round(opened_s, 3)})
    run["warnings"] = warnings_of(run, board)
    return record_of(bundle, graph, engine, board, protocol, run)


def _gpu_ms(runner: Any) -> Optional[Callable[[], float]]:
    """Reads the GPU's own time of the last call, where the runner knows it."""
    # Asked of the class: before the first call the property itself has nothing to read.
    return (lambda: float(runner.gpu_ms)) if hasattr(type(runner), "gpu_ms") else None


def _batches(bundle: Any, size: int) -> List[Any]:
    with np.load(bundle.path("golden.npz"), allow_pickle=False) as archive:
        images = archive["images"]
    repeated = np.concatenate([images] * -(-size // len(images)))
    last = len(repeated) - size
    starts = sorted({min(start, last) for start in range(0, len(repeated), size)})
    return [np.ascontiguousarray(repeated[start : start + size]) for start in starts]


def timed_run(
    run: Callable[[Any], Any],
    batches: List[Any],
    protocol: Protocol,
    gpu_ms: Optional[Callable[[], float]] = None,
) -> Dict[str, Any]:
    """Warm up, then time calls of ``run``; the statistics and every sample in ms."""
    samples: List[float] = []
    computes: List[float] = []
    clocks: List[Optional[int]] = []
    heat = board_files.read_temperatures()
    _repeat(run, batches, protocol.warmup_calls, protocol.warmup_s, protocol.most_s, None)

    def keep(milliseconds: float) -> None:
        samples.append(milliseconds)
        if gpu_ms is not None:
            computes.append(gpu_ms())
        if len(samples) % 100 == 1:
            clocks.append(board_files.gpu_clock_mhz())

    began = store.now()
    _repeat(run, batches, protocol.calls, protocol.seconds, protocol.most_s, keep)
    known = [clock for clock in clocks if clock is not None]
    return {
        "t0": began,
        **summary(samples, computes),
        "temp_c": {"start": heat, "end": board_files.read_temperatures()},
        "gpu_mhz_min": min(known) if known else None,
    }


def summary(samples: Sequence[float], computes: Sequence[float]) -> Dict[str, Any]:
    """Figures of timed calls in ms; ``computes`` are those of the GPU alone, empty if unknown."""
    values = np.array(samples)
    return {
        "n": len(values),
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "p90": float(np.percentile(values, 90)),
        "p99": float(np.percentile(values, 99)),
        "cov": float(values.std() / values.mean()),
        "gpu_median": float(np.median(computes)) if computes else None,
        "samples_ms": [round(float(value), 4) for value in values],
    }


def _repeat(
    run: Callable[[Any], Any],
    batches: List[Any],
    calls: int,
    seconds: float,
    most_s: float,
    keep: Optional[Callable[[float], None]],
) -> None:
    begin, done = time.perf_counter(), 0
    while True:
        start = time.perf_counter()
        run(batches[done % len(batches)])
        end = time.perf_counter()
        done += 1
        if keep is not None:
            keep(1000 * (end - start))
        if (done >= calls and end - begin >= seconds) or end - begin >= most_s:
            return


def warnings_of(run: Mapping[str, Any], board: Mapping[str, Any]) -> List[str]:
    """What makes a run's figures doubtful; NVIDIA's own tools warn of the same."""
    found = []
    mode, locked = board.get("power_mode"), board.get("clocks_locked")
    modes = board.get("power_modes") or {}
    best = board_files.highest_mode(modes)
    if mode and best is not None and mode["id"] != best:
        found.append("power mode {}, the board also has {}".format(mode["name"], modes[best]))
    if locked is False:
        found.append("clocks are not locked: sudo jetson_clocks")
    if run["cov"] > _UNSTABLE:
        found.append("calls vary by {:.1f} %, over 2.5 %".format(100 * run["cov"]))
    hot = [z for z, c in run["temp_c"]["end"].items() if c >= _HOT_C]
    if hot:
        found.append("{} reached {:g} C: throttling is near".format(hot[0], _HOT_C))
    if run["gpu_mhz_min"] and locked and run["gpu_mhz_min"] < (board.get("gpu_max_mhz") or 0):
        found.append("the GPU's clock fell to {} MHz".format(run["gpu_mhz_min"]))
    return found


def record_of(
    bundle: Any,
    graph: Mapping[str, Any],
    engine: Any,
    board: Mapping[str, Any],
    protocol: Protocol,
    run: Mapping[str, Any],
) -> Dict[str, Any]:
    """What the host's ``compare`` and ``report`` read; source: docs/latency.md, "Record"."""
    facts = engine.facts
    library = facts.get("tensorrt") or facts.get("openvino")
    device = {key: board.get(key) for key in _BOARD_KEYS}
    device.update(
        library=library,
        sm=facts.get("sm"),
        trt=facts.get("tensorrt"),
        gpu=facts.get("device"),
        mem_mib=board.get("mem_total_mib"),
    )
    how = {
        "runner": run.get("runner", "python"),
        "order": "A",
        "k": 1,
        "streams": 1,
        "transfers": True,
        "spin_wait": run.get("spin_wait", False),
        "cuda_graph": run.get("cuda_graph", False),
        "metric": run.get("metric", "host_to_host_ms"),
        "input_sha256": bundle.record["files"]["golden.npz"]["sha256"],
        "batch": graph["profile"]["opt"],
    }
    how.update({key: getattr(protocol, key) for key in protocol._fields})
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "kind": "single",
        "created_utc": store.now(),
        "tool": dict(bundle.record["made_with"]),
        "bundle": {"name": bundle.record["name"], "version": bundle.record["version"]},
        "model": {
            "name": bundle.record["model"],
            "onnx_sha256": bundle.record["files"][graph["file"]]["sha256"],
            "input": graph["input_shape"],
        },
        "engines": {"A": _engine_of(facts, graph)},
        "device": device,
        "protocol": how,
        "runs": [dict(run)],
        "fingerprint": fingerprint(device, how),
    }


def _engine_of(facts: Mapping[str, Any], graph: Mapping[str, Any]) -> Dict[str, Any]:
    names = ("sha256", "bytes", "sm", "precision", "dla_core", "key", "graph_sha256", "build_s")
    found = {name: facts.get(name) for name in names}
    found.update(
        backend=facts["backend"],
        plan_trt=facts.get("tensorrt"),
        typed=facts["typing"],
        batch=graph["profile"]["opt"],
        build_id=facts["created_utc"],
        int8_layers=facts.get("int8_layers"),
    )
    return found


def fingerprint(device: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    """Same where two records may be compared: device, mode, clocks, library, protocol, input."""
    rest = {key: value for key, value in protocol.items() if key not in {"k", "order"}}
    text = json.dumps([{key: device.get(key) for key in _FINGERPRINT}, rest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[: manifest.VERSION_DIGITS]
