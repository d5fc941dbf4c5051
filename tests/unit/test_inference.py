"""Classifying files: softmax by its definition, classes by logit index, what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_inception
from edge_inception import artifact, inference
from edge_inception.artifact import EngineFile
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.errors import InputError
from edge_inception.spec import Preprocess

SIDE = 8
MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.125)


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    rng = np.random.default_rng(5)
    paths = [tmp_path / f"photo {index}.png" for index in range(3)]
    for path in paths:
        noise = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
    return paths


@pytest.fixture
def engine(tiny_typed, tmp_path) -> Path:
    """The FP32 graph as an onnxruntime engine whose sidecar has a mean and a deviation."""
    path = tmp_path / "tiny.ort.onnx"
    backends.backend("onnxruntime").compile(tiny_typed("fp32"), CompileOptions(), path)
    _change_sidecar(path, preprocess={"input_size": [SIDE, SIDE], "mean": MEAN, "std": STD})
    return path


def _change_sidecar(engine: Path, **details) -> None:
    sidecar = Path(f"{engine}.json")
    record = json.loads(sidecar.read_text(encoding="utf-8"))
    record["details"].update(details)
    sidecar.write_text(json.dumps(record), encoding="utf-8")


def _expected(typed, photo: Path, reference_logits) -> list[float]:
    """Softmax in Python's own floats, of onnxruntime's logits, of pixels normalised by hand."""
    pixels = np.asarray(Image.open(photo)).astype(np.float64) / 255
    normal = ((pixels - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    logits = reference_logits(typed.path, normal[np.newaxis].astype(np.float32))[0].tolist()
    total = math.fsum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def test_scores_are_the_softmax_of_the_logits(engine, tiny_typed, photos, reference_logits):
    """For each file, in order: every class by name, its softmax, most likely first, sum 1."""
    typed = tiny_typed("fp32")
    predictions = list(inference.classify(engine, photos, top=99, threads=1))
    assert [prediction.path for prediction in predictions] == photos
    for prediction in predictions:
        scores = _expected(typed, prediction.path, reference_logits)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        assert [name for name, _ in prediction.top] == [f"class {index}" for index in order]
        got = [score for _, score in prediction.top]
        assert got == pytest.approx([scores[index] for index in order], abs=1e-6)
        assert sum(got) == pytest.approx(1.0, abs=1e-6)


def test_top_keeps_the_most_likely(engine, photos):
    """top=2 is the beginning of the full list."""
    (full,) = inference.classify(engine, photos[:1], top=5, threads=1)
    (short,) = inference.classify(engine, photos[:1], top=2, threads=1)
    assert short.top == full.top[:2]


def test_without_names_classes_are_indices(engine, photos):
    """A sidecar without class names gives the logit index as text."""
    (named,) = inference.classify(engine, photos[:1], threads=1)
    _change_sidecar(engine, classes=[])
    (plain,) = inference.classify(engine, photos[:1], threads=1)
    assert [f"class {name}" for name, _ in plain.top] == [name for name, _ in named.top]


@pytest.fixture
def top_of(engine, photos, monkeypatch):
    """``top_of(logits, classes)``: what is said of an image to which the engine answers so."""

    def classify(logits, classes):
        _change_sidecar(engine, classes=classes)
        session = types.SimpleNamespace(run=lambda _: np.array([logits], np.float32))
        backend = types.SimpleNamespace(open=lambda *_: contextlib.nullcontext(session))
        monkeypatch.setattr(backends, "backend", lambda _: backend)
        (prediction,) = inference.classify(engine, photos[:1], top=3)
        return prediction.top

    return classify


def test_large_logits_do_not_overflow(top_of):
    """Softmax of logits near 1000 and far apart is finite; equal logits keep their order."""
    top = top_of([1000.0, 1001.0, -1000.0], ["a", "b", "c"])
    assert [name for name, _ in top] == ["b", "a", "c"]
    wanted = 1 / (1 + math.exp(-1))
    assert [score for _, score in top] == pytest.approx([wanted, 1 - wanted, 0.0], abs=1e-6)
    assert [name for name, _ in top_of([0.0, 0.0, 0.0], [])] == ["0", "1", "2"]


def test_preprocess_of_a_sidecar(engine):
    """All fields are read back, lists as tuples; a sidecar without them is refused."""
    how = Preprocess(input_size=(3, 4), crop_fraction=0.5, mean=(0.1, 0.2, 0.3))
    record = {"input_size": [3, 4], "crop_fraction": 0.5, "mean": [0.1, 0.2, 0.3]}
    _change_sidecar(engine, preprocess=record)
    assert artifact.load(EngineFile, engine).details.preprocess == how
    _change_sidecar(engine, preprocess=None)
    with pytest.raises(InputError, match="at preprocess: got null, wanted object"):
        artifact.load(EngineFile, engine)


def test_changed_engine_is_refused(engine, photos):
    """An engine that is not what its sidecar says is not run."""
    engine.write_bytes(engine.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"tiny\.ort\.onnx"):
        list(inference.classify(engine, photos))
    with pytest.raises(InputError, match=r"tiny\.ort\.onnx"):
        inference.open_engine(engine)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_session_options_reach_the_backend(engine, monkeypatch, cuda_graph):
    """Threads and the choice of CUDA graphs are those of the call, from the public door inwards."""
    seen = []
    opened = types.SimpleNamespace(open=lambda _engine, options: seen.append(options))
    monkeypatch.setattr(backends, "backend", lambda _name: opened)
    edge_inception.open_engine(engine, threads=3, cuda_graph=cuda_graph)
    assert seen == [SessionOptions(threads=3, cuda_graph=cuda_graph)]


def test_bad_image_is_named(engine, photos, tmp_path):
    """Good images before a bad one are answered, then the bad one is named."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    answers = inference.classify(engine, [photos[0], bad], threads=1)
    assert next(answers).path == photos[0]
    with pytest.raises(InputError, match=r"bad\.png"):
        next(answers)
