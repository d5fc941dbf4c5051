"""The public names, pinned."""

from __future__ import annotations

import inspect

import edge_inception


def test_public_names():
    """The package exports exactly these."""
    assert set(edge_inception.__all__) == {
        "__version__",
        "build",
        "classify",
        "load_recipe",
        "open_engine",
    }


def test_signatures():
    """Callers rely on these parameters."""
    wanted = {
        "build": ["recipe", "force", "keep_failed"],
        "classify": ["engine", "images", "top"],
        "load_recipe": ["path", "overrides"],
        "open_engine": ["path", "threads", "cuda_graph"],
    }
    for name, parameters in wanted.items():
        found = inspect.signature(getattr(edge_inception, name)).parameters
        assert list(found) == parameters, name
