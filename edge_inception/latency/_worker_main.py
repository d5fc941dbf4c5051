"""The program of a worker process, which times one contender of a latency measurement.

``_worker_process`` runs this file with the descriptor of a pipe as its argument. The project cannot
be imported before ``sys.path`` is set. All lines are JSON. The first line on standard input holds
the parent's process id and ``sys.path``, the second line the ``Work``, and each later line a
command, ``[method of _Sessions, its arguments]``. The worker answers every line except the first on
the pipe, with ``["done", answer]`` or ``["failed", Failure]``. Standard output is not used, since a
library may print to it.
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

_PR_SET_PDEATHSIG = 1  # prctl option: the signal that the parent's death sends


class Work(NamedTuple):
    """Task of a worker.

    The worker opens ``streams`` sessions, each by calling ``factory``, a ``"module:function"``,
    with ``arguments`` and ``threads``. ``images`` is the path of an .npy file; ``batch`` is the
    number of images of one call.
    """

    factory: str
    arguments: dict[str, Any]
    threads: int
    streams: int
    images: str
    batch: int


class Opened(NamedTuple):
    """Answer to ``Work``: the first session's ``info``, and the time to open all sessions in s."""

    info: dict[str, Any]
    open_s: float


class Block(NamedTuple):
    """Answer to ``time_block``: times in ms of the calls, and of the GPU alone if it is known."""

    samples_ms: list[float]
    compute_ms: list[float]


class Failure(NamedTuple):
    """An exception that the worker sends to its parent; ``kind`` is the name of its class."""

    kind: str
    message: str
    hint: str
    traceback: str


class _Sessions:
    """Open sessions, one for each stream, and the images that they are timed on."""

    def __init__(self, sessions: list[Session], images: Any, batch: int) -> None:
        session = sessions[0]
        self._sessions = sessions
        self._pool = ThreadPoolExecutor(len(sessions)) if len(sessions) > 1 else None
        self._images = images
        self._batch = batch
        self._next = 0
        # looked up on the class, since the session's property raises before the first call
        self._has_compute_ms = hasattr(type(session), "gpu_ms")
        self._compute_ms: list[float] = []

    def time_call(self) -> float:
        """Time in ms until all streams, started together, have run the next batch of images."""
        start, end = self._next, self._next + self._batch
        self._next = end if end + self._batch <= len(self._images) else 0
        batch = self._images[start:end]
        before = time.perf_counter_ns()
        if self._pool is None:
            outputs = [self._sessions[0].run(batch)]
        else:
            futures = [self._pool.submit(session.run, batch) for session in self._sessions]
            outputs = [future.result() for future in futures]
        after = time.perf_counter_ns()
        if self._has_compute_ms:
            self._compute_ms.append(float(self._sessions[0].gpu_ms))  # type: ignore[attr-defined]
        # an engine with invalid results must not count as fast; this check is not timed
        for logits in outputs:
            if len(logits) != self._batch or not bool((logits - logits == 0).all()):
                raise ValueError(
                    f"logits {logits.shape} are not finite, or not of {self._batch} images"
                )
        return (after - before) / 1e6

    def warm_up(self, calls: int, seconds: float) -> int:
        """Make at least ``calls`` calls for at least ``seconds``; the result is their number."""
        start, done = time.perf_counter(), 0
        while done < calls or time.perf_counter() - start < seconds:
            self.time_call()
            done += 1
        return done

    def time_block(self, calls: int, min_calls: int, seconds: float, discard: int) -> Block:
        """Times of the calls of one block, as ``Worker.time_block`` describes it."""
        for _ in range(discard):
            self.time_call()
        gc.collect()
        gc.disable()
        self._compute_ms.clear()
        start, samples = time.perf_counter(), [self.time_call()]
        while len(samples) < calls and (
            len(samples) < min_calls or time.perf_counter() - start < seconds
        ):
            samples.append(self.time_call())
        gc.enable()
        return Block(samples_ms=samples, compute_ms=list(self._compute_ms))

    def peak_mib(self) -> float:
        """Largest resident memory of this process so far in MiB; ``ru_maxrss`` is in KiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends; exit if the parent has ended already."""
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
    import numpy as np  # noqa: PLC0415 -- only now is sys.path set

    work = Work(*json.loads(sys.stdin.readline()))
    started = time.perf_counter()
    with ExitStack() as stack:
        sessions = [stack.enter_context(_open(work)) for _ in range(work.streams)]
        # the images are not memory-mapped: libraries copy read-only arrays or warn about them
        timed = _Sessions(sessions, np.load(work.images), work.batch)
        info = dict(sessions[0].info)
        reply("done", Opened(info=info, open_s=time.perf_counter() - started))
        for line in sys.stdin:
            method, arguments = json.loads(line)
            reply("done", getattr(timed, method)(**arguments))


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
        except Exception as error:  # noqa: BLE001 -- the parent raises it again
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
