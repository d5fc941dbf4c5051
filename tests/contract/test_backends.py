"""What every engine backend promises, over the registry: a new file in engines/ is tested here."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from msgspec import structs

from edge_inception import artifact
from edge_inception.artifact import EngineFile, SimplifiedGraph
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import Availability, Backend, CompileOptions, SessionOptions
from edge_inception.errors import BackendMissing, EdgeInceptionError, InputError
from edge_inception.spec import ShapeProfile
from edge_inception.stage import plain

pytestmark = pytest.mark.cpu_isa

NAMES = backends.backend_names()
ONE = SessionOptions(threads=1)
# One step of the Gemm's int8 input (3/127) times the largest row sum of |weights| (under 12).
STEP = 12 * 3 / 127
LIBRARIES = ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx_bindings", "tensorrt_rtx")


@pytest.fixture(params=NAMES)
def backend(request) -> Backend:
    return backends.backend(request.param)


@pytest.fixture
def compiling(backend) -> Backend:
    """A backend that can compile on this machine."""
    found = backend.availability()
    if not found.can_compile:
        pytest.skip(f"{backend.name}: {found.why_not}")
    return backend


def compiled(backend, typed):
    return backend.compile(typed, CompileOptions(), typed.path.with_suffix(backend.suffix))


def test_the_four_backends_are_registered():
    """The registry finds the backends that the design names."""
    assert {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"} <= set(NAMES)


def test_record_is_complete(backend, request):
    """The record's name is its file's name, and suffix and distributions are usable."""
    assert backend.name == request.node.callspec.params["backend"]
    assert backend.suffix.startswith(".")
    assert backend.distributions


def test_availability_never_raises_and_names_the_remedy(backend, monkeypatch):
    """Without its library a backend can do nothing, says why, and names a command."""
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    found = backend.availability()
    assert isinstance(found, Availability)
    assert not found.can_compile
    assert not found.can_execute
    assert found.why_not
    assert "install" in found.remedy


def test_without_its_library_compile_and_ties_are_backend_missing(backend, tiny_typed, monkeypatch):
    """Asking for work without the library ends in exit code 4 with a hint, not in ImportError."""
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendMissing) as caught:
        compiled(backend, tiny_typed())
    assert caught.value.hint
    with pytest.raises(BackendMissing):
        backend.tied_to()


@pytest.mark.parametrize("typing", ["fp32", "strong"])
def test_compiled_engine_describes_itself(compiling, tiny_typed, typing):
    """The sidecar holds the graph's details, the backend, its ties and the batch."""
    typed = tiny_typed(typing)
    engine = artifact.load(EngineFile, compiled(compiling, typed).path)
    assert engine.path.stat().st_size > 0
    assert plain(engine.details).items() >= plain(typed.details).items()
    assert engine.details.backend == compiling.name
    assert engine.details.tied_to == dict(compiling.tied_to())
    assert engine.details.batch == ShapeProfile(min=1, opt=1, max=1)
    assert engine.provenance.stage == f"compile:{compiling.name}"
    assert engine.provenance.parents["typed graph"] == typed.sha256
    assert engine.provenance.parents.keys() == {"typed graph", "details of typed graph"}


@pytest.mark.parametrize("typing", ["fp32", "fp16", "strong", "strong_fp32", "weak"])
def test_session_computes_the_graph(compiling, tiny_typed, tiny_images, reference_logits, typing):
    """Any backend's logits are within one int8 step of what the ONNX operators mean."""
    if not compiling.availability().can_execute:
        pytest.skip(f"{compiling.name}: {compiling.availability().why_not}")
    typed, images = tiny_typed(typing), tiny_images(6)
    with compiling.open(compiled(compiling, typed), ONE) as session:
        logits = session.run(images)
        assert session.info["backend"] == compiling.name
    expected = np.concatenate([reference_logits(typed.path, image[None]) for image in images])
    assert np.ptp(expected, axis=0).max() > 4 * STEP
    np.testing.assert_allclose(logits, expected, atol=STEP, rtol=0)


def test_untyped_graph_is_refused(compiling, tiny_typed):
    """A simplified graph is no typed graph, even where no type checker looks."""
    typed = tiny_typed("fp32")
    fields = {f.name: getattr(typed, f.name) for f in dataclasses.fields(typed)}
    untyped = SimplifiedGraph(**fields)
    with pytest.raises(InputError, match="simplified graph, compile takes a typed graph"):
        compiled(compiling, untyped)
    assert not typed.path.with_suffix(compiling.suffix).exists()


def test_engine_tied_to_something_else_is_refused(compiling, tiny_typed):
    """An engine of another library version is refused before it is loaded, with a hint."""
    engine = compiled(compiling, tiny_typed())
    ties = {**engine.details.tied_to, compiling.name: "0.0.1"}
    other = dataclasses.replace(engine, details=structs.replace(engine.details, tied_to=ties))
    with pytest.raises(EdgeInceptionError) as caught:
        compiling.open(other, ONE)
    assert caught.value.hint
    if compiling.availability().can_execute:
        assert "0.0.1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_backend_gets_the_nearest_name():
    """A mistyped backend is an input error with a suggestion."""
    with pytest.raises(InputError) as caught:
        backends.backend("openvno")
    assert "did you mean 'openvino'" in caught.value.hint
