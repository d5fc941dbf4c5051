"""The program that deploy runs in a device's own Python, for as long as it is connected.

Deploy sends this file's text as ``python3 -c TEXT``. Each request is a line of JSON on stdin, the
name of a function below and its arguments, so that no path is ever part of a command line. Answers
are lines of JSON on stdout: ``value`` or ``error``, and before it ``line`` for what a command
prints. Python 3.6 syntax, standard library.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

LOCK = ".lock"
PARTIAL = ".part"
_BLOCK_BYTES = 1 << 16
_LINE_BYTES = 1 << 12  # a longer line of a command becomes several
_RECORDS_BYTES = 4 << 20  # of all files that are fetched together
_POLL_S = 0.05
_HEARTBEAT_S = 20.0
_COMMAND_NOT_FOUND = 127
_OUTPUT_LOCK = threading.Lock()
_LOCKS = []  # type: List[Any] # open files, whose locks end with this program


class DeviceInfo(NamedTuple):
    """The first answer: the version of Python, the processor, and where a login starts."""

    python: str
    machine: str
    home: str


class Facts(NamedTuple):
    """Size in bytes and sha256 of a file."""

    bytes: int
    sha256: str


class Survey(NamedTuple):
    """What a folder holds.

    ``files`` has facts about each file and its unfinished copy, None where absent; ``folders`` are
    the names of folders, ``links`` has the targets of links.
    """

    files: Dict[str, Tuple[Optional[Facts], Optional[Facts]]]
    folders: List[str]
    links: Dict[str, str]
    free_bytes: int


def survey(folder: str, names: List[str]) -> Survey:
    """Facts about a folder and its files ``names``.

    Folders and links whose names are no plain text are left out, since deploy did not make them.
    """
    files, folders, links = {}, [], {}
    for name in names:
        path = os.path.join(folder, name)
        files[name] = (_file_facts(path), _file_facts(path + PARTIAL))
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name)
        target = os.readlink(path) if os.path.islink(path) else ""
        if target and (name + target).isprintable():
            links[name] = target
        elif not target and name.isprintable() and os.path.isdir(path):
            folders.append(name)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)  # on the same disk, and it exists
    return Survey(files, folders, links, shutil.disk_usage(folder).free)


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


def receive(path: str, start: int, size: int, sha256: str) -> Facts:
    """Facts about a file, whose ``size`` bytes from ``start`` on follow on stdin.

    The file gets its name only if its sha256 is as promised.
    """
    part = path + PARTIAL
    if not start:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _remove(part)  # it may be a link or a pipe
    try:
        with open(part, "ab" if start else "xb") as sink:
            left = size
            while left:
                block = sys.stdin.buffer.read(min(left, _BLOCK_BYTES))
                sink.write(block)
                left -= len(block)
                if not block:
                    raise SystemExit  # the connection is lost; the next one goes on from here
    except OSError as error:  # an error of writing does not name the file
        raise OSError(error.errno, error.strerror, part) from error
    facts = _file_facts(part) or Facts(0, "")
    if facts == Facts(start + size, sha256):
        os.replace(part, path)
    else:
        _remove(part)
    return facts


def write(path: str, text: str) -> int:
    """Length of a small file that was written, whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _remove(path + ".new")  # it may be a link or a pipe
    with open(path + ".new", "x", encoding="utf-8") as sink:
        sink.write(text)
    os.replace(path + ".new", path)
    return len(text)


def remove(folder: str, names: List[str]) -> int:
    """Number of files that were to be absent from a folder, and now are."""
    for name in names:
        _remove(os.path.join(folder, name))
    return len(names)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def switch(folder: str, links: List[Tuple[str, str]]) -> int:
    """Number of links that were made or changed, each in one step, so that it never is absent.

    Everything is written to the disk before, so that a power cut does not undo it.
    """
    os.sync()
    for name, target in links:
        path = os.path.join(folder, name)
        _remove(path + ".new")
        os.symlink(target, path + ".new")
        os.replace(path + ".new", path)
    return len(links)


