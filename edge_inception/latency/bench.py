"""Runs of engines, each in a fresh process, and their record.

A run opens an engine in a process of its own, makes its first call, warms up, and times calls in
blocks. The processes of runs that are compared exist at the same time and take turns block by
block, A B B A, so that a disturbance of the machine affects all of them.

Source: docs/latency.md, "Gate"; trtexec's protocol and warnings.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec.structs
import numpy as np

from edge_inception import records
from edge_inception._version import __version__
from edge_inception.device import measure
from edge_inception.hardware.cores import usable_threads
from edge_inception.latency import machine, telemetry
from edge_inception.latency._worker_main import Block
from edge_inception.latency._worker_process import Worker
from edge_inception.latency.contender import EngineUnderTest
from edge_inception.latency.facts import DeviceFacts, UsedProtocol
from edge_inception.latency.measure import MIN_SAMPLES_P99, Contender, create_worker
from edge_inception.latency.record import SCHEMA, SCHEMA_VERSION, BenchRecord, RunRecord
from edge_inception.latency.telemetry import Telemetry
from edge_inception.spec import Progress, no_progress

_MAX_FOREIGN_CORES = 0.1  # a run gets a warning if other programs use more cores
_MIN_BLOCKS = 4  # of each side: two turns in each order show a drift, and half of it cancels


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Protocol of a run; times are in seconds.

    Warm-up ends when both ``warmup_calls`` and ``warmup_s`` are reached. The timed part has four
    blocks or more. It ends when ``calls`` or ``seconds`` is reached and the estimate is stable:
    the standard error of the block medians over their mean is at most ``stable`` (None: no limit).
    It ends after ``most_s`` in any case. A block ends after ``block_calls`` or ``block_s``;
    ``discard_calls`` are made before it and not timed. Before a block there is a pause of
    ``settle_s``. A process that does not answer for ``timeout_s`` is given up. ``threads`` 0 means
    all cores that this process may use; the ``streams`` run concurrently and share the threads.
    """

    threads: int = 0
    batch: int = 1
    streams: int = 1
    warmup_calls: int = 50
    warmup_s: float = 2.0
    calls: int = 300
    seconds: float = 5.0
    stable: float | None = 0.01
    most_s: float = 30.0
    block_calls: int = 25
    block_s: float = 0.5
    discard_calls: int = 2
    settle_s: float = 0.02
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Figures of one process, and the state of the machine while it was timed.

    ``side`` is "A" or "B"; runs of one ``pair`` were timed together. ``t0`` is the UTC time of its
    start. ``blocks`` are call times in ms; ``compute_ms`` those of the GPU's part, if known.
    """

    side: str
    pair: int
    t0: str
    blocks: tuple[tuple[float, ...], ...]
    compute_ms: tuple[float, ...]
    open_s: float
    first_ms: float
    peak_mib: float
    telemetry: Telemetry
    foreign_cores: float | None

    @property
    def medians(self) -> tuple[float, ...]:
        """Median of each block, ms."""
        return tuple(float(np.median(block)) for block in self.blocks)

    @property
    def samples(self) -> tuple[float, ...]:
        """All call times in order, ms."""
        return tuple(sample for block in self.blocks for sample in block)


def run_together(
    contenders: Mapping[str, Contender],
    images: Path,
    protocol: Protocol,
    *,
    pair: int = 0,
    progress: Progress = no_progress,
) -> list[Run]:
    """One run of each contender, in fresh processes that take turns block by block.

    Args:
        contenders: Contenders by side, such as "A" and "B".
        images: ``.npy`` file of preprocessed images, at least one batch.
        protocol: Protocol of the runs.
        pair: Number that the runs of one pair share.
        progress: Called with (timed calls, wanted calls) of one of the sides.

    Raises:
        InputError: An engine cannot be opened or refuses the images.
        Inconclusive: A process died, hung, or used another number of threads.
    """
    threads = protocol.threads or usable_threads()
    started = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
    before = machine.read_cpu_times()
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(
                create_worker(
                    replace(contender, name=f"{side}: {contender.name}"),
                    images,
                    batch=protocol.batch,
                    threads=max(1, threads // protocol.streams),
                    timeout_s=protocol.timeout_s,
                    streams=protocol.streams,
                )
            )
            for side, contender in contenders.items()
        }
        firsts = {side: worker.time_first_call() for side, worker in workers.items()}
        for worker in workers.values():
            worker.warm_up(calls=protocol.warmup_calls, seconds=protocol.warmup_s)
        reading = telemetry.read()
        blocks = _take_turns(workers, protocol, progress)
        state = telemetry.summarize(reading, telemetry.read())
        peaks = {side: worker.peak_mib() for side, worker in workers.items()}
    # the workers have ended, so their CPU time is known
    foreign = machine.foreign_cores(before, machine.read_cpu_times())
    return [
        Run(
            side=side,
            pair=pair,
            t0=started,
            blocks=tuple(tuple(block.samples_ms) for block in blocks[side]),
            compute_ms=tuple(ms for block in blocks[side] for ms in block.compute_ms),
            open_s=workers[side].open_s,
            first_ms=firsts[side],
            peak_mib=peaks[side],
            telemetry=state,
            foreign_cores=foreign,
        )
        for side in contenders
    ]


def _take_turns(
    workers: Mapping[str, Worker], protocol: Protocol, progress: Progress
) -> dict[str, list[Block]]:
    """The blocks of each side in order; the sides take turns A B, B A, A B, ..."""
    blocks: dict[str, list[Block]] = {side: [] for side in workers}
    turn = 0
    while not all(_is_finished(timed_blocks, protocol) for timed_blocks in blocks.values()):
        sides = list(workers)[:: 1 if turn % 2 == 0 else -1]
        for side in sides:
            time.sleep(protocol.settle_s)  # threads that spin after a call go to sleep
            block = workers[side].time_block(
                calls=protocol.block_calls,
                min_calls=1,
                seconds=protocol.block_s,
                discard=protocol.discard_calls,
            )
            blocks[side].append(block)
        turn += 1
        done = sum(len(block.samples_ms) for block in blocks[sides[0]])
        progress(min(done, protocol.calls), protocol.calls)
    return blocks


def _is_finished(timed_blocks: Sequence[Block], protocol: Protocol) -> bool:
    blocks = [block.samples_ms for block in timed_blocks]
    if len(blocks) < _MIN_BLOCKS or len(blocks) % 2:
        return False
    calls, seconds = sum(map(len, blocks)), sum(map(sum, blocks)) / 1000
    if seconds >= protocol.most_s:
        return True
    if calls < protocol.calls and seconds < protocol.seconds:
        return False
    if protocol.stable is None:
        return True
    medians = np.array([np.median(block) for block in blocks])
    error = float(medians.std(ddof=1) / np.sqrt(len(medians)) / medians.mean())
    return error <= protocol.stable


def run_record(run: Run, protocol: Protocol) -> RunRecord:
    """``run`` as an entry of a record's ``runs``."""
    figures = measure.summarize_run(run.samples, run.compute_ms)
    return RunRecord(
        side=run.side,
        pair=run.pair,
        t0=run.t0,
        n=figures.n,
        median=figures.median,
        mean=figures.mean,
        p90=figures.p90,
        p95=float(np.percentile(run.samples, 95)),
        p99=figures.p99 if figures.n >= MIN_SAMPLES_P99 else None,
        cov=figures.cov,
        throughput=1000 * protocol.batch * protocol.streams / figures.mean,
        open_s=run.open_s,
        first_ms=run.first_ms,
        peak_mib=run.peak_mib,
        compute_median=figures.gpu_median,
        **run.telemetry._asdict(),
        foreign_cores=run.foreign_cores,
        warnings=tuple(find_warnings(run)),
        blocks=tuple(len(block) for block in run.blocks),
        samples_ms=tuple(figures.samples_ms),
    )


