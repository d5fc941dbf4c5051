"""The latency of an engine in this process, and its record.

A process makes one run: a warm-up, then timed calls one after the other, host to host, cycling
through the golden images of the bundle. The host compares several engines by
interleaved runs, and starts a process for each run (docs/latency.md, "Gate"); there, this file's
record has ``kind: single``.
This file travels to devices: Python 3.6 syntax and numpy 1.13.
"""

import hashlib
import json
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np

from edge_inception.device import jetson_board, manifest, recorded, records, store

SCHEMA = "edge-inception/bench"
SCHEMA_VERSION = 1
_MAX_VARIATION = 0.025  # trtexec's limit since 10.13 for the coefficient of variation of times
_THROTTLING_C = 90.0  # docs/hardware.md, "On the device"
_FINGERPRINT_FIELDS = (
    "model", "compatible", "l4t", "cpu", "power_mode", "clocks_locked", "library", "sm"
)  # fmt: skip


class Protocol(NamedTuple):
    """Length of a run: the warm-up and the timed part each last for a time and a number of calls.

    A part ends when both limits are reached, but after ``most_s`` seconds in any case.
    """

    warmup_s: float = 2.0
    warmup_calls: int = 50
    seconds: float = 5.0
    calls: int = 300
    most_s: float = 120.0


class TemperatureChange(NamedTuple):
    """Temperatures in degrees Celsius by zone, before and after the timed calls."""

    start: Dict[str, float]
    end: Dict[str, float]


class Run(NamedTuple):
    """Statistics of the timed calls of a process, and every call, in ms.

    ``cov`` is the coefficient of variation; ``gpu_median`` is the median GPU time, None if unknown.
    This program's runs have ``open_s``, the seconds it took to open the engine; trtexec's runs have
    ``runner``, ``metric`` and ``spin_wait``.
    """

    t0: Optional[str]
    n: int
    median: float
    mean: float
    p90: float
    p99: float
    cov: float
    gpu_median: Optional[float]
    samples_ms: List[float]
    temp_c: TemperatureChange
    gpu_mhz_min: Optional[int]
    warnings: List[str]
    cuda_graph: bool = False
    arm: str = "A"
    block: int = 0
    slot: int = 0
    open_s: Optional[float] = None
    runner: Optional[str] = None
    metric: Optional[str] = None
    spin_wait: Optional[bool] = None


class Model(NamedTuple):
    """The model and graph that were compiled."""

    name: str
    onnx_sha256: str
    input: List[Union[int, str]]


class TimedEngine(NamedTuple):
    """The engine that was timed; ``build_id`` is the UTC time of its build."""

    sha256: str
    bytes: int
    sm: Optional[str]
    precision: str
    dla_core: Optional[int]
    key: str
    graph_sha256: str
    build_s: float
    backend: str
    plan_trt: Optional[str]
    typed: str
    batch: int
    build_id: str
    int8_layers: Optional[int]


class Device(NamedTuple):
    """The library, and the facts of the board that a latency depends on."""

    model: Optional[str]
    compatible: Optional[List[str]]
    l4t: Optional[str]
    jetpack: Optional[str]
    cuda: Optional[str]
    cpu: Optional[str]
    num_cores: Optional[int]
    machine: str
    system: str
    python: str
    power_mode: Optional[jetson_board.PowerMode]
    clocks_locked: Optional[bool]
    gpu_mhz: Optional[int]
    gpu_max_mhz: Optional[int]
    emc_mhz: Optional[int]
    governor: Optional[str]
    fan_pwm: Optional[int]
    container: str
    hostname_hash: str
    library: Optional[str]
    sm: Optional[str]
    trt: Optional[str]
    gpu: Optional[str]
    mem_mib: Optional[int]


class Conditions(NamedTuple):
    """Conditions of the timed calls; the record holds them under ``protocol``."""

    runner: str
    spin_wait: bool
    cuda_graph: bool
    metric: str
    input_sha256: str
    batch: int
    warmup_s: float
    warmup_calls: int
    seconds: float
    calls: int
    most_s: float
    order: str = "A"
    k: int = 1
    streams: int = 1
    transfers: bool = True


