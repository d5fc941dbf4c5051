"""Every release of TensorRT, each way to build, on exactly the names it offers.

The module under the code is as wide as the recorded surface of one release (fake_tensorrt.py), so a
name that the release lacks fails here as it would there, and the order of calls can be read.
"""

from __future__ import annotations

import weakref

import fake_tensorrt_build
import pytest
from tensorrt_releases import (
    BUILD,
    RELEASES,
    STRONG,
    WEAK,
    Settings,
    assert_order,
    each,
    open_release,
    typing_of,
)

from edge_inception.engines import _nvinfer, _plan


def flags(world):
    return [given[0].name for given in world.values("IBuilderConfig.set_flag")]


@each(STRONG)
def test_strong_build(release):
    """The graph alone decides: a flag at creation, no precision flag, all set before the build."""
    trt, world = open_release(release)
    settings = Settings(workspace_mib=64, precision="int8", float_rest="fp16")
    built = _nvinfer.build(trt, "model.onnx", settings)
    (bits,) = world.values("Builder.create_network")[0]
    assert bits >> trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1
    assert flags(world) == []
    assert built.plan[:4] == b"ftrt"
    assert world.values("IBuilderConfig.set_memory_pool_limit") == [
        (trt.MemoryPoolType.WORKSPACE, 64 << 20)
    ]
    assert world.values("IOptimizationProfile.set_shape") == [
        ("input", (1, 3, 4, 4), (2, 3, 4, 4), (4, 3, 4, 4))
    ]
    assert_order(
        world,
        "OnnxParser.parse_from_file",
        "Builder.create_builder_config",
        "IBuilderConfig.set_memory_pool_limit",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.add_optimization_profile",
        BUILD,
        "Runtime.deserialize_cuda_engine",
    )


@each(WEAK)
@pytest.mark.parametrize(
    ("precision", "rest", "wanted"),
    [
        ("fp32", "fp32", []),
        ("fp16", "fp32", ["FP16"]),
        ("int8", "fp32", ["INT8"]),
        ("int8", "fp16", ["INT8", "FP16"]),
    ],
)
def test_weak_build(release, precision, rest, wanted):
    """Precisions are allowed before the build, scales come from the graph: no calibrator."""
    trt, world = open_release(release)
    settings = Settings(typing="weak", precision=precision, float_rest=rest, workspace_mib=64)
    assert _nvinfer.build(trt, "model.onnx", settings).source == "inspector"
    assert flags(world) == wanted
    limit = ("IBuilderConfig.max_workspace_size=", "IBuilderConfig.set_memory_pool_limit")
    assert_order(world, limit[release != "8.2"], "IBuilderConfig.add_optimization_profile", BUILD)
    for name in ["IBuilderConfig.set_flag"] * bool(wanted):
        assert_order(world, name, BUILD)
    assert "IBuilderConfig.int8_calibrator=" not in world.names()


@each(WEAK)
def test_implicit_build(release, tmp_path):
    """Scales come from our cache through a calibrator that is set before the build.

    They are unchanged; only the first line, of another version, becomes that of this one, without
    which the builder would calibrate anew.
    """
    trt, world = open_release(release)
    cache = tmp_path / "calibration.cache"
    cache.write_bytes(b"TRT-8400-EntropyCalibration2\ninput: 3c010a14\na: b: 3f800000\n")
    settings = Settings(typing="implicit", precision="int8", calibration_cache=str(cache))
    _nvinfer.build(trt, "model.onnx", settings)
    ((read,),) = world.values("the builder reads the cache")
    own = fake_tensorrt_build.CACHE_HEADERS[release].encode()
    assert read == own + b"-EntropyCalibration2\ninput: 3c010a14\na: b: 3f800000\n"
    (calibrator,) = world.values("IBuilderConfig.int8_calibrator=")[0]
    assert isinstance(calibrator, trt.IInt8EntropyCalibrator2)
    assert flags(world) == ["INT8"]
    assert_order(world, "IBuilderConfig.int8_calibrator=", BUILD)


