"""Commands and files of a device over an open ssh connection."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paramiko

from edge_inception.deploy import agent
from edge_inception.deploy.address import Address
from edge_inception.device import records
from edge_inception.device.errors import Refusal
from edge_inception.errors import DeployFailed

Tell = Callable[[str], None]
Request = agent.Survey | agent.Flush | agent.Lock | agent.Run
R = TypeVar("R")

CONNECT_S = 20
_GRACE_S = 1.0  # longest time from the end of a channel to the end of its lost connection
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_BLOCK = 1 << 15
_SHOWN = 200


class ConnectionLost(DeployFailed):
    """The connection broke, or data arrived damaged; a new connection can resume the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Exit code of a command, and the lines of its stdout and stderr."""

    code: int
    lines: tuple[str, ...]


def _plain(line: str) -> str:
    """A line from a device, with ``?`` for control characters, which could alter our terminal."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in line)


class Machine:
    """A device with an open ssh connection; the caller closes it.

    Every method raises ConnectionLost where the connection breaks, and DeployFailed, naming the
    device, where the device refuses.
    """

    def __init__(self, address: Address, client: paramiko.SSHClient) -> None:
        self.address = address
        self._client = client
        with self._speaking("cannot start sftp"):
            self.sftp = client.open_sftp()

    def close(self) -> None:
        """Close the connection; commands that still run there lose their stdin and stdout."""
        self._client.close()

    def run(self, python: str, words: Sequence[str], folder: str, tell: Tell) -> Outcome:
        """Run a command in a folder to its end; ``tell`` gets each line of stdout and stderr."""
        lines = []
        with self._speaking(f"cannot run {words[0]}"):
            channel = self._question(python, agent.Run(folder, list(words)))
            channel.set_combine_stderr(True)
            for raw in channel.makefile("r"):
                line = _plain(str(raw).rstrip("\r\n"))
                lines.append(line)
                tell(line)
            code = channel.recv_exit_status()
            channel.close()
        self._require_ended(code, words[0])
        return Outcome(code=code, lines=tuple(lines))

    def ask(self, python: str, request: Request, kind: type[R]) -> R:
        """The agent's answer, a record of type ``kind``; ``python`` runs it on the device."""
        with self.asking(python, request, kind) as answer:
            return answer

    @contextmanager
    def asking(self, python: str, request: Request, kind: type[R]) -> Iterator[R]:
        """The agent's answer, as from ``ask``, while the agent runs until the block ends."""
        with self._speaking(f"cannot run {python}"):
            channel = self._question(python, request)
            answer = str(channel.makefile("r").readline())
        try:
            yield self._answer(python, answer, channel, kind)
        finally:
            channel.close()

    def send(self, path: Path, to: str, *, start: int, sent: Callable[[int], None]) -> None:
        """Append the bytes of a local file, from offset ``start`` on, to the remote file ``to``.

        ``sent`` is called with the number of bytes of each block after it was written.
        """
        with (
            path.open("rb") as source,
            self._speaking(f"cannot write {to}"),
            self.sftp.open(to, "ab" if start else "wb") as sink,
        ):
            source.seek(start)
            sink.set_pipelined(True)
            while block := source.read(_BLOCK):
                sink.write(block)
                sent(len(block))
            # Pipelined writes report no error, so only the file's size shows that the disk is full.
            arrived, wanted = sink.stat().st_size, source.tell()
            if arrived != wanted:
                raise OSError(f"{arrived} of {wanted} bytes arrived")

    def read(self, path: str) -> bytes:
        """Bytes of a small file."""
        with self._speaking(f"cannot read {path}"), self.sftp.open(path, "rb") as source:
            source.prefetch()
            return source.read()

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        with self._speaking(f"cannot write {path}"):
            with self.sftp.open(f"{path}.new", "wb") as sink:
                sink.write(content)
            self.sftp.posix_rename(f"{path}.new", path)

    def rename(self, old: str, new: str) -> None:
        """Rename ``old`` to ``new`` in one step, which replaces a file of that name."""
        with self._speaking(f"cannot rename {old}"):
            self.sftp.posix_rename(old, new)

    def remove(self, path: str) -> None:
        """Remove a file or link, if it is there."""
        with self._speaking(f"cannot remove {path}"), suppress(FileNotFoundError):
            self.sftp.remove(path)

    def names(self, folder: str) -> Mapping[str, bool]:
        """Name in the folder -> whether it is a folder; empty where there is no such folder.

        The names become local paths, so a name with a slash or ``..``, which could lead outside the
        local folder, is refused.
        """
        with self._speaking(f"cannot list {folder}"):
            try:
                entries = self.sftp.listdir_attr(folder)
            except FileNotFoundError:
                return {}
        for entry in entries:
            if "/" in entry.filename or entry.filename == ".." or not entry.filename.isprintable():
                raise DeployFailed(
                    f"{self.address}: its sftp server says that {folder} holds "
                    f"{entry.filename!r}, which is no file's name",
                    hint="do not trust this device: no honest server answers so",
                )
        return {entry.filename: stat.S_ISDIR(entry.st_mode or 0) for entry in entries}

    def link(self, path: str) -> str | None:
        """Target of a symbolic link; None where there is no link."""
        with self._speaking(f"cannot read {path}"):
            try:
                return self.sftp.readlink(path)
            except FileNotFoundError:
                return None
            except OSError:
                if self._is_open():
                    return None  # a file or a folder
                raise

    def set_link(self, path: str, to: str) -> None:
        """Make or change a symbolic link in one step, so that the link never is absent."""
        with self._speaking(f"cannot link {path}"):
            with suppress(FileNotFoundError):
                self.sftp.remove(f"{path}.new")
            self.sftp.symlink(to, f"{path}.new")
            self.sftp.posix_rename(f"{path}.new", path)

    def make_folders(self, folder: str) -> None:
        """Make the folder and the folders above it that are missing."""
        with self._speaking(f"cannot make {folder}"):
            missing = []
            while not self._is_folder(folder):
                missing.append(folder)
                folder = folder.rpartition("/")[0] or "/"
            for path in reversed(missing):
                self.sftp.mkdir(path)

    def home(self) -> str:
        """Absolute path of the folder in which a login starts."""
        with self._speaking("cannot find the home folder"):
            return self.sftp.normalize(".")

    def _is_folder(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self.sftp.stat(path).st_mode or 0)
        except FileNotFoundError:
            return False

    def _question(self, python: str, request: Request) -> paramiko.Channel:
        """Channel to a started agent; the request goes over stdin, not on the command line."""
        transport = self._client.get_transport()
        if transport is None:
            raise EOFError
        text = Path(agent.__file__).read_text(encoding="utf-8")
        channel = transport.open_session(timeout=CONNECT_S)
        # -I, so that a json.py in the home folder is not imported in place of Python's own.
        command = type(request).__name__.lower()
        channel.exec_command(shlex.join([python, "-I", "-S", "-c", text, command]))
        channel.sendall(json.dumps(request._asdict()).encode() + b"\n")
        return channel

    def _answer(self, python: str, text: str, channel: paramiko.Channel, kind: type[R]) -> R:
        where, hint = str(self.address), "check owner and permissions there, or give another "
        try:
            answer = records.parse(text.encode(), where, hint)
        except Refusal as error:
            raise self._no_answer(python, channel) from error
        if isinstance(answer, dict) and (reason := answer.get("error")):
            raise DeployFailed(f"{where}: {_plain(str(reason))}", hint=f"{hint}--remote-dir")
        try:
            return records.convert(kind, answer, where, hint)
        except Refusal as error:
            raise DeployFailed(
                str(error), hint="do not trust this device: deploy's own program answers otherwise"
            ) from error

    def _no_answer(self, python: str, channel: paramiko.Channel) -> DeployFailed:
        with self._speaking(f"cannot run {python}"):
            text = channel.makefile_stderr("rb").read().decode(errors="replace")
            code = channel.recv_exit_status()
        self._require_ended(code, python)
        lines = text.strip().splitlines() or [f"exit code {code}"]
        return DeployFailed(
            f"{self.address}: {python} cannot run what deploy asks: {lines[-1][:_SHOWN]}",
            hint="name a Python of 3.6 or later with --python",
        )

    def _require_ended(self, code: int, program: str) -> None:
        """Raise where the exit code says that the connection broke or the program did not start."""
        if code == -1 and not self._is_open():
            raise self._lost(f"{program} was running")
        if code in {_NOT_FOUND, _NOT_EXECUTABLE}:
            raise DeployFailed(
                f"{self.address}: no {program} there that can be run",
                hint="install it (apt install python3), or name another with --python",
            )

    def _is_open(self) -> bool:
        """Whether the connection is still open shortly after a channel ended."""
        transport = self._client.get_transport()
        if transport is None:
            return False
        transport.join(_GRACE_S)
        return bool(transport.is_active())

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Turn paramiko's errors into ours; ``doing`` says in the message what failed."""
        try:
            yield
        except (EOFError, paramiko.SSHException, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError) or not self._is_open():
                raise self._lost(doing) from error
            reason = getattr(error, "strerror", None) or str(error) or "it hung up"
            raise DeployFailed(
                f"{self.address}: {doing}: {reason}",
                hint="check permissions and free space there (df), or give another --remote-dir",
            ) from error

    def _lost(self, doing: str) -> ConnectionLost:
        return ConnectionLost(
            f"{self.address}: connection lost: {doing}",
            hint="run the same command again: the copy goes on where it stopped",
        )
