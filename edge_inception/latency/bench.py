"""Latency of engines, one fresh process to a run: the records of ``bench`` and ``compare``.

A run opens an engine in a process of its own, makes its first call, warms up, and times calls in
blocks. Runs that are to be compared live side by side and take turns block by block, A B B A, so
that whatever the machine does in these seconds meets both.

The record, its schema and its versions: ``record``.

Source: docs/latency.md, "Gate"; trtexec's protocol and warnings.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
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
from edge_inception.latency._worker_process import Worker
from edge_inception.latency.contender import EngineUnderTest
from edge_inception.latency.facts import DeviceFacts, UsedProtocol
from edge_inception.latency.measure import MIN_SAMPLES_P99, Contender, check_threads, worker_of
from edge_inception.latency.record import SCHEMA, SCHEMA_VERSION, BenchRecord, RunRecord
from edge_inception.spec import Progress, no_progress

_BUSY_CORES = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a run is made.

    Warm-up ends when both its limits are reached, the timed part when ``calls`` or ``seconds`` is,
    and not before the estimate is ``stable``: standard error of the blocks' medians over their
    mean, None for any; ``most_s`` ends it in any case. ``threads`` 0 means all cores this process
    may use; each of the ``streams``, which run at once, has its share of them.
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
    """One process: its blocks of call times in ms, and what was seen of the machine meanwhile."""

    arm: str
    pair: int
    t0: str
    blocks: tuple[tuple[float, ...], ...]
    compute_ms: tuple[float, ...]
    open_s: float
    first_ms: float
    peak_mib: float
    seen: telemetry.Seen
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
        contenders: By arm, such as "A" and "B".
        images: ``.npy`` file of preprocessed images, at least one batch.
        protocol: See Protocol.
        pair: Number of this sitting in its session.
        progress: Called with (timed calls, calls wanted) of the first arm.

    Raises:
        InputError: An engine cannot be opened or refuses the images.
        Inconclusive: A process died, hung, or took another number of threads.
    """
    threads = protocol.threads or usable_threads()
    per_stream = max(1, threads // protocol.streams)
    started = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
    use = machine.cpu_use()
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for arm, one in contenders.items():
            worker = worker_of(
                replace(one, name=f"{arm}: {one.name}"),
                images,
                batch=protocol.batch,
                threads=per_stream,
                timeout_s=protocol.timeout_s,
                streams=protocol.streams,
            )
            workers[arm] = stack.enter_context(worker)
            check_threads(worker, per_stream)
        firsts = {arm: worker.first_ms() for arm, worker in workers.items()}
        for worker in workers.values():
            worker.warm_up(calls=protocol.warmup_calls, seconds=protocol.warmup_s)
        before = telemetry.read()
        blocks, computes = _take_turns(workers, protocol, progress)
        seen = telemetry.between(before, telemetry.read())
        peaks = {arm: worker.peak_mib() for arm, worker in workers.items()}
    foreign = machine.foreign_cores(use, machine.cpu_use())  # the workers' own time is known now
    return [
        Run(
            arm=arm,
            pair=pair,
            t0=started,
            blocks=tuple(tuple(block) for block in blocks[arm]),
            compute_ms=tuple(computes[arm]),
            open_s=workers[arm].open_s,
            first_ms=firsts[arm],
            peak_mib=peaks[arm],
            seen=seen,
            foreign_cores=foreign,
        )
        for arm in contenders
    ]


def _take_turns(
    workers: Mapping[str, Worker], protocol: Protocol, progress: Progress
) -> tuple[dict[str, list[list[float]]], dict[str, list[float]]]:
    """Blocks of call times and compute times by arm: A B, B A, A B ... until both have enough."""
    blocks: dict[str, list[list[float]]] = {arm: [] for arm in workers}
    computes: dict[str, list[float]] = {arm: [] for arm in workers}
    turn = 0
    while not _is_enough(blocks, protocol):
        arms = list(workers) if turn % 2 == 0 else list(workers)[::-1]
        for arm in arms:
            workers[arm].settle(protocol.settle_s)
            block = workers[arm].block(
                calls=protocol.block_calls,
                least=1,
                seconds=protocol.block_s,
                discard=protocol.discard_calls,
            )
            blocks[arm].append(block.samples_ms)
            computes[arm] += block.compute_ms
        turn += 1
        done = sum(map(len, blocks[arms[0]]))
        progress(min(done, protocol.calls), protocol.calls)
    return blocks, computes


_LEAST_BLOCKS = 4  # two there and two back: a drift is seen, and half of it cancels


def _is_enough(blocks: Mapping[str, Sequence[Sequence[float]]], protocol: Protocol) -> bool:
    return all(_is_stable(found, protocol) for found in blocks.values())


def _is_stable(blocks: Sequence[Sequence[float]], protocol: Protocol) -> bool:
    if len(blocks) < _LEAST_BLOCKS or len(blocks) % 2:
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
    """A run as the record keeps it."""
    figures = measure.summary(run.samples, run.compute_ms)
    return RunRecord(
        arm=run.arm,
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
        **run.seen._asdict(),
        foreign_cores=run.foreign_cores,
        warnings=tuple(warnings_of(run)),
        blocks=tuple(len(block) for block in run.blocks),
        samples_ms=tuple(figures.samples_ms),
    )


def warnings_of(run: Run) -> list[str]:
    """What makes the figures of a run doubtful: what a device warns of, and a busy machine."""
    cov = measure.summary(run.samples, ()).cov
    found = measure.unsteady(cov, run.seen.temp_c.end)
    if run.foreign_cores is not None and run.foreign_cores > _BUSY_CORES:
        found.append(f"other programs used {run.foreign_cores:.1f} cores")
    if run.seen.throttled:
        found.append("the machine throttled")
    return found


def record(
    kind: Literal["single", "ab", "aa"],
    arms: Mapping[str, EngineUnderTest],
    runs: Sequence[Run],
    protocol: Protocol,
) -> BenchRecord:
    """The record of a session; ``result`` is added by ``comparison``.

    Args:
        kind: "single", "ab" or "aa".
        arms: The engines; the model, the libraries and what was fed are those of the first.
        runs: All of them.
        protocol: As given; threads are resolved here.
    """
    first = next(iter(arms.values()))
    here = machine.describe()
    device = DeviceFacts(
        cpu=here.cpu,
        architecture=here.architecture,
        instruction_sets=here.instruction_sets,
        num_cores=here.num_cores,
        affinity=here.affinity,
        governor=here.governor,
        system=here.system,
        python=here.python,
        libraries=first.facts.tied_to,
        load_average=here.load_average,
    )
    choices = asdict(protocol) | {"threads": protocol.threads or len(here.affinity)}
    how = UsedProtocol(
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
        engines={name: arm.facts for name, arm in arms.items()},
        device=device,
        protocol=how,
        runs=tuple(run_record(run, protocol) for run in runs),
        fingerprint=fingerprint(device, how),
    )


def fingerprint(device: DeviceFacts, protocol: UsedProtocol) -> str:
    """Same where two records may be compared: machine but for its load, libraries, protocol."""
    idle = msgspec.structs.replace(device, load_average=msgspec.UNSET)
    text = json.dumps(records.plain([idle, protocol]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
