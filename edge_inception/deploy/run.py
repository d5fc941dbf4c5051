"""Deploys to several devices at once; a device that fails does not stop the others."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from edge_inception.deploy import ssh, steps
from edge_inception.deploy.address import Address
from edge_inception.deploy.connection import Connection
from edge_inception.deploy.layout import require_path
from edge_inception.deploy.payload import Payload, Wheels
from edge_inception.deploy.ssh import ConnectionLost, LoginRefused
from edge_inception.deploy.steps import Deployment, DeployOptions
from edge_inception.errors import DeployFailed, InputError, one_line
from edge_inception.spec import Progress, no_progress

_MAX_CONCURRENT = 8
_PROMPT_LOCK = threading.Lock()
_RETRY_DELAYS_S = (0.5, 2.0, 5.0, 10.0, 20.0)  # before each new attempt; progress starts them over


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """Result of one device: PASSED, FAILED with ``error`` and ``hint``, or PLANNED (dry run)."""

    address: str
    status: str
    done: Deployment | None = None
    error: str = ""
    hint: str = ""


class _Cancellation(threading.Event):
    """Event whose ``cancel`` breaks every connection, so Ctrl-C does not wait for a build."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: set[Connection] = set()

    @contextmanager
    def watching(self, connection: Connection) -> Iterator[None]:
        self._connections.add(connection)
        try:
            if self.is_set():
                connection.cancel()
            yield
        finally:
            self._connections.remove(connection)
            connection.close()

    def cancel(self) -> None:
        self.set()
        for connection in tuple(self._connections):
            connection.cancel()


def _without_progress() -> AbstractContextManager[Progress]:
    return nullcontext(no_progress)


def deploy(
    addresses: Sequence[Address],
    payload: Payload,
    options: DeployOptions,
    *,
    wheels: Wheels | None = None,
    say: Callable[[Address, str], None],
    copying: Callable[[], AbstractContextManager[Progress]] = _without_progress,
) -> tuple[DeviceResult, ...]:
    """Copy a bundle to every device, verify it and switch to it, or roll back.

    Args:
        addresses: The devices.
        payload: The bundle.
        options: Options for all devices.
        wheels: Wheels for devices without a network.
        say: Called with each line of a device's output, from several threads, one at a time.
        copying: Shows the bytes sent and to send while a copy runs, if there is only one device.

    Returns:
        The result of each device, in the order of ``addresses``.

    Raises:
        BackendMissing: There is no ``ssh``.
        InputError: The key file, the known hosts, the remote folder or the Python cannot be used.
    """
    require_path(options.remote_dir)
    if options.python.startswith("-"):  # the shell there would take it for an option of its own
        raise InputError(f"--python {options.python} is no command", hint="give a name or a path")
    ssh.require(options.access)
    cancellation, output_lock = _Cancellation(), threading.Lock()

    def say_in_turn(address: Address, line: str) -> None:
        with output_lock:
            say(address, one_line(line))

    def deploy_to(address: Address) -> DeviceResult:
        job = steps.Job(
            address=address,
            payload=payload,
            wheels=wheels,
            options=options,
            say=lambda line: say_in_turn(address, line),
            copying=copying if len(addresses) == 1 else _without_progress,
        )
        return _deploy_to(job, cancellation)

    with ThreadPoolExecutor(min(len(addresses), _MAX_CONCURRENT)) as pool:
        futures = [pool.submit(deploy_to, address) for address in addresses]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            cancellation.cancel()
            raise


def _deploy_to(job: steps.Job, cancellation: _Cancellation) -> DeviceResult:
    """The result of one device, whatever happens to it."""
    address = str(job.address)
    try:
        done = _with_retries(job, cancellation)
    except DeployFailed as error:
        reason = f"{address}: {error}"
        return DeviceResult(address=address, status="FAILED", error=reason, hint=error.hint)
    except Exception as error:  # noqa: BLE001 -- one device must not end the deploys of the others
        for line in traceback.format_exc().splitlines():
            job.say(line)
        reason = one_line(f"{address}: {type(error).__name__}: {error}")
        return DeviceResult(address=address, status="FAILED", error=reason)
    status = "PLANNED" if job.options.is_dry else "PASSED"
    return DeviceResult(address=address, status=status, done=done)


def _with_retries(job: steps.Job, cancellation: _Cancellation) -> Deployment:
    """What was done; where the connection breaks, connect and go on.

    Where ssh lacks a password or a host key, it may ask on the terminal, for one device at a time.
    Each step skips work that an earlier attempt has done. The count of attempts starts over
    whenever an attempt finds fewer bytes left to send than the attempt before.
    """
    attempt, was_connected, is_asking = 0, False, False
    access, python = job.options.access, job.options.python
    while True:
        left = job.sent.left
        try:
            with ExitStack() as stack:
                with _PROMPT_LOCK if is_asking else nullcontext():
                    connection = Connection(job.address, access, python, is_asking=is_asking)
                    stack.enter_context(cancellation.watching(connection))
                    connection.wait_until_ready()
                was_connected = True
                return steps.carry_out(connection, job)
        except LoginRefused:
            if is_asking or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            is_asking = True
        except ConnectionLost as error:
            attempt = 0 if job.sent.left < left else attempt + 1
            if not was_connected or attempt >= len(_RETRY_DELAYS_S) or cancellation.is_set():
                raise
            job.say(f"{job.address}: {error}; trying again")
            if cancellation.wait(_RETRY_DELAYS_S[attempt]):
                raise


def as_record(result: DeviceResult) -> dict[str, Any]:
    """The result as JSON types."""
    done = result.done
    results = str(done.results) if done and done.results else None
    return {
        "address": result.address,
        "status": result.status,
        "error": result.error or None,
        "hint": result.hint or None,
        **({**asdict(done), "results": results} if done else {}),
    }
