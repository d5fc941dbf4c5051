"""The program that deploy runs in a device's own Python: survey files, lock, flush, run a command.

Deploy sends this file's text as ``python3 -c TEXT COMMAND`` and the request as one line of JSON on
stdin, so that no path is ever part of a command line. Python 3.6 syntax, standard library.
"""

import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

_BLOCK_BYTES = 1 << 20
_POLL_S = 0.25
_HEARTBEAT_S = 30.0
_COMMAND_NOT_FOUND = 127


class Survey(NamedTuple):
    """Request for facts about files and their unfinished copies, whose names end in ``part``."""

    folder: str
    names: List[str]
    part: str


class Facts(NamedTuple):
    """Size in bytes and sha256 of a file."""

    bytes: int
    sha256: str


class SurveyResult(NamedTuple):
    """Facts about each file and its unfinished copy (None where absent), and about the device."""

    files: Dict[str, Tuple[Optional[Facts], Optional[Facts]]]
    free_bytes: int
    python: str
    machine: str


class Flush(NamedTuple):
    """Request to write everything in a folder from the cache to the disk."""

    folder: str


class Lock(NamedTuple):
    """Request for the lock of a folder; ``holder`` names who asks and waits ``timeout_s``."""

    folder: str
    file: str
    holder: str
    timeout_s: float


class LockResult(NamedTuple):
    """Whether the lock was taken; if not, ``holder`` names who has it."""

    locked: bool
    holder: str = ""


class Run(NamedTuple):
    """Request to run a command in a folder."""

    folder: str
    words: List[str]


def survey(request: Survey) -> SurveyResult:
    """Size and sha256 of each named file and of its unfinished copy, and facts about the device."""
    files = {}
    for name in request.names:
        path = os.path.join(request.folder, *name.split("/"))
        files[name] = (_file_facts(path), _file_facts(path + request.part))
    return SurveyResult(
        files=files,
        free_bytes=shutil.disk_usage(_nearest_existing(request.folder)).free,
        python=platform.python_version(),
        machine=platform.machine(),
    )


def _file_facts(path: str) -> Optional[Facts]:
    """Size and digest of a file, None where there is none; a link does not count as a file."""
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            digest.update(block)
            size += len(block)
    return Facts(size, digest.hexdigest())


def _nearest_existing(folder: str) -> str:
    """The folder, or the nearest folder above it that exists, which is on the same disk."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def flush(request: Flush) -> Flush:
    """Write everything to the disk before the switch, so that a power cut does not undo it."""
    os.sync()
    return request


def lock(request: Lock) -> LockResult:
    """Hold the lock of a folder until stdin ends, which a dropped connection causes too.

    The function prints that the lock is taken and waits; if another holds it, it returns that name.
    """
    with open(os.path.join(request.folder, request.file), "a+") as stream:
        if not _lock_in_time(stream, request.timeout_s):
            stream.seek(0)
            return LockResult(locked=False, holder=stream.read())
        stream.seek(0)
        stream.truncate()
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        stream.write("{}, since {}, pid {}".format(request.holder, started, os.getpid()))
        stream.flush()
        _print_line(_json(LockResult(locked=True)))
        while not select.select([0], [], [], _HEARTBEAT_S)[0] or os.read(0, 1):
            # Only a write that fails shows that the host is gone.
            _print_line("")
    return LockResult(locked=False)


def run(request: Run) -> int:
    """Exit code of a command, which shares our stdout and is killed when our stdin ends.

    A build prints nothing for minutes. If it went on after the connection dropped, the next deploy
    would start a second build beside it.
    """
    try:
        child = subprocess.Popen(  # noqa: S603 -- what deploy asked for, and no shell
            request.words,
            cwd=request.folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        sys.stderr.write("{}: {}\n".format(request.words[0], error.strerror))
        return _COMMAND_NOT_FOUND

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(child.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code  # as in a shell, 128 + the signal that ended it


def _lock_in_time(stream: Any, timeout_s: float) -> bool:
    """Whether the lock was taken in time; a dropped connection's lock may take a while to free."""
    last = time.time() + timeout_s
    while not _try_lock(stream):
        if time.time() > last:
            return False
        time.sleep(_POLL_S)
    return True


def _try_lock(stream: Any) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _json(answer: Union[SurveyResult, Flush, LockResult]) -> str:
    """The answer as JSON with named fields; json alone would write Facts as a list."""
    fields = answer._asdict()
    if isinstance(answer, SurveyResult):
        pairs = answer.files.items()
        fields.update(files={name: [f and f._asdict() for f in pair] for name, pair in pairs})
    return json.dumps(fields)


def _read_line() -> str:
    """The first line of stdin, read byte by byte, so that nothing after it is consumed."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line.decode()


def main(command: str) -> None:
    """Answer one request with one line of JSON."""
    fields = json.loads(_read_line())
    if command == "run":
        os._exit(run(Run(**fields)))  # the thread that reads stdin may still wait
    try:
        if command == "survey":
            _print_line(_json(survey(Survey(**fields))))
        elif command == "flush":
            _print_line(_json(flush(Flush(**fields))))
        else:
            _print_line(_json(lock(Lock(**fields))))
    except BrokenPipeError:
        os._exit(0)
    except OSError as error:
        _print_line(json.dumps({"error": "{}: {}".format(error.filename or "", error.strerror)}))


if __name__ == "__main__":
    main(sys.argv[1])
