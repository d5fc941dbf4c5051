"""The TensorRT backend from typed graph to session, on recorded releases; no GPU is involved."""

from __future__ import annotations

import dataclasses
import shlex
import sys

import fake_cuda
import fake_tensorrt
import fake_tensorrt_run
import numpy as np
import pytest
import sidecars
from msgspec import structs
from tensorrt_releases import STRONG, assert_order

from edge_inception import artifact
from edge_inception.artifact import CalibrationCache, EngineFile
from edge_inception.engines import _cuda, _nvinfer, _plan_session
from edge_inception.engines._backend import CompileOptions, SessionOptions
from edge_inception.engines.tensorrt import BACKEND
from edge_inception.errors import CompileFailed, InputError
from edge_inception.spec import ShapeProfile

PROFILE = ShapeProfile(min=1, opt=2, max=4)
IMAGES = np.arange(7 * 48, dtype=np.float32).reshape(7, 3, 4, 4)


class Device:
    """A Jetson Orin with one release of TensorRT, and what is known of it without the library."""

    def __init__(self, monkeypatch, tmp_path, tiny_typed):
        self._patch, self._typed = monkeypatch, tiny_typed
        self.path = tmp_path / "model.engine"
        self.move()

    def move(self, *, name="Orin", sm="8.7"):
        for fact, value in (("gpu_name", name), ("compute_capability", sm)):
            self._patch.setattr(_cuda, fact, lambda value=value: value)
        self._patch.setattr(_cuda, "driver_version", lambda: 12060)

    def install(self, release, **facts):
        trt, self.world = fake_tensorrt.tensorrt(release, fake_tensorrt_run.ACTS, **facts)
        fake_cuda.install(self._patch, self.world)
        self._patch.setitem(sys.modules, "tensorrt", trt)
        self.say(trt.__version__)

    def say(self, version):
        """Let the packaging tell ``version``."""
        self._patch.setattr(_plan_session, "_installed_version", lambda _spec: version)

    def typed(self, typing):
        """``weak_fp32`` is the float32 graph for releases without strong typing."""
        typed = self._typed("fp32" if typing == "weak_fp32" else typing, batch=None)
        spelling = "weak" if typing == "weak_fp32" else typed.details.typing
        details = structs.replace(
            typed.details, input_shape=("batch", 3, 4, 4), num_classes=5, typing=spelling
        )
        return dataclasses.replace(typed, details=details)

    def compile(self, typing, **choices):
        options = CompileOptions(profile=PROFILE, **choices)
        return BACKEND.compile(self.typed(typing), options, self.path)


@pytest.fixture
def device(monkeypatch, tmp_path, tiny_typed):
    return Device(monkeypatch, tmp_path, tiny_typed)


def opened(engine):
    return BACKEND.open(engine, SessionOptions())


@pytest.mark.parametrize("release", ["8.2", "8.5", "10.3", "11.4"])
def test_compiled_engine_runs(device, release):
    """Any number of images goes through an engine of at most four, and each has its answers."""
    device.install(release)
    device.compile("fp16" if int(release.split(".")[0]) >= 10 else "weak_fp32")
    engine = artifact.load(EngineFile, device.path)
    assert engine.details.tied_to["sm"] == "8.7"
    assert engine.details.layers_from == "inspector"
    with opened(engine) as session:
        logits = session.run(IMAGES)
        assert session.info["cuda_graph"] is False
        assert session.info["gpu"] == "Orin"
        assert session.gpu_ms >= 0
    np.testing.assert_array_equal(logits[:, 0], IMAGES.reshape(7, -1).sum(axis=1))


@pytest.mark.parametrize(
    ("release", "typing", "flags"),
    [
        ("8.2", "weak_fp32", "--workspace=64 --buildOnly"),
        ("8.6", "weak_fp32", "--memPoolSize=workspace:64 --skipInference"),
        ("10.3", "fp16", "--memPoolSize=workspace:64 --stronglyTyped --skipInference"),
        ("11.4", "fp16", "--memPoolSize=workspace:64 --skipInference"),
    ],
)
def test_equivalent_command_is_that_of_the_release(device, release, typing, flags):
    """The sidecar holds the trtexec line of the TensorRT that compiled the engine."""
    device.install(release)
    words = shlex.split(device.compile(typing, workspace_mib=64).details.equivalent_command)
    assert words[0] == "trtexec"
    assert "--optShapes=input:2x3x4x4" in words
    assert words[-len(flags.split()) :] == flags.split()