class Bench(NamedTuple):
    """The record that the host's ``compare`` and ``report`` read: docs/latency.md, "Record"."""

    created_utc: str
    tool: Dict[str, str]
    bundle: manifest.Identity
    model: Model
    engines: Dict[str, TimedEngine]
    device: Device
    protocol: Conditions
    runs: List[Run]
    fingerprint: str
    kind: str = "single"
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION


def read_bench(value: Any, where: str, fix: str) -> Bench:
    """The record of ``bench`` in a JSON value, with the refusals of ``convert_versioned``."""
    record: Bench = records.convert_versioned(Bench, value, where, fix)
    names = [run.arm for run in record.runs]
    num_calls = [len(run.samples_ms) for run in record.runs]
    records.require(
        [
            records.one_of("kind", record.kind, ("single",)),
            (names == list(record.engines), "runs", names, "one of each engine"),
            (num_calls == [run.n for run in record.runs], "runs", num_calls, "n samples"),
        ],
        where,
        fix,
    )
    return record


def bench(
    bundle: manifest.Bundle,
    runtime: Any,
    engine: store.Engine,
    board: jetson_board.Board,
    protocol: Protocol,
) -> Bench:
    """The record of one run of an engine, with every timed call.

    Raises:
        Refusal: The engine cannot be loaded.
    """
    started = time.time()
    runner = store.load(runtime, engine)
    open_s = time.time() - started
    graph = runtime.graph()
    try:
        batches = _batches(bundle, graph.profile.opt)
        run = timed_run(runner.run, batches, protocol, _gpu_ms(runner))
        is_graph = bool(getattr(runner, "uses_graph", False))
    finally:
        runner.close()
    run = run._replace(cuda_graph=is_graph, open_s=round(open_s, 3))
    return bench_record(bundle, graph, engine, board, protocol, run)


def _gpu_ms(runner: Any) -> Optional[Callable[[], float]]:
    """A function that reads the last call's GPU time in ms; None if the runner does not know it."""
    # The class is asked, since the object's property fails before the first call.
    return (lambda: float(runner.gpu_ms)) if hasattr(type(runner), "gpu_ms") else None


