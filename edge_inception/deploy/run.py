"""Deploys to several devices at once; a device that fails does not stop the others."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edge_inception.deploy import ssh, steps
from edge_inception.deploy.address import Address
from edge_inception.deploy.connection import Connection
from edge_inception.deploy.layout import DEFAULT_FOLDER, require_path
from edge_inception.deploy.payload import Payload, Wheels
from edge_inception.deploy.ssh import Access, ConnectionLost, LoginRefused
from edge_inception.deploy.steps import Deployment
from edge_inception.errors import DeployFailed, InputError, one_line
from edge_inception.spec import Progress, no_progress

_MAX_CONCURRENT = 8
_PROMPT_LOCK = threading.Lock()
_RETRY_DELAYS_S = (0.5, 2.0, 5.0, 10.0, 20.0)  # before each new attempt; progress starts them over


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """Options of one deploy.

    ``remote_dir`` begins with / or ~/; ``python`` is a command on the device; ``out`` is the local
    folder for the devices' results. ``is_rollback`` switches back to the previous version instead;
    ``is_dry`` reports what would be sent or switched, and changes nothing.
    """

    access: Access = field(default_factory=Access)
    remote_dir: str = DEFAULT_FOLDER
    python: str = "python3"
    out: Path = Path("deployed")
    is_rollback: bool = False
    is_dry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """Result of one device: PASSED, FAILED with ``error`` and ``hint``, or PLANNED (dry run)."""

    address: str
    status: str
    done: Deployment | None = None
    error: str = ""
    hint: str = ""


class _Cancellation(threading.Event):
    """Event whose ``cancel`` closes every connection, so Ctrl-C does not wait for a build."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: list[Connection] = []
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, connection: Connection) -> Iterator[None]:
        with self._lock:
            self._connections.append(connection)
        try:
            if self.is_set():
                connection.cancel()
            yield
        finally:
            with self._lock:
                self._connections.remove(connection)
            connection.close()

    def cancel(self) -> None:
        self.set()
        with self._lock:
            for connection in self._connections:
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
            payload=payload,
            wheels=wheels,
            remote_dir=options.remote_dir,
            python=options.python,
            out=options.out / steps.folder_name(address),
            say=lambda line: say_in_turn(address, line),
            copying=copying if len(addresses) == 1 else _without_progress,
        )
        return _deploy_to(address, job, options, cancellation)

    with ThreadPoolExecutor(min(len(addresses), _MAX_CONCURRENT)) as pool:
        futures = [pool.submit(deploy_to, address) for address in addresses]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            cancellation.cancel()
            raise


def _deploy_to(
    address: Address, job: steps.Job, options: DeployOptions, cancellation: _Cancellation
) -> DeviceResult:
    """The result of one device; a dropped connection is made again."""
    planned, carried_out = (
        (steps.plan_rollback, steps.rollback) if options.is_rollback else (steps.plan, steps.deploy)
    )
    action = planned if options.is_dry else carried_out
    failed = partial(DeviceResult, address=str(address), status="FAILED")
    try:
        done = _with_retries(address, options, cancellation, job, action)
    except DeployFailed as error:
        return failed(error=str(error), hint=error.hint)
    except Exception as error:  # noqa: BLE001 -- one device must not end the deploys of the others
        for line in traceback.format_exc().splitlines():
            job.say(line)
        return failed(error=one_line(f"{address}: {type(error).__name__}: {error}"))
    status = "PLANNED" if options.is_dry else "PASSED"
    return DeviceResult(address=str(address), status=status, done=done)


def _with_retries(
    address: Address,
    options: DeployOptions,
    cancellation: _Cancellation,
    job: steps.Job,
    action: Callable[[Connection, steps.Job], Deployment],
) -> Deployment:
    """The action's result; where the connection breaks, connect and run the action again.

    Where ssh lacks a password or a host key, it may ask on the terminal, for one device at a time.
    Each step skips work that an earlier attempt has done. The count of attempts starts over
    whenever an attempt finds fewer bytes left to send than the attempt before.

    Raises:
        DeployFailed: The device refuses, or the connection breaks again and again.
    """
    attempt, was_connected, is_asking = 0, False, False
    while True:
        left = job.sent.left
        try:
            with ExitStack() as stack:
                with _PROMPT_LOCK if is_asking else nullcontext():
                    connection = Connection(
                        address, options.access, options.python, is_asking=is_asking
                    )
                    stack.enter_context(cancellation.watching(connection))
                    connection.greet()
                was_connected = True
                return action(connection, job)
        except LoginRefused:
            if is_asking or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            is_asking = True
        except ConnectionLost as error:
            attempt = 0 if job.sent.left < left else attempt + 1
            if not was_connected or attempt >= len(_RETRY_DELAYS_S) or cancellation.is_set():
                raise
            job.say(f"{error}; trying again")
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
