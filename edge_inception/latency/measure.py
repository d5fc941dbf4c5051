"""Latency of several contenders, measured in interleaved rounds.

Each contender has a fresh process. In each round every contender times one block of calls while the
others sleep; the order of the contenders is reversed after each round, so that a drift of clocks or
temperature affects all of them alike. Calls of one process are not independent, so intervals are
computed over the rounds, by pairing the block medians of each round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_inception.errors import InputError
from edge_inception.hardware.cores import usable_threads
from edge_inception.latency import machine
from edge_inception.latency._worker_main import Work
from edge_inception.latency._worker_process import Worker
from edge_inception.metrics.intervals import Estimate, paired_ratio
from edge_inception.records import Count, Record, SparseRecord
from edge_inception.spec import Progress, no_progress

MIN_SAMPLES_P99 = 100
"""Smallest number of calls with a p99; with fewer calls the slowest call would change it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A session to be timed, which a worker process opens.

    Attributes:
        name: Unique name among the contenders.
        factory: ``"module:function"``. The worker calls ``function(threads=..., **arguments)``,
            which returns a Session whose ``info`` has ``threads`` as read back from the library.
            The factory of engine files is ``edge_inception.inference:open_engine``.
        arguments: Keyword arguments of the function, which must be JSON values.
        images: ``.npy`` file of this contender's own images, for another element type or layout;
            None for the images of the measurement.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    images: Path | None = None


class LatencyOptions(Record, frozen=True, kw_only=True):
    """Protocol of a measurement; times are in seconds.

    Warm-up ends when both ``warmup_calls`` and ``warmup_s`` are reached. A block ends after
    ``calls_per_block`` calls or ``block_s``, whichever is first, but not before
    ``min_calls_per_block`` calls. Before a block there is a pause of ``settle_s``, in which
    spinning threads go to sleep, and then ``discard_calls`` calls are made but not timed. A process
    that does not answer for ``timeout_s`` is given up. ``threads`` 0 means all cores that this
    process may use.
    """

    threads: Count = 0
    batch: Count = 1
    rounds: Count = 8
    calls_per_block: Count = 30
    min_calls_per_block: Count = 3
    block_s: float = 1.0
    discard_calls: Count = 2
    warmup_calls: Count = 5
    warmup_s: float = 1.0
    settle_s: float = 0.05
    timeout_s: float = 300.0


class Latency(SparseRecord, frozen=True, kw_only=True):
    """Host-to-host times of one contender's calls, in ms.

    ``p99_ms`` is None below 100 calls. ``variation`` is standard deviation over mean.
    ``block_medians_ms`` has one median for each round, so that contenders are compared round by
    round. ``foreign_cores`` is the mean number of cores that other programs kept busy meanwhile,
    None if unknown. ``info`` describes the session. ``samples_ms`` is empty in a report that was
    written without samples.
    """

    name: str
    num_calls: Count
    batch: Count
    threads: Count
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    mean_ms: float
    variation: float
    block_medians_ms: tuple[float, ...]
    foreign_cores: float | None
    info: Mapping[str, Any]
    samples_ms: tuple[float, ...] = ()