def find_warnings(run: Run) -> list[str]:
    """Warnings about a run: unsteady calls, heat, other programs, throttling."""
    cov = measure.summarize_run(run.samples, ()).cov
    warnings = measure.stability_warnings(cov, run.telemetry.temp_c.end)
    if run.foreign_cores is not None and run.foreign_cores > _MAX_FOREIGN_CORES:
        warnings.append(f"other programs used {run.foreign_cores:.1f} cores")
    if run.telemetry.throttled:
        warnings.append("the machine throttled")
    return warnings


def record(
    kind: Literal["single", "ab", "aa"],
    engines: Mapping[str, EngineUnderTest],
    runs: Sequence[Run],
    protocol: Protocol,
) -> BenchRecord:
    """The record of runs without ``result``, which ``validate.comparison`` adds.

    Args:
        kind: "single", "ab" or "aa", as in the docstring of ``latency.record``.
        engines: Engines by side; the record has the model, libraries and images of the first.
        runs: Runs of all engines.
        protocol: Protocol of the runs; the record has the number of cores for ``threads`` 0.
    """
    first = next(iter(engines.values()))
    here = machine.describe()
    device = DeviceFacts(**msgspec.structs.asdict(here), libraries=first.facts.tied_to)
    choices = asdict(protocol) | {"threads": protocol.threads or len(here.affinity)}
    used = UsedProtocol(
        **choices,
        runner="python",
        order="A" if kind == "single" else "ABBA, block by block",
        transfers=True,
        spin_wait=False,
        metric="host_to_host_ms",
        input_sha256=first.feed.sha256,
        input=first.feed.description,
        affinity=here.affinity,
    )
    return BenchRecord(
        schema=SCHEMA,
        schema_version=SCHEMA_VERSION,
        kind=kind,
        created_utc=dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tool={"version": __version__},
        model=first.model,
        engines={side: engine.facts for side, engine in engines.items()},
        device=device,
        protocol=used,
        runs=tuple(run_record(run, protocol) for run in runs),
        fingerprint=fingerprint(device, used),
    )


def fingerprint(device: DeviceFacts, protocol: UsedProtocol) -> str:
    """Hash of device facts and protocol without the load; it is equal for comparable records."""
    idle = msgspec.structs.replace(device, load_average=msgspec.UNSET)
    text = json.dumps(records.plain([idle, protocol]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
