"""The committed checkpoint on real photos: every graph on the way answers as PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge_inception.baseline.pytorch import open_session
from edge_inception.data import images
from edge_inception.data.imageset import open_set
from edge_inception.export.export import ExportOptions, export
from edge_inception.graph.simplify import SimplifyOptions, simplify
from edge_inception.spec import Preprocess

CALIBRATION = Path(__file__).parents[2] / "calibration"
CHECKPOINT = CALIBRATION / "checkpoints" / "solar-inception_v4-w025.safetensors"
OPTIONS = {"width": 0.25}

# Independent implementations of a trained network differ by up to 1.5e-6 of the largest logit, by
# the order of their float32 sums (docs/models.md, "Rounding between implementations"); 4.6e-7 was
# measured here on 32 photos; a wrong border rule in one of the 14 average pools moves logits by
# 3e-3 on noise.
TOLERANCE = 1e-5


@pytest.mark.slow
def test_onnxruntime_equals_pytorch_on_photos(tmp_path):
    """Exported, then simplified: the same logits as PyTorch on 16 photos, and the same classes."""
    how = Preprocess(input_size=(299, 299))
    graph = export(
        CHECKPOINT,
        ExportOptions(model="inception_v4", model_options=OPTIONS),
        tmp_path / "model.onnx",
    )
    simplified = simplify(graph, SimplifyOptions(), tmp_path / "model.simplified.onnx")
    photos = open_set(CALIBRATION / "sets" / "solar.json", split="validation").subset(16)
    pixels = np.concatenate([b.images for b in images.batches(photos.items, how, 8)])
    with open_session(CHECKPOINT, "inception_v4", model_options=OPTIONS) as session:
        wanted = session.run(pixels)
    assert len(set(wanted.argmax(axis=1))) == 2, "photos of one class cannot tell graphs apart"
    for path in (graph.path, simplified.path):
        runtime = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        logits = np.concatenate([runtime.run(None, {"input": p[np.newaxis]})[0] for p in pixels])
        assert np.abs(logits - wanted).max() <= TOLERANCE * np.abs(wanted).max()
        assert np.array_equal(logits.argmax(axis=1), wanted.argmax(axis=1))
