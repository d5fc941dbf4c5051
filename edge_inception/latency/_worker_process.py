"""The parent's side of a worker process, which is started, gets commands, and always ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from edge_inception import errors
from edge_inception.errors import EdgeInceptionError, Inconclusive
from edge_inception.latency._worker_main import Block, Failure, Opened, Work

_WORKER = Path(__file__).with_name("_worker_main.py")
_READ_BYTES = 1 << 16
_EXIT_TIMEOUT_S = 2.0  # after which a worker is killed
_MAX_OUTPUT_CHARACTERS = 300  # of a dead worker's output in the message
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker:
    """A worker process that times one contender; a context manager that ends the process.

    ``info`` is the first session's ``info``; ``open_s`` is the time in seconds that opening the
    sessions took, with the import of their library. Both are set when the context is entered.

    Entering and every method raise the same errors.

    Raises:
        EdgeInceptionError: The contender raised this error of our package.
        Inconclusive: The worker died, did not answer in time, or runs with another number of
            threads than ``work.threads``.
        RuntimeError: The contender raised another error; its traceback is in the message.
    """

    def __init__(self, name: str, work: Work, *, timeout_s: float) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._buffer = b""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in __exit__
        self._pipe, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- our own file and interpreter
                [sys.executable, "-I", str(_WORKER), str(write_end)],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(write_end,),
                env=os.environ | dict.fromkeys(_THREAD_VARIABLES, str(work.threads)),
                # Ctrl-C must reach only the parent, which then ends its workers
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        self._work = work
        self.info: Mapping[str, Any] = {}
        self.open_s = 0.0

    def __enter__(self) -> Worker:  # noqa: PYI034 -- Self needs Python 3.11
        try:
            self._send([os.getpid(), [entry or os.curdir for entry in sys.path]])
            self._send(self._work)
            self.info, self.open_s = Opened(*self._receive())
            self._check_threads()
        except BaseException:
            self._stop(is_urgent=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop(is_urgent=kind is not None)

    def _check_threads(self) -> None:
        wanted = self._work.threads
        got = self.info.get("threads", wanted)  # engines on a GPU report no threads
        if got != wanted:
            raise Inconclusive(
                f"'{self.name}' runs with threads={got}, wanted {wanted}: not a fair comparison",
                hint="choose a --threads that every library accepts",
            )

    def time_first_call(self) -> float:
        """Time of the first call in ms, which includes what a library does only once."""
        return float(self._request("time_call"))

    def warm_up(self, *, calls: int, seconds: float) -> None:
        """Make at least ``calls`` calls for at least ``seconds``."""
        self._request("warm_up", calls=calls, seconds=seconds)

    def time_block(self, *, calls: int, min_calls: int, seconds: float, discard: int) -> Block:
        """Times of the calls of one block, which ends after ``calls`` calls or ``seconds``.

        ``discard`` calls are made before and not timed. At least ``min_calls`` calls are timed,
        however long they take.
        """
        return Block(
            *self._request(
                "time_block", calls=calls, min_calls=min_calls, seconds=seconds, discard=discard
            )
        )

    def peak_mib(self) -> float:
        """Largest resident memory of the worker so far, in MiB."""
        return float(self._request("peak_mib"))

    def _request(self, method: str, **arguments: float) -> Any:
        self._send([method, arguments])
        return self._receive()

    def _send(self, message: Sequence[Any]) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write(json.dumps(message).encode() + b"\n")
            stream.flush()
        except BrokenPipeError:
            self._raise_death()

    def _receive(self) -> Any:
        deadline = time.monotonic() + self._timeout_s
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._pipe], [], [], left)[0]:
                raise Inconclusive(
                    f"latency worker '{self.name}' gave no answer in {self._timeout_s:g} s",
                    hint="raise the timeout, or look at what the machine is doing",
                )
            chunk = os.read(self._pipe, _READ_BYTES)
            if not chunk:
                self._raise_death()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        outcome, answer = json.loads(line)
        if outcome == "failed":
            self._raise_remote(Failure(*answer))
        return answer

    def _raise_remote(self, failure: Failure) -> NoReturn:
        message = f"latency of '{self.name}': {failure.message}"
        kind = getattr(errors, failure.kind, None)
        if isinstance(kind, type) and issubclass(kind, EdgeInceptionError):
            raise kind(message, hint=failure.hint)
        raise RuntimeError(f"{message}\n{failure.traceback}")

    def _raise_death(self) -> NoReturn:
        try:
            code: int | str = self._process.wait(timeout=_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = "unknown"
        self._output.seek(0)
        output = " ".join(self._output.read().decode(errors="replace").split())
        raise Inconclusive(
            f"latency worker '{self.name}' died (exit code {code}): "
            f"{output[-_MAX_OUTPUT_CHARACTERS:] or 'it printed nothing'}",
            hint="a negative code is a signal; -9 is often the kernel freeing memory",
        )

    def _stop(self, *, is_urgent: bool) -> None:
        stream = self._process.stdin
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):
            stream.close()
        try:
            # an idle worker exits at the end of its input; a busy one is killed if urgent
            self._process.wait(timeout=0 if is_urgent else _EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._pipe)
        self._output.close()
