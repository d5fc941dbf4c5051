"""The process that holds one contender of a latency comparison; started by ``latency.py``.

Run as a file with the number of a pipe as argument, before any of the project can be imported: the
first line on standard input holds the parent's ``sys.path``. Each later line is one JSON command,
answered by one JSON line on the pipe. Standard output stays free for whatever a library prints.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_inception.engines._backend import Session

_PR_SET_PDEATHSIG = 1


class _Bench:
    """An open session and the images it is timed on."""

    def __init__(self, session: Session, images: Any, batch: int) -> None:
        self.session = session
        self._images = images
        self._batch = batch
        self._next = 0

    def call(self) -> float:
        """Milliseconds of one run on the next batch; the images go round."""
        start, end = self._next, self._next + self._batch
        self._next = end if end + self._batch <= len(self._images) else 0
        batch = self._images[start:end]
        before = time.perf_counter_ns()
        logits = self.session.run(batch)
        after = time.perf_counter_ns()
        # outside the timed part: an engine that computes nonsense must not win a race
        if len(logits) != self._batch or not bool((logits - logits == 0).all()):
            raise ValueError(
                f"logits {logits.shape} are not finite, or not of {self._batch} images"
            )
        return (after - before) / 1e6

    def warm_up(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run at least ``calls`` times and ``seconds`` long."""
        start, calls = time.perf_counter(), 0
        while calls < command["calls"] or time.perf_counter() - start < command["seconds"]:
            self.call()
            calls += 1
        return {"calls": calls}

    def block(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run ``discard`` calls untimed, then time calls until ``calls`` or ``seconds`` is reached.

        At least ``least`` calls are timed, however long they take.
        """
        for _ in range(command["discard"]):
            self.call()
        gc.collect()
        gc.disable()
        start, samples = time.perf_counter(), [self.call()]
        while len(samples) < command["calls"] and (
            len(samples) < command["least"] or time.perf_counter() - start < command["seconds"]
        ):
            samples.append(self.call())
        gc.enable()
        return {"samples_ms": samples}


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the parent's starting thread ends, by whatever means."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _open(spec: dict[str, Any]) -> Session:
    module, _, function = spec["factory"].partition(":")
    factory = getattr(importlib.import_module(module), function)
    session: Session = factory(threads=spec["threads"], **spec["arguments"])
    return session


def _serve(reply: Any) -> None:
    import numpy as np  # noqa: PLC0415 -- sys.path is set by now

    spec = json.loads(sys.stdin.readline())
    with _open(spec) as session:
        # not memory-mapped: libraries copy read-only arrays or warn about them
        bench = _Bench(session, np.load(spec["images"]), spec["batch"])
        actions = {"warm_up": bench.warm_up, "block": bench.block}
        reply({"info": dict(session.info)})
        for line in sys.stdin:
            command = json.loads(line)
            reply(actions[command["action"]](command))


def _main() -> None:
    preamble = json.loads(sys.stdin.readline())
    _die_with_parent(preamble["parent"])
    sys.path[:] = preamble["sys_path"]
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:

        def reply(answer: dict[str, Any]) -> None:
            pipe.write(json.dumps(answer, default=str) + "\n")
            pipe.flush()

        try:
            _serve(reply)
        except BrokenPipeError:
            sys.exit(1)
        except Exception as error:  # noqa: BLE001 -- the border of a process: all of it travels
            reply(
                {
                    "error": type(error).__name__,
                    "message": str(error),
                    "hint": getattr(error, "hint", ""),
                    "traceback": traceback.format_exc(),
                }
            )


if __name__ == "__main__":
    _main()