def fetch(folder: str, names: List[str]) -> Dict[str, str]:
    """Text of every JSON file in some folders, where bytes that are no UTF-8 are replaced."""
    files, left = {}, _RECORDS_BYTES
    for inner in names:
        path = os.path.join(folder, inner)
        for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
            if name.endswith(".json"):
                content = _read_regular(os.path.join(path, name), left)
                left -= len(content)
                files[inner + "/" + name] = content.decode("utf-8", "replace")
    return files


def _read_regular(path: str, max_bytes: int) -> bytes:
    """Content of a regular file; opening a pipe would wait for ever, so it does not block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "no regular file", path)
        if facts.st_size > max_bytes:
            reason = "records of over {} MiB".format(_RECORDS_BYTES >> 20)
            raise OSError(errno.EFBIG, reason, path)
        return stream.read(max_bytes)


def lock(folder: str, holder: str, timeout_s: float) -> str:
    """Who else holds the lock of a folder; empty if it is ours now, until this program ends.

    ``holder`` asks for it, and waits ``timeout_s``. A folder that is missing is made.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, LOCK)
    stream = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 -- it stays open
    last = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > last:
                stream.seek(0)
                return stream.read(_LINE_BYTES) or "it has just started"
            time.sleep(_POLL_S)
    _LOCKS.append(stream)
    stream.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    stream.write("{}, since {}, pid {}".format(holder, started, os.getpid()))
    stream.flush()
    return ""


def run(folder: str, words: List[str]) -> int:
    """Exit code of a command in a folder, whose stdout and stderr are answers before.

    A build prints nothing for minutes. If it went on after the connection dropped, the next deploy
    would start a second build beside it, so the command is killed when our stdin ends.
    """
    try:
        child = subprocess.Popen(  # noqa: S603 -- what deploy asked for, and no shell
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError:
        return _COMMAND_NOT_FOUND
    try:
        for line in _lines(child):
            _answer(line=line.decode("utf-8", "replace"))
        code = child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code  # as in a shell, 128 + the signal that ended it


def _lines(child: Any) -> Iterator[bytes]:
    """Lines of a command until it ends; what it left running may keep its stdout open."""
    rest, sources = b"", [sys.stdin.fileno(), child.stdout.fileno()]
    while len(sources) > 1 or child.poll() is None:
        ready = select.select(sources, [], [], _POLL_S)[0]
        if sources[0] in ready:
            raise SystemExit  # deploy sends nothing meanwhile, so the connection is lost
        if ready:
            block = os.read(sources[1], _BLOCK_BYTES)
            if not block:
                sources.pop()
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            yield from lines
        elif child.poll() is not None:
            break
    if rest:
        yield rest


def _answer(**answer: Any) -> None:
    """Print an answer; an empty one shows that the connection works, or else fails."""
    with _OUTPUT_LOCK:
        sys.stdout.write(json.dumps(_plain(answer)) + "\n")
        sys.stdout.flush()


def _plain(value: Any) -> Any:
    """A record with its fields as a dictionary; json alone would write it as a list."""
    fields = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(fields, dict):
        return {name: _plain(entry) for name, entry in fields.items()}
    return [_plain(entry) for entry in fields] if isinstance(fields, tuple) else fields


def _print_heartbeats() -> None:
    while True:
        time.sleep(_HEARTBEAT_S)
        _answer()


def main() -> None:
    """Answer requests until stdin ends, or until one fails."""
    _answer(value=DeviceInfo(platform.python_version(), platform.machine(), os.getcwd()))
    threading.Thread(target=_print_heartbeats, daemon=True).start()
    functions = (survey, receive, write, remove, switch, fetch, lock, run)
    by_name = {each.__name__: each for each in functions}  # type: Dict[str, Any]
    for line in iter(sys.stdin.buffer.readline, b""):
        name, arguments = json.loads(line.decode())
        try:
            _answer(value=by_name[name](**arguments))
        except OSError as error:
            _answer(error="{}: {}".format(error.filename or name, error.strerror or error))
            return


if __name__ == "__main__":
    main()