def measure(
    contenders: Sequence[Contender],
    images: Path,
    options: LatencyOptions,
    *,
    progress: Progress = no_progress,
) -> dict[str, Latency]:
    """Latency of every contender by name, from one interleaved measurement.

    Args:
        contenders: Contenders with unique names.
        images: ``.npy`` file of preprocessed images [M, ...], M >= ``options.batch``.
        options: Protocol of the measurement.
        progress: Called with (blocks done, total number of blocks).

    Raises:
        InputError: The images do not fit, or a session refuses them or cannot be opened.
        Inconclusive: A worker died, hung, or ran with another number of threads than asked for.
        RuntimeError: A contender raised another error; its traceback is in the message.
        ValueError: Two contenders have the same name.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names):
        raise ValueError(f"contenders need unique names, got {names}")
    for path in {images, *(each.images for each in contenders if each.images)}:
        _check_images(path, options.batch)
    threads = options.threads or usable_threads()
    before = machine.read_cpu_times()
    with ExitStack() as stack:
        sizes = {"batch": options.batch, "threads": threads}
        workers = [
            stack.enter_context(create_worker(one, images, **sizes, timeout_s=options.timeout_s))
            for one in contenders
        ]
        samples = _run_rounds(workers, options, progress)
        infos = {worker.name: worker.info for worker in workers}
    # the workers have ended, so their CPU time is known
    foreign = machine.foreign_cores(before, machine.read_cpu_times())
    return {
        name: Latency(
            name=name,
            batch=options.batch,
            threads=threads,
            foreign_cores=foreign,
            info=infos[name],
            **_summarize(blocks),
        )
        for name, blocks in samples.items()
    }


def ratio(numerator: Latency, denominator: Latency) -> Estimate:
    """Ratio of two latencies of one measurement, with a two-sided 95 % interval.

    The speed-up of an engine over a reference is ``ratio(reference, engine)``.

    Raises:
        ValueError: The numbers of rounds differ, or there are fewer than two rounds.
    """
    return paired_ratio(numerator.block_medians_ms, denominator.block_medians_ms)


def _run_rounds(
    workers: Sequence[Worker], options: LatencyOptions, progress: Progress
) -> dict[str, list[list[float]]]:
    """Blocks of call times in ms by name of the contender, one block for each round."""
    samples: dict[str, list[list[float]]] = {worker.name: [] for worker in workers}
    for worker in workers:
        worker.warm_up(calls=options.warmup_calls, seconds=options.warmup_s)
    done, total = 0, options.rounds * len(workers)
    for turn in range(options.rounds):
        # the order alternates, so that a linear drift cancels over two rounds
        for worker in workers if turn % 2 == 0 else reversed(workers):
            time.sleep(options.settle_s)  # threads that spin after a call go to sleep
            block = worker.time_block(
                calls=options.calls_per_block,
                min_calls=options.min_calls_per_block,
                seconds=options.block_s,
                discard=options.discard_calls,
            )
            samples[worker.name].append(block.samples_ms)
            done += 1
            progress(done, total)
    return samples


def _check_images(images: Path, batch: int) -> None:
    try:
        array = np.load(images, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read images {images}: {error}", hint="give a .npy file"
        ) from error
    has_images = array.dtype in (np.float32, np.uint8) and array.ndim == 4  # noqa: PLR2004 -- NCHW
    if not has_images or len(array) < batch:
        raise InputError(
            f"{images} holds {array.dtype} {array.shape}, wanted float32 or uint8 [M, 3, H, W] or "
            f"[M, H, W, 3] with M >= {batch}",
            hint="preprocess at least one batch of images",
        )


def create_worker(
    contender: Contender,
    images: Path,
    *,
    batch: int,
    threads: int,
    timeout_s: float,
    streams: int = 1,
) -> Worker:
    """A worker that times the contender; each stream gets ``threads`` threads."""
    work = Work(
        factory=contender.factory,
        arguments=dict(contender.arguments),
        threads=threads,
        streams=streams,
        images=str((contender.images or images).resolve()),
        batch=batch,
    )
    return Worker(contender.name, work, timeout_s=timeout_s)


def _summarize(blocks: Sequence[Sequence[float]]) -> dict[str, Any]:
    samples = np.array([sample for block in blocks for sample in block], np.float32)
    p50, p90, p99 = (float(value) for value in np.quantile(samples, (0.5, 0.9, 0.99)))
    mean = float(samples.mean())
    return {
        "num_calls": len(samples),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99 if len(samples) >= MIN_SAMPLES_P99 else None,
        "mean_ms": mean,
        "variation": float(samples.std()) / mean,
        "block_medians_ms": tuple(float(np.median(block)) for block in blocks),
        "samples_ms": tuple(float(sample) for sample in samples),
    }
