"""What a validation hands to the workers that time its engines."""

from __future__ import annotations

import contextlib
import types
from collections import defaultdict

import pytest

from edge_inception.spec import Gates, Preprocess
from edge_inception.validate import run
from edge_inception.validate.options import EngineEntry, ValidateOptions


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_cuda_graphs_are_timed_as_asked(monkeypatch, tmp_path, cuda_graph):
    """Both rows of a GPU, with and without a captured graph, can be had of one engine."""
    timed = []
    monkeypatch.setattr(run.latency, "measure", lambda all_, *_, **__: timed.extend(all_) or {})
    monkeypatch.setattr(
        run, "_pixels", lambda *_: contextlib.nullcontext(defaultdict(lambda: tmp_path / "x.npy"))
    )
    details = {"preprocess": {"input_size": [8, 8]}}
    engine = types.SimpleNamespace(path=tmp_path / "a.engine", details=details)
    entry = EngineEntry(
        engine=engine, target="rtx", precision="fp16", float_precision="f32", is_subject=True
    )
    how = Preprocess(input_size=(8, 8))
    options = ValidateOptions(model="tiny", preprocess=how, gates=Gates(), cuda_graph=cuda_graph)
    run._times([entry], None, options, None)
    assert [one.arguments for one in timed[1:]] == [
        {"path": str(engine.path), "cuda_graph": cuda_graph}
    ]
