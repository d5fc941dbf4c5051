"""An open connection to a device: one ``ssh`` that runs the agent, requests out and answers in.

A device may be broken or hostile, so nothing that it sends is trusted: what one request may bring,
and the time that it may take, are limited, and every answer must have the type that was asked for.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from edge_inception.deploy import agent, ssh
from edge_inception.deploy.address import Address
from edge_inception.deploy.ssh import Access, ConnectionLost
from edge_inception.device import records
from edge_inception.device.errors import Refusal
from edge_inception.errors import DeployFailed

Tell = Callable[[str], None]
R = TypeVar("R")

DISTRUST = "do not trust this device: deploy's own program answers otherwise"
_FLOODED = "a program there prints without end, or this device is not to be trusted"
_REFUSED = "check permissions and free space there (df), or give another --remote-dir"
_LOGIN_S, _PROMPT_S = 60.0, 300.0
_ANSWER_S = 1800.0  # an SD card hashes and flushes slowly
_LONG_S = 6 * 3600.0  # a build on the smallest device, or a copy over a mobile network
_POLL_S = 0.2
_MAX_ANSWER_BYTES = 8 << 20
_LINE_COST_BYTES = 32
_MAX_LINES, _MAX_SHOWN = 1000, 1000
_NOT_FOUND, _NOT_EXECUTABLE, _SSH_FAILED = 127, 126, 255
_EXIT_S = 2.0


class Connection:
    """A connection to a device, which the caller closes.

    Every method raises ConnectionLost where the connection breaks, and DeployFailed where the
    device refuses; neither message names the device.

    Args:
        address: The device.
        access: Key files.
        python: Command on the device that runs the agent.
        is_asking: Whether ssh may ask for passwords and host keys on the terminal.
    """

    def __init__(
        self, address: Address, access: Access, python: str, *, is_asking: bool = False
    ) -> None:
        self.device = agent.DeviceInfo("", "", "")
        self._login, self._python = (address, access), python
        text = Path(agent.__file__).read_text(encoding="utf-8")
        # -I, so that a json.py in the home folder is not imported in place of Python's own.
        words = [python, "-I", "-S", "-c", text]
        self._process = subprocess.Popen(  # noqa: S603 -- checked words, and no shell
            ssh.command(*self._login, words, is_asking=is_asking),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=not is_asking,  # Ctrl-C is ours; only a prompt needs the terminal
        )
        assert self._process.stdin and self._process.stdout  # noqa: PT018 -- both are pipes
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._other_lines: deque[bytes] = deque(maxlen=_MAX_LINES)  # such as ssh's errors
        self._set_limits(_PROMPT_S if is_asking else _LOGIN_S)
        threading.Thread(target=self._watch, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Wait until the login has succeeded and the agent says what device it is.

        Raises:
            LoginRefused: The host key is unknown, or no key is accepted.
        """
        self.device = self._answer(agent.DeviceInfo, None)
        self._other_lines.clear()  # those of ~/.bashrc say nothing about later errors

    def cancel(self) -> None:
        """Break the connection; another thread may wait for it."""
        self._process.terminate()  # killed at a prompt, ssh would leave the terminal without echo

    def close(self) -> None:
        """Close the connection; a command that still runs there is killed."""
        with self._process as process:
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                self._stdin.close()
                process.wait(_EXIT_S)
            process.kill()

    def ask(
        self,
        function: Callable[..., R],
        *,
        body: Iterable[bytes] = (),
        tell: Tell | None = None,
        **arguments: Any,
    ) -> R:
        """What a function of the agent returns on the device.

        Args:
            function: The function.
            body: Bytes that it reads from its stdin.
            tell: Called with each line of the command that it runs.
            arguments: The function's arguments.
        """
        self._set_limits(_LONG_S if body or tell else _ANSWER_S)
        self._write(json.dumps([function.__name__, arguments]).encode() + b"\n")
        for block in body:
            self._write(block)
        kind: type[R] = inspect.signature(function).return_annotation
        return self._answer(kind, tell)

    def run(self, words: Sequence[str], folder: str, tell: Tell) -> tuple[int, Sequence[str]]:
        """Exit code and last lines of a command in a folder; ``tell`` gets each line it prints."""
        lines: deque[str] = deque(maxlen=_MAX_LINES)

        def keep(line: str) -> None:
            lines.append(line.rstrip("\r").expandtabs()[:_MAX_SHOWN])
            tell(lines[-1])

        code = self.ask(agent.run, tell=keep, folder=folder, words=list(words))
        _require_found(code, words[0])
        return code, lines

    def _set_limits(self, limit_s: float) -> None:
        self._deadline = time.monotonic() + limit_s
        self._left_bytes = _MAX_ANSWER_BYTES

    def _watch(self) -> None:
        """Break the connection where an answer takes too long; ssh sees to it that it is up."""
        while self._process.poll() is None:
            if time.monotonic() > self._deadline:
                self.cancel()
            time.sleep(_POLL_S)

    def _write(self, content: bytes) -> None:
        try:
            self._stdin.write(content)
            self._stdin.flush()
        except BrokenPipeError:
            self._answer(str, None)  # raises with the device's reason

    def _answer(self, kind: type[R], tell: Tell | None) -> R:
        """The value of type ``kind`` that the agent returns; ``tell`` gets a command's lines."""
        where = "the device's answer"
        try:
            while True:
                match records.parse(self._line(), where, DISTRUST):
                    case {"value": value}:
                        return records.convert(kind, value, where, DISTRUST)
                    case {"line": str(line)} if tell:
                        tell(line)
                    case {"error": str(reason)}:
                        raise DeployFailed(reason, hint=_REFUSED)
                    case _:  # a sign of life
                        pass
        except Refusal as error:
            raise DeployFailed(str(error), hint=error.fix) from error

    def _line(self) -> bytes:
        """The next line of the agent; other lines, such as ssh's errors, are kept as reasons."""
        while line := self._stdout.readline(_MAX_ANSWER_BYTES):
            self._left_bytes -= len(line) + _LINE_COST_BYTES
            if self._left_bytes <= 0:
                self.cancel()
                limit = f"over {_MAX_ANSWER_BYTES >> 20} MiB"
                raise DeployFailed(f"it answers with {limit}", hint=_FLOODED)
            if line.startswith(b"{") and line.endswith(b"}\n"):
                return line
            self._other_lines.append(line[:_MAX_SHOWN])
        raise self._ended()

    def _ended(self) -> DeployFailed:
        """The error for a connection of which nothing more arrives."""
        is_late, code = time.monotonic() > self._deadline, self._exit_code()
        text = b"".join(self._other_lines).decode(errors="replace")
        reason = (text.strip().splitlines() or [f"exit code {code}"])[-1][:_MAX_SHOWN]
        is_broken = code < 0 or code == _SSH_FAILED
        if is_broken and not self.device.home:
            return ssh.login_error(*self._login, text)
        if is_late:
            return DeployFailed("no answer in time", hint="restart the device")
        if is_broken:
            return ConnectionLost(
                f"connection lost: {reason}",
                hint="run the same command again: the copy goes on where it stopped",
            )
        _require_found(code, self._python)
        return DeployFailed(
            f"{self._python} cannot run what deploy asks: {reason}",
            hint="name a Python of 3.6 or later with --python",
        )

    def _exit_code(self) -> int:
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_EXIT_S)
        self._process.kill()
        return self._process.wait()


def _require_found(code: int, program: str) -> None:
    """Refuse an exit code that says that the program did not start."""
    if code in {_NOT_FOUND, _NOT_EXECUTABLE}:
        raise DeployFailed(
            f"no {program} there that can be run",
            hint="install it (apt install python3), or name another with --python",
        )
