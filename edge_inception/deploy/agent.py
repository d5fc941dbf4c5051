"""What deploy asks of a device's own Python: which files are there, how much room, who deploys.

Its text is sent as ``python3 -c TEXT COMMAND`` and its questions come as one line of JSON on stdin,
so that no path is ever part of a command line. Python 3.6 syntax, standard library.
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
_PAUSE_S = 0.25
_SIGN_OF_LIFE_S = 30.0
_NOT_FOUND = 127


class Survey(NamedTuple):
    """Asks for files in a folder, and for their unfinished copies, which end in ``part``."""

    folder: str
    names: List[str]
    part: str


class Facts(NamedTuple):
    """Size and digest of a file."""

    bytes: int
    sha256: str


class Surveyed(NamedTuple):
    """Each file and its unfinished copy, None where there is none; free room; who answers."""

    files: Dict[str, Tuple[Optional[Facts], Optional[Facts]]]
    free_bytes: int
    python: str
    machine: str


class Flush(NamedTuple):
    """Asks that everything written to a folder is on the disk."""

    folder: str


class Lock(NamedTuple):
    """Asks to be alone in a folder; ``holder`` is who asks."""

    folder: str
    file: str
    holder: str
    patience_s: float


class Locked(NamedTuple):
    """Whether the lock is held, or else by whom."""

    locked: bool
    holder: str = ""


class Run(NamedTuple):
    """Asks to run a command in a folder."""

    folder: str
    words: List[str]


def survey(request: Survey) -> Surveyed:
    """Size and sha256 of each file named and of its unfinished copy; free room; who answers."""
    found = {}
    for name in request.names:
        path = os.path.join(request.folder, *name.split("/"))
        found[name] = (_facts(path), _facts(path + request.part))
    return Surveyed(
        files=found,
        free_bytes=shutil.disk_usage(_nearest(request.folder)).free,
        python=platform.python_version(),
        machine=platform.machine(),
    )


def _facts(path: str) -> Optional[Facts]:
    """None where there is no such file; a link is none, since what it points to is not ours."""
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            digest.update(block)
            size += len(block)
    return Facts(size, digest.hexdigest())


def _nearest(folder: str) -> str:
    """The folder, or the nearest above it that exists: they share a disk."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def flush(request: Flush) -> Flush:
    """Everything written reaches the disk before the switch: a power cut must not undo it."""
    os.sync()
    return request


def lock(request: Lock) -> Locked:
    """Hold the lock of a folder until stdin ends, which a dropped connection does too.

    Tells that it is locked and waits, or answers with who holds it.
    """
    with open(os.path.join(request.folder, request.file), "a+") as stream:
        if not _is_locked(stream, request.patience_s):
            stream.seek(0)
            return Locked(locked=False, holder=stream.read())
        stream.seek(0)
        stream.truncate()
        started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        stream.write("{}, since {}, pid {}".format(request.holder, started, os.getpid()))
        stream.flush()
        _tell(_json(Locked(locked=True)))
        while not select.select([0], [], [], _SIGN_OF_LIFE_S)[0] or os.read(0, 1):
            # A host that vanished is noticed only by what is sent to it.
            _tell("")
    return Locked(locked=False)


def run(request: Run) -> int:
    """Run a command with our stdout; its exit code. It is killed when stdin ends.

    A build goes on for minutes without a word: were it left alone when the connection drops, the
    next deploy would start a second one beside it.
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
        return _NOT_FOUND

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(child.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code  # as shells tell a signal


def _is_locked(stream: Any, patience_s: float) -> bool:
    """Whether the lock was free, or became so in time: a dropped holder takes a moment to go."""
    last = time.time() + patience_s
    while not _is_ours(stream):
        if time.time() > last:
            return False
        time.sleep(_PAUSE_S)
    return True


def _is_ours(stream: Any) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _json(answer: Union[Surveyed, Flush, Locked]) -> str:
    """A record as JSON, files as objects: json itself would write a list of each."""
    found = answer._asdict()
    if isinstance(answer, Surveyed):
        pairs = answer.files.items()
        found.update(files={name: [one and one._asdict() for one in two] for name, two in pairs})
    return json.dumps(found)


def _line() -> str:
    """The first line of stdin, and nothing of what follows: it is read without a buffer."""
    found = b""
    while not found.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        found += byte
    return found.decode()


def main(command: str) -> None:
    """Answer one question with one line of JSON."""
    asked = json.loads(_line())
    if command == "run":
        os._exit(run(Run(**asked)))  # the thread that reads stdin may still wait
    try:
        if command == "survey":
            _tell(_json(survey(Survey(**asked))))
        elif command == "flush":
            _tell(_json(flush(Flush(**asked))))
        else:
            _tell(_json(lock(Lock(**asked))))
    except BrokenPipeError:
        os._exit(0)
    except OSError as error:
        _tell(json.dumps({"error": "{}: {}".format(error.filename or "", error.strerror)}))


if __name__ == "__main__":
    main(sys.argv[1])
