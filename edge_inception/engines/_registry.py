"""Engine backends by name: a file of this folder without a leading underscore is one.

Listing them imports nothing; a backend's own file is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from edge_inception.errors import unknown
from edge_inception.registry import plugin_files

if TYPE_CHECKING:
    from edge_inception.engines._backend import Backend


def backend_names() -> list[str]:
    """Names of all engine backends, sorted."""
    return plugin_files("engines")


def backend(name: str) -> Backend:
    """The backend record of ``engines/<name>.py``.

    Raises:
        InputError: No such backend.
    """
    if name not in backend_names():
        raise unknown("backend", name, backend_names())
    module = importlib.import_module(f"edge_inception.engines.{name}")
    record: Backend = module.BACKEND
    return record
