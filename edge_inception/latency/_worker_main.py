"""The worker process that holds one contender of a latency measurement.

``_worker_process`` runs this file with the descriptor of a pipe as its argument; the project cannot
be imported yet. The first line on standard input holds the parent's process id and ``sys.path``,
the second the ``Work``, and each later line a command, ``[method of _Bench, its arguments]``. Lines
are JSON. The worker answers every line but the first on the pipe, with ``["done", answer]`` or
``["failed", Failure]``. Standard output stays free for whatever a library prints.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edge_inception.engines._backend import Session

_PR_SET_PDEATHSIG = 1


class Work(NamedTuple):
    """Task of a worker: a session for each stream, and the file of images to time it on."""

    factory: str
    arguments: dict[str, Any]
    threads: int
    streams: int
    images: str
    batch: int


class Opened(NamedTuple):
    """Answer to ``Work``: the session's ``info``, and the seconds that opening it took."""

    info: dict[str, Any]
    open_s: float


class Block(NamedTuple):
    """Answer to ``block``: times of the calls, and of the GPU's part if it is known, in ms."""

    samples_ms: list[float]
    compute_ms: list[float]


class Failure(NamedTuple):
    """An exception on its way to the parent."""

    kind: str
    message: str
    hint: str
    traceback: str


class _Bench:
    """Open sessions, one for a stream, and the images they are timed on."""

    def __init__(self, sessions: list[Session], images: Any, batch: int) -> None:
        session = sessions[0]
        self._sessions = sessions
        self._pool = ThreadPoolExecutor(len(sessions)) if len(sessions) > 1 else None
        self._images = images
        self._batch = batch
        self._next = 0
        # of the class, since the property raises before the first call
        self._has_compute_ms = hasattr(type(session), "gpu_ms")
        self._compute_ms: list[float] = []

    def call(self) -> float:
        """Milliseconds that all streams together take for a run on the next batch of images."""
        start, end = self._next, self._next + self._batch
        self._next = end if end + self._batch <= len(self._images) else 0
        batch = self._images[start:end]
        before = time.perf_counter_ns()
        if self._pool is None:
            answers = [self._sessions[0].run(batch)]
        else:
            waiting = [self._pool.submit(session.run, batch) for session in self._sessions]
            answers = [answer.result() for answer in waiting]
        after = time.perf_counter_ns()
        if self._has_compute_ms:
            self._compute_ms.append(float(self._sessions[0].gpu_ms))  # type: ignore[attr-defined]
        # an engine with invalid results must not count as fast; checked outside the timed part
        for logits in answers:
            if len(logits) != self._batch or not bool((logits - logits == 0).all()):
                raise ValueError(
                    f"logits {logits.shape} are not finite, or not of {self._batch} images"
                )
        return (after - before) / 1e6

    def warm_up(self, calls: int, seconds: float) -> int:
        """Number of calls made: at least ``calls``, and for at least ``seconds``."""
        start, done = time.perf_counter(), 0
        while done < calls or time.perf_counter() - start < seconds:
            self.call()
            done += 1
        return done

    def block(self, calls: int, least: int, seconds: float, discard: int) -> Block:
        """Times of calls up to ``calls`` or ``seconds``, after ``discard`` calls that do not count.

        At least ``least`` calls are timed, however long they take.
        """
        for _ in range(discard):
            self.call()
        gc.collect()
        gc.disable()
        self._compute_ms.clear()
        start, samples = time.perf_counter(), [self.call()]
        while len(samples) < calls and (
            len(samples) < least or time.perf_counter() - start < seconds
        ):
            samples.append(self.call())
        gc.enable()
        return Block(samples_ms=samples, compute_ms=list(self._compute_ms))

    def peak_mib(self) -> float:
        """Largest resident memory of this process so far, in MiB; Linux counts in KiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the parent's starting thread ends, by whatever means."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _open(work: Work) -> Session:
    module, _, function = work.factory.partition(":")
    factory = getattr(importlib.import_module(module), function)
    session: Session = factory(threads=work.threads, **work.arguments)
    return session


def _serve(reply: Callable[[str, Any], None]) -> None:
    import numpy as np  # noqa: PLC0415 -- sys.path is set by now

    work = Work(*json.loads(sys.stdin.readline()))
    started = time.perf_counter()
    with ExitStack() as stack:
        sessions = [stack.enter_context(_open(work)) for _ in range(work.streams)]
        # not memory-mapped: libraries copy read-only arrays or warn about them
        bench = _Bench(sessions, np.load(work.images), work.batch)
        info = dict(sessions[0].info)
        reply("done", Opened(info=info, open_s=time.perf_counter() - started))
        for line in sys.stdin:
            method, arguments = json.loads(line)
            reply("done", getattr(bench, method)(**arguments))


def _main() -> None:
    parent, paths = json.loads(sys.stdin.readline())
    _die_with_parent(parent)
    sys.path[:] = paths
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:

        def reply(outcome: str, answer: Any) -> None:
            pipe.write(json.dumps([outcome, answer], default=str) + "\n")
            pipe.flush()

        try:
            _serve(reply)
        except BrokenPipeError:
            sys.exit(1)
        except Exception as error:  # noqa: BLE001 -- the border of a process: all of it travels
            reply(
                "failed",
                Failure(
                    kind=type(error).__name__,
                    message=str(error),
                    hint=getattr(error, "hint", ""),
                    traceback=traceback.format_exc(),
                ),
            )


if __name__ == "__main__":
    _main()
