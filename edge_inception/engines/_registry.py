"""Engine backends by name: each file of this folder without a leading underscore is a backend.

Listing the names imports no backend; ``backend`` imports the file of the backend it returns.
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
        InputError: There is no such backend.
    """
    if name not in backend_names():
        raise unknown("backend", name, backend_names())
    module = importlib.import_module(f"edge_inception.engines.{name}")
    record: Backend = module.BACKEND
    return record
