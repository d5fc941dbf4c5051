"""Progress of the stages: lines and bars on stderr, and lines with UTC times in a log file.

The commands themselves print their results on stdout.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from edge_inception.errors import InputError
from edge_inception.spec import Progress, no_progress

_LOGGER = "edge_inception"


class _LogForwarder(logging.Handler):
    """Handler that shows the package's log records: warnings as notes, the others as details."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        show = self._terminal.note if is_warning else self._terminal.detail
        show(("warning: " if is_warning else "  ") + record.getMessage())


class Terminal:
    """Listener of a pipeline: notes, details and progress bars on stderr, all lines in a log.

    Args:
        verbosity: -1 shows errors only, 0 one line per stage, 1 also counts and reasons.
        log_file: File that every line is appended to with a UTC time, whatever the verbosity.

    Raises:
        InputError: The log file cannot be written.
    """

    def __init__(self, *, verbosity: int = 0, log_file: Path | None = None) -> None:
        self._verbosity = verbosity
        self._log = _open_log(log_file) if log_file else None
        self._handler = _LogForwarder(self)
        logger = logging.getLogger(_LOGGER)
        self._level = logger.level
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)

    def note(self, text: str) -> None:
        """Show a line, unless --quiet, and log it."""
        self._print(text, min_verbosity=0)

    def detail(self, text: str) -> None:
        """Show a line with --verbose, and log it."""
        self._print(text, min_verbosity=1)

    def log(self, text: str) -> None:
        """Log a line without showing it."""
        self._print(text, min_verbosity=2)

    @contextmanager
    def working(self, name: str) -> Iterator[Progress]:
        """Show a progress bar for the stage ``name`` while the block runs, if on a terminal."""
        if self._verbosity < 0 or not sys.stderr.isatty():
            yield no_progress
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars
        from rich.text import Text

        class Rate(ProgressColumn):
            """Column with the items per second, empty while they are unknown."""

            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:.3g}/s" if speed else "", style="progress.data.speed")

        columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), Rate())
        console = Console(stderr=True)
        with Bars(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
            task = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def close(self) -> None:
        """Close the log file and stop listening to the package's log records."""
        logger = logging.getLogger(_LOGGER)
        logger.removeHandler(self._handler)
        logger.setLevel(self._level)
        if self._log:
            self._log.close()

    def _print(self, text: str, *, min_verbosity: int) -> None:
        if self._verbosity >= min_verbosity:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 -- this is the terminal
        if self._log:
            now = dt.datetime.now(dt.timezone.utc)
            self._log.write(f"{now:%Y-%m-%dT%H:%M:%SZ} {text}\n")
            self._log.flush()


def _open_log(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write log file {path}: {error.strerror}", hint="choose another --log-file"
        ) from error