def test_int8_that_became_float_is_refused(device):
    """The library's own layer list shows a float convolution: an int8 engine is not published."""
    device.install("10.3")
    with pytest.raises(CompileFailed, match="computes no convolution of it in int8"):
        device.compile("strong")
    assert not device.path.exists()


def test_what_the_release_lacks_is_a_compile_error(device):
    """An option of a later TensorRT names the release that has it."""
    device.install("8.5")
    with pytest.raises(CompileFailed, match=r"VERSION_COMPATIBLE; TensorRT 8\.6 and later"):
        device.compile("weak_fp32", version_compatible=True)


def test_missing_cache_file_is_an_input_error(device, tmp_path):
    """A calibration cache that is not there is named."""
    device.install("8.5")
    typed = device.typed("weak")
    implicit = dataclasses.replace(typed, details=structs.replace(typed.details, typing="implicit"))
    options = CompileOptions(profile=PROFILE, calibration_cache=tmp_path / "no.cache")
    with pytest.raises(InputError, match=r"no\.cache"):
        BACKEND.compile(implicit, options, device.path)


def test_a_graph_for_cpus_is_refused(device):
    """Before TensorRT parses it: it has uint8 activations, and the hint names what it takes."""
    device.install("10.3")
    typed = device.typed("strong")
    for_cpu = dataclasses.replace(typed, details=structs.replace(typed.details, typing="cpu"))
    with pytest.raises(InputError, match="zero points, which TensorRT does not take") as caught:
        BACKEND.compile(for_cpu, CompileOptions(profile=PROFILE), device.path)
    assert "--typing strong" in caught.value.hint


def test_cache_that_is_not_the_graphs_is_refused(device, tmp_path):
    """A cache that the graph does not read, none where it reads one, and another graph's."""
    device.install("8.5")
    cache = tmp_path / "some.cache"
    cache.write_bytes(b"TRT-8502-EntropyCalibration2\n")
    with pytest.raises(InputError, match=r"does not read .*some\.cache"):
        device.compile("weak_fp32", calibration_cache=cache)
    typed = device.typed("weak")
    implicit = dataclasses.replace(typed, details=structs.replace(typed.details, typing="implicit"))
    with pytest.raises(InputError, match="and none was given"):
        BACKEND.compile(implicit, CompileOptions(profile=PROFILE), device.path)
    parents = {"typed graph": "f" * 64}
    origin = structs.replace(typed.provenance, parents=parents)
    unread = sidecars.of(CalibrationCache)
    artifact.publish(CalibrationCache, cache, cache.read_bytes(), provenance=origin, details=unread)
    options = CompileOptions(profile=PROFILE, calibration_cache=cache)
    with pytest.raises(InputError, match="belongs to typed graph ffffffffffff, not to"):
        BACKEND.compile(implicit, options, device.path)
    assert device.world.names() == []


def test_fallback_needs_a_core(device):
    """GPU fallback without a DLA core would do nothing, so it is refused."""
    device.install("8.5")
    with pytest.raises(InputError, match="none is asked for"):
        device.compile("weak_fp32", allow_gpu_fallback=True)


@pytest.mark.parametrize(
    ("moved", "version", "reason"),
    [
        ({}, "10.7.0", r"compiled for TensorRT 10\.3\.0[\d.]*, here is 10\.7\.0"),
        ({"sm": "7.2"}, "10.3.0", r"SM 8\.7, here is 7\.2"),
        ({"name": "Xavier"}, "10.3.0", "device Orin, here is Xavier"),
    ],
)
def test_pre_flight_needs_no_library(device, monkeypatch, moved, version, reason):
    """A plan of another TensorRT or GPU is refused with the command, the library unimported."""
    device.install("10.3")
    engine = device.compile("fp16")
    device.move(**moved)
    device.say(version)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError, match=reason) as caught:
        opened(engine)
    assert "edge-inception compile" in caught.value.hint


