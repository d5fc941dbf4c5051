"""The table of stage calls: a function named by words takes what its provenance takes."""

from __future__ import annotations

import importlib
import inspect

import pytest

from edge_inception.pipeline import stages

CALLS = {name: call for name, call in vars(stages).items() if isinstance(call, stages.StageCall)}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_the_function_takes_what_the_provenance_takes(call):
    """By type: the same inputs and options, then the file to write, and progress where it counts.

    mypy checks the calls against the provenance, and cannot see a function that words name.
    """
    module, _, name = call.function.partition(":")
    function = inspect.signature(getattr(importlib.import_module(f"edge_inception.{module}"), name))
    recorded = inspect.signature(call.provenance)
    wanted = [one.annotation for one in recorded.parameters.values()] + ["Path"]
    wanted += ["Progress"] if call.takes_progress else []
    assert [one.annotation for one in function.parameters.values()] == wanted
    assert function.return_annotation == call.makes.__name__
    assert ("progress" in function.parameters) == call.takes_progress


def test_every_stage_of_the_table_is_there():
    """Ten calls; import knows where weights lie, and a backend compiles: they have their own."""
    assert len(CALLS) == 10
