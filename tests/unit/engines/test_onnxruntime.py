"""Promises of the onnxruntime backend, the numeric reference."""

from __future__ import annotations

import numpy as np
import pytest

from edge_inception.engines import onnxruntime as backend
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.errors import CompileFailed, InputError
from edge_inception.spec import ShapeProfile

BACKEND = backend.BACKEND
ONE = SessionOptions(threads=1)


def compiled(typed, options=None):
    path = typed.path.with_name(typed.path.stem + BACKEND.suffix)
    return BACKEND.compile(typed, options or CompileOptions(), path)


def evaluate(model_path, images):
    """Logits by ONNX's own reference implementation, in pure numpy."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(model_path)).run(None, {"input": images})[0]


# One step of the Gemm's int8 input (3/127) times the largest row sum of |weights| (under 12).
STEP = 12 * 3 / 127


@pytest.mark.parametrize(
    ("spelling", "tolerance"),
    [("fp32", 1e-5), ("fp16", 4 * 3 * 2**-10), ("strong_fp32", STEP)],
)
def test_logits_equal_the_onnx_reference(tiny_typed, tiny_images, spelling, tolerance):
    """The session gives the logits of ONNX's evaluator (it has no Q/DQ of opset 13)."""
    typed, images = tiny_typed(spelling), tiny_images(3)
    with BACKEND.open(compiled(typed), ONE) as session:
        logits = session.run(images)
    expected = np.concatenate([evaluate(typed.path, image[None]) for image in images])
    assert np.ptp(expected) > 10 * tolerance
    np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0)


def test_engine_is_the_typed_graph(tiny_typed):
    """The engine file is a byte-for-byte copy: the graph that ships is the one that is judged."""
    typed = tiny_typed()
    assert compiled(typed).path.read_bytes() == typed.path.read_bytes()


def test_threads_are_read_back(tiny_typed):
    """The session reports the threads it was given."""
    with BACKEND.open(compiled(tiny_typed()), SessionOptions(threads=1)) as session:
        assert session.info["threads"] == 1


def test_dynamic_batch(tiny_typed, tiny_images):
    """A dynamic graph takes batches up to the profile's maximum, and more by splitting."""
    typed, images = tiny_typed("fp32", batch=None), tiny_images(5)
    engine = compiled(typed, CompileOptions(profile=ShapeProfile(min=1, opt=1, max=2)))
    with BACKEND.open(engine, ONE) as session:
        logits = session.run(images)
    np.testing.assert_allclose(logits, evaluate(typed.path, images), atol=1e-5, rtol=0)


def test_unknown_operator_is_named(tiny_typed, typed_from_model):
    """An operator that onnxruntime lacks is a compile error that names it, on one line."""
    import onnx

    model = onnx.load(str(tiny_typed("fp32").path))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Frobnicate"
    with pytest.raises(CompileFailed, match="Frobnicate") as caught:
        compiled(typed_from_model(model))
    assert "\n" not in str(caught.value)


def test_damaged_engine_is_refused(tiny_typed):
    """A truncated file is an input error, not a crash."""
    engine = compiled(tiny_typed())
    engine.path.write_bytes(engine.path.read_bytes()[:100])
    with pytest.raises(InputError, match="refused"):
        BACKEND.open(engine, ONE)


def test_bf16_is_refused(tiny_typed):
    """The reference computes what the graph says; a float precision option has no meaning here."""
    with pytest.raises(InputError, match="no option float precision"):
        compiled(tiny_typed(), CompileOptions(float_precision="bf16"))