def test_library_that_is_known_by_import_alone(device):
    """Where no packaging tells the version, the imported library does, before the plan is read."""
    device.install("10.3")
    engine = device.compile("fp16")
    device.install("10.7")
    device.say(None)
    with pytest.raises(InputError, match=r"compiled for tensorrt 10\.3.*here is 10\.7"):
        opened(engine)
    assert "Runtime.deserialize_cuda_engine" not in device.world.names()


def test_version_compatible_engine_crosses_releases(device):
    """A version-compatible plan of 8.6 runs in 10.3, with its code allowed; a changed one does not
    load at all, since it executes code."""
    device.install("8.6")
    engine = device.compile("weak_fp32", version_compatible=True)
    device.install("10.3")
    with opened(engine) as session:
        assert session.run(IMAGES).shape == (7, 5)
    assert device.world.values("Runtime.engine_host_code_allowed=") == [(True,)]
    device.install("10.3")
    device.path.write_bytes(device.path.read_bytes() + b" ")
    with pytest.raises(InputError, match="its sidecar says"):
        opened(engine)
    assert device.world.names() == []


def test_version_compatible_engine_of_a_later_release(device):
    """A plan of 10.7 does not load in 10.3, also where only the imported library knows."""
    device.install("10.7")
    engine = device.compile("fp16", version_compatible=True)
    device.install("10.3")
    device.say(None)
    with pytest.raises(InputError, match=r"for TensorRT 10\.7.*here is 10\.3"):
        opened(engine)


def test_compute_capabilities_need_a_library_that_has_them():
    """TensorRT 10.3 compiles for the GPU it runs on; asking it for another is refused."""
    trt, world = fake_tensorrt.tensorrt("10.3", fake_tensorrt_run.ACTS)
    asked = _nvinfer.BuildSettings(1, 1, 1, compute_capabilities=("8.9",))
    with pytest.raises(_nvinfer.VendorError, match=r"no compute capability 8\.9; known: none"):
        _nvinfer.build(trt, "model.onnx", asked)
    assert "Builder.build_serialized_network" not in world.names()


@pytest.mark.parametrize("release", STRONG)
def test_engine_without_weights_gets_them_from_its_graph(device, release):
    """A stripped plan is refitted from the typed graph beside it before anything runs."""
    device.install(release)
    engine = device.compile("fp16", strip_weights=True)
    device.install(release)
    with opened(engine) as session:
        logits = session.run(IMAGES)
    np.testing.assert_array_equal(logits[:, 0], IMAGES.reshape(7, -1).sum(axis=1))
    ((graph,),) = device.world.values("OnnxParserRefitter.refit_from_file")
    assert graph == str(device.typed("fp16").path)
    assert_order(
        device.world, "Runtime.deserialize_cuda_engine", "OnnxParserRefitter.refit_from_file",
        "Refitter.refit_cuda_engine", "ICudaEngine.create_execution_context",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"parses": False}, r"node 3 '/a/Conv' \(Conv\): Assertion failed"),
        ({"executes": False}, r"missing weights: conv\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_told(device, facts, reason):
    """What the library says of weights that it cannot put back is the error."""
    device.install("10.3")
    engine = device.compile("fp16", strip_weights=True)
    device.install("10.3", **facts)
    with pytest.raises(InputError, match=reason):
        opened(engine)
    assert "ICudaEngine.create_execution_context" not in device.world.names()


def test_engine_without_weights_and_graph_is_refused(device):
    """Without the graph, or with another one in its place, a stripped plan does not open."""
    device.install("10.3")
    engine = device.compile("fp16", strip_weights=True)
    graph = device.typed("fp16").path
    content = graph.read_bytes()
    for change in (lambda: graph.write_bytes(content + b" "), graph.unlink):
        change()
        with pytest.raises(InputError, match="without its weights") as caught:
            opened(engine)
        assert "copy the typed graph" in caught.value.hint