@each(WEAK)
def test_dla_build(release, tmp_path):
    """One batch, the core, fallback only where asked, and the same core to load the plan."""
    trt, world = open_release(release, shape=(4, 3, 4, 4), num_dla_cores=2)
    cache = tmp_path / "calibration.cache"
    cache.write_bytes(b"TRT-8201-EntropyCalibration2\n")
    settings = Settings(
        min_batch=4, opt_batch=4, typing="implicit", precision="int8", float_rest="fp16",
        calibration_cache=str(cache), dla_core=1, allow_gpu_fallback=True,
    )  # fmt: skip
    _nvinfer.build(trt, "model.onnx", settings)
    assert sorted(flags(world)) == ["FP16", "GPU_FALLBACK", "INT8"]
    assert world.values("IBuilderConfig.default_device_type=") == [(trt.DeviceType.DLA,)]
    assert world.values("IBuilderConfig.DLA_core=") == [(1,)]
    assert world.values("Runtime.DLA_core=") == [(1,)]
    for name in ("default_device_type=", "DLA_core="):
        assert_order(world, f"IBuilderConfig.{name}", BUILD)
    assert_order(world, BUILD, "Runtime.DLA_core=", "Runtime.deserialize_cuda_engine")


def test_dla_of_strongly_typed_releases():
    """TensorRT 11.4.1 builds for DLA from types in the graph: the core, and no precision flag."""
    trt, world = open_release("11.4", shape=(1, 3, 4, 4), num_dla_cores=2)
    _nvinfer.build(trt, "model.onnx", Settings(max_batch=1, opt_batch=1, dla_core=0))
    assert world.values("IBuilderConfig.DLA_core=") == [(0,)]
    assert flags(world) == []


@each(RELEASES)
def test_dla_core_that_is_not_there(release):
    """Asking for a core beyond those the library sees is refused before anything is built."""
    trt, world = open_release(release, shape=(1, 3, 4, 4), num_dla_cores=1)
    asked = Settings(max_batch=1, opt_batch=1, typing=typing_of(release), dla_core=1)
    with pytest.raises(_nvinfer.VendorError, match="sees 1 DLA cores"):
        _nvinfer.build(trt, "model.onnx", asked)
    assert BUILD not in world.names()


@each(RELEASES)
def test_failed_build(release):
    """None from the builder is an error with the reason from the log."""
    trt, _ = open_release(release, problem="Could not find any implementation for node /a/Conv.")
    with pytest.raises(_nvinfer.VendorError, match="implementation for node /a/Conv"):
        _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))


@each(RELEASES)
def test_library_that_cannot_start(release):
    """A driver that the library cannot use is an error with the reason from the log."""
    trt, world = open_release(release, starts=False)
    with pytest.raises(_nvinfer.VendorError, match=r"cannot start: CUDA .* error: 35"):
        _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    assert "Builder.create_network" not in world.names()


@each(RELEASES)
def test_failed_parsing(release):
    """The node is named by what the release knows of it: its index, or its name and operator."""
    trt, world = open_release(release, parses=False)
    has_names = release not in {"8.2", "8.5", "8.6"}
    node = r"node 3 '/a/Conv' \(Conv\)" if has_names else r"node 3 '' \(unknown operator\)"
    with pytest.raises(_nvinfer.VendorError, match=node + ": Assertion failed: something$"):
        _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    assert BUILD not in world.names()


@each(RELEASES[2:])
def test_header_tells_the_release(release):
    """Since 8.6 a plan tells its release, and the pre-flight reads it."""
    trt, _ = open_release(release)
    built = _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    header = _plan.read_header(built.plan)
    assert header.kind == "tensorrt"
    assert header.version is not None
    assert header.version.startswith(trt.__version__)


@each(RELEASES)
def test_layers_are_read_in_the_schema_of_the_release(release):
    """Up to 10 and from 11 on, the inspector's JSON becomes the same records."""
    trt, _ = open_release(release)
    built = _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    (layer,) = built.layers
    assert (layer.kind, layer.inputs) == ("CaskConvolution", [("input", (1, 3, 4, 4), "Float")])