def _batches(bundle: manifest.Bundle, size: int) -> List[Any]:
    images = recorded.read_golden(bundle).images
    repeated = np.concatenate([images] * -(-size // len(images)))
    last = len(repeated) - size
    starts = sorted({min(start, last) for start in range(0, len(repeated), size)})
    return [np.ascontiguousarray(repeated[start : start + size]) for start in starts]


def timed_run(
    run: Callable[[Any], Any],
    batches: List[Any],
    protocol: Protocol,
    gpu_ms: Optional[Callable[[], float]] = None,
) -> Run:
    """Statistics and every sample, in ms, of calls of ``run`` that are timed after a warm-up."""
    samples: List[float] = []
    gpu_times: List[float] = []
    clocks: List[Optional[int]] = []
    start = jetson_board.read_temperatures()
    _call_repeatedly(run, batches, protocol.warmup_calls, protocol.warmup_s, protocol.most_s, None)

    def record_call(milliseconds: float) -> None:
        samples.append(milliseconds)
        if gpu_ms is not None:
            gpu_times.append(gpu_ms())
        if len(samples) % 100 == 1:
            clocks.append(jetson_board.gpu_clock_mhz())

    started_utc = store.utc_now()
    _call_repeatedly(run, batches, protocol.calls, protocol.seconds, protocol.most_s, record_call)
    temperatures = TemperatureChange(start, jetson_board.read_temperatures())
    slowest = min((clock for clock in clocks if clock is not None), default=None)
    run_facts = summarize_run(samples, gpu_times)
    return run_facts._replace(t0=started_utc, temp_c=temperatures, gpu_mhz_min=slowest)


def summarize_run(samples: Sequence[float], gpu_times: Sequence[float]) -> Run:
    """The run of calls that took ``samples`` in ms; ``gpu_times`` is empty if they are unknown."""
    values = np.array(samples)
    return Run(
        t0=None,
        n=len(values),
        median=float(np.median(values)),
        mean=float(values.mean()),
        p90=float(np.percentile(values, 90)),
        p99=float(np.percentile(values, 99)),
        cov=float(values.std() / values.mean()),
        gpu_median=float(np.median(gpu_times)) if gpu_times else None,
        samples_ms=[round(float(value), 4) for value in values],
        temp_c=TemperatureChange({}, {}),
        gpu_mhz_min=None,
        warnings=[],
    )


def _call_repeatedly(
    run: Callable[[Any], Any],
    batches: List[Any],
    calls: int,
    seconds: float,
    most_s: float,
    record_call: Optional[Callable[[float], None]],
) -> None:
    begin, done = time.perf_counter(), 0
    while True:
        start = time.perf_counter()
        run(batches[done % len(batches)])
        end = time.perf_counter()
        done += 1
        if record_call is not None:
            record_call(1000 * (end - start))
        if (done >= calls and end - begin >= seconds) or end - begin >= most_s:
            return


def run_warnings(run: Run, board: jetson_board.Board) -> List[str]:
    """Reasons to doubt a run's figures; NVIDIA's own tools warn for the same reasons."""
    warnings = []
    mode, modes = board.power_mode, board.power_modes or {}
    best = jetson_board.unlimited_power_mode(modes)
    if mode and best is not None and mode.id != best:
        warnings.append("power mode {}, the board also has {}".format(mode.name, modes[best]))
    if board.clocks_locked is False:
        warnings.append("clocks are not locked: sudo jetson_clocks")
    warnings += stability_warnings(run.cov, run.temp_c.end)
    if run.gpu_mhz_min and board.clocks_locked and run.gpu_mhz_min < (board.gpu_max_mhz or 0):
        warnings.append("the GPU's clock fell to {} MHz".format(run.gpu_mhz_min))
    return warnings


def stability_warnings(cov: float, temperatures: Mapping[str, float]) -> List[str]:
    """Reasons to doubt figures on any machine: calls that vary, zones that are hot."""
    warnings = []
    if cov > _MAX_VARIATION:
        warnings.append("calls vary by {:.1f} %, over 2.5 %".format(100 * cov))
    hot = [zone for zone, celsius in temperatures.items() if celsius >= _THROTTLING_C]
    if hot:
        warnings.append("{} reached {:g} C: throttling is near".format(hot[0], _THROTTLING_C))
    return warnings


def bench_record(
    bundle: manifest.Bundle,
    graph: manifest.Graph,
    engine: store.Engine,
    board: jetson_board.Board,
    protocol: Protocol,
    run: Run,
) -> Bench:
    """The record of one run, its warnings included; source: docs/latency.md, "Record"."""
    facts, board_facts = engine.facts, board._asdict()
    device = Device(
        library=facts.tensorrt or facts.openvino,
        sm=facts.sm,
        trt=facts.tensorrt,
        gpu=facts.device,
        mem_mib=board.mem_total_mib,
        **{name: board_facts[name] for name in Device._fields if name in board_facts},
    )
    conditions = Conditions(
        runner=run.runner or "python",
        spin_wait=bool(run.spin_wait),
        cuda_graph=run.cuda_graph,
        metric=run.metric or "host_to_host_ms",
        input_sha256=bundle.sha256(recorded.GOLDEN),
        batch=graph.profile.opt,
        **protocol._asdict(),
    )
    return Bench(
        created_utc=store.utc_now(),
        tool=bundle.record.made_with,
        bundle=bundle.identity,
        model=Model(bundle.record.model, bundle.sha256(graph.file), graph.input_shape),
        engines={"A": _timed_engine(facts, graph)},
        device=device,
        protocol=conditions,
        runs=[run._replace(warnings=run_warnings(run, board))],
        fingerprint=fingerprint(device, conditions),
    )


def _timed_engine(facts: store.EngineFacts, graph: manifest.Graph) -> TimedEngine:
    built = facts._asdict()
    return TimedEngine(
        plan_trt=facts.tensorrt,
        typed=facts.typing,
        batch=graph.profile.opt,
        build_id=facts.created_utc,
        **{name: built[name] for name in TimedEngine._fields if name in built},
    )


def fingerprint(device: Device, protocol: Conditions) -> str:
    """Digest of device, power mode, clocks, library, protocol and input.

    Records may be compared where it is the same.
    """
    facts, rest = records.plain(device), records.plain(protocol)
    rest = {key: value for key, value in rest.items() if key not in {"k", "order"}}
    text = json.dumps([{key: facts[key] for key in _FINGERPRINT_FIELDS}, rest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[: manifest.VERSION_DIGITS]
