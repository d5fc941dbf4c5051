"""The listener, to which a build reports its progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from edge_inception.spec import Progress, no_progress


class Listener(Protocol):
    """Receives the notes, details and progress of a build."""

    def note(self, text: str) -> None:
        """Show a line that all users want to see."""

    def detail(self, text: str) -> None:
        """Show a line to users who asked for details."""

    def working(self, name: str) -> AbstractContextManager[Progress]:
        """Show the progress of the stage ``name`` while the block runs."""


class Silent:
    """A listener that shows nothing."""

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...

    @contextmanager
    def working(self, name: str) -> Iterator[Progress]:
        del name
        yield no_progress