@each(RELEASES)
def test_timing_cache(release, tmp_path):
    """Timings are set before the build and written after it; those of another GPU are refused."""
    path = tmp_path / "timing.cache"
    path.write_bytes(b"old")
    trt, world = open_release(release)
    settings = Settings(typing=typing_of(release), timing_cache=str(path))
    _nvinfer.build(trt, "model.onnx", settings)
    assert_order(
        world, "IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache", BUILD,
        "ITimingCache.serialize",
    )  # fmt: skip
    assert path.read_bytes().startswith(b"old")
    assert path.read_bytes().endswith(b"+timings")


@each(RELEASES)
@pytest.mark.parametrize("content", [b"foreign", b"damaged"])
def test_timing_cache_of_another_gpu(release, content, tmp_path):
    """Timings of another GPU, and what are no timings, are refused by file and left as they are."""
    path = tmp_path / "timing.cache"
    path.write_bytes(content)
    trt, world = open_release(release)
    settings = Settings(typing=typing_of(release), timing_cache=str(path))
    with pytest.raises(_nvinfer.VendorError, match=r"timing\.cache.*delete it"):
        _nvinfer.build(trt, "model.onnx", settings)
    assert BUILD not in world.names()
    assert path.read_bytes() == content


@each(RELEASES)
@pytest.mark.parametrize("content", [b"foreign", b"damaged"])
def test_timing_cache_that_another_build_replaced(release, content, monkeypatch, tmp_path):
    """What another build wrote in the meantime is not overwritten; the plan is kept."""
    path = tmp_path / "timing.cache"
    trt, world = open_release(release)
    build = trt.Builder.build_serialized_network

    def meanwhile(*given):
        path.write_bytes(content)
        return build(*given)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", meanwhile)
    settings = Settings(typing=typing_of(release), timing_cache=str(path))
    built = _nvinfer.build(trt, "model.onnx", settings)
    assert built.plan
    assert path.read_bytes() == content
    assert any("timing.cache" in warning for warning in built.warnings)
    assert "ITimingCache.serialize" not in world.names()


@each(RELEASES)
def test_progress(release):
    """Releases with a monitor report every step; an interrupt stops the build and is raised."""
    trt, world = open_release(release)
    told = []
    settings = Settings(typing=typing_of(release), progress=lambda done, of: told.append(done / of))
    _nvinfer.build(trt, "model.onnx", settings)
    if release not in STRONG:  # IProgressMonitor came with 10.0
        assert told == []
        return
    assert told == [0.5, 1.0]
    assert_order(world, "IBuilderConfig.progress_monitor=", BUILD)

    def interrupt(*_counts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _nvinfer.build(trt, "model.onnx", settings._replace(progress=interrupt))


# Setting, releases that have it, and what reaches the library there.
OPTIONS = (
    ({"version_compatible": True}, RELEASES[2:], ("set_flag", "VERSION_COMPATIBLE")),
    ({"strip_weights": True}, RELEASES[3:], ("set_flag", "STRIP_PLAN")),
    ({"refit": True}, RELEASES, ("set_flag", "REFIT")),
    ({"sparsity": True}, RELEASES, ("set_flag", "SPARSE_WEIGHTS")),
    ({"builder_optimization_level": 4}, RELEASES[2:], ("builder_optimization_level=", 4)),
    (
        {"hardware_compatible": "ampere+"},
        RELEASES[2:],
        ("hardware_compatibility_level=", "AMPERE_PLUS"),
    ),
    (
        {"hardware_compatible": "sameComputeCapability"},
        RELEASES[6:],
        ("hardware_compatibility_level=", "SAME_COMPUTE_CAPABILITY"),
    ),
)


@each(RELEASES)
@pytest.mark.parametrize(("asked", "having", "reached"), OPTIONS, ids=[str(o[0]) for o in OPTIONS])
def test_options(release, asked, having, reached):
    """An option reaches the library before the build; a release without it is told so."""
    trt, world = open_release(release)
    settings = Settings(typing=typing_of(release), **asked)
    if release not in having:
        with pytest.raises(_nvinfer.VendorError, match=f"{trt.__version__} has no .*TensorRT"):
            _nvinfer.build(trt, "model.onnx", settings)
        assert BUILD not in world.names()
        return
    _nvinfer.build(trt, "model.onnx", settings)
    call, value = reached
    (given,) = world.values(f"IBuilderConfig.{call}")[0]
    assert value in {given, getattr(given, "name", None)}
    assert_order(world, f"IBuilderConfig.{call}", BUILD)


@pytest.mark.parametrize(
    ("release", "asked", "lacks"),
    [
        *[(release, {"typing": "strong"}, "STRONGLY_TYPED") for release in RELEASES[:3]],
        *[
            (release, {"typing": "weak", "precision": precision}, precision.upper())
            for release in RELEASES[8:]
            for precision in ("fp16", "int8")
        ],
        ("8.2", {"typing": "weak", "memory_pools": (("dlaSRAM", 1),)}, "MemoryPoolType"),
    ],
)
def test_way_to_build_that_a_release_lacks(release, asked, lacks):
    """A graph's typing that the release cannot build is refused with where it can be."""
    trt, world = open_release(release)
    with pytest.raises(_nvinfer.VendorError, match=f"{trt.__version__} has no {lacks}; TensorRT"):
        _nvinfer.build(trt, "model.onnx", Settings(**asked))
    assert BUILD not in world.names()


@each(WEAK)
def test_gpu_without_fast_precision(release):
    """Where the GPU has no fast FP16 or INT8 the build is refused; float32 would not be seen."""
    trt, world = open_release(release, has_fast=False)
    with pytest.raises(_nvinfer.VendorError, match="no fast INT8"):
        _nvinfer.build(trt, "model.onnx", Settings(typing="weak", precision="int8"))
    assert BUILD not in world.names()


@each(RELEASES)
def test_warnings_are_kept(release):
    """What the builder warns of is returned, once and on one line."""
    trt, _ = open_release(release, warning="Some tactics\n  do not have enough memory")
    built = _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    assert built.warnings == ["Some tactics do not have enough memory"]


@each(RELEASES)
def test_plan_that_does_not_load_is_told(release):
    """A plan that the library builds and cannot load says why its layers are not known."""
    trt, _ = open_release(release, refusal="Error Code 4: Internal Error (no memory)")
    built = _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    assert (built.layers, built.source) == ([], "")
    reason = "the plan's layers cannot be listed: Error Code 4: Internal Error (no memory)"
    assert built.warnings == [reason]


def test_layers_that_are_no_json_lose_no_plan(monkeypatch):
    """Text of the inspector that cannot be read is told; the plan took minutes and is kept."""
    trt, _ = open_release("8.2")
    monkeypatch.setattr(trt.EngineInspector, "get_engine_information", lambda *_: '{"Layers": [,]}')
    built = _nvinfer.build(trt, "model.onnx", Settings(typing="weak"))
    assert built.plan
    assert built.layers == []
    assert "the plan's layers cannot be listed" in built.warnings[0]


@each(RELEASES)
def test_builder_is_freed_before_the_plan_is_loaded(release, monkeypatch):
    """The network holds all weights, and a small Jetson has no memory for them twice."""
    trt, world = open_release(release)
    alive = []
    create, load = trt.Builder.create_network, trt.Runtime.deserialize_cuda_engine

    def created(*given):
        network = create(*given)
        alive.append(weakref.ref(network))
        return network

    def loaded(*given):
        world.calls.clear()  # which keep their arguments
        assert [reference() for reference in alive] == [None]
        return load(*given)

    monkeypatch.setattr(trt.Builder, "create_network", created)
    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", loaded)
    assert _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release))).layers
