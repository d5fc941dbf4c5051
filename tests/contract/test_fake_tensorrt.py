"""The fake TensorRT is as narrow as the recorded release, so the tests that stand on it mean it."""

from __future__ import annotations

import fake_cuda
import fake_tensorrt
import fake_tensorrt_run
import numpy as np
import pytest


def open_release(release):
    return fake_tensorrt.tensorrt(release, fake_tensorrt_run.ACTS)


def ready_logger(trt):
    return type("Logger", (trt.ILogger,), {"log": lambda *_: None})()


def test_what_a_release_lacks_raises():
    """Reading, calling and setting a name of a later release fail, as in a pybind11 class."""
    old, _ = open_release("8.2")
    config = old.Builder(ready_logger(old)).create_builder_config()
    for read in (
        lambda: old.MemoryPoolType,
        lambda: old.BuilderFlag.VERSION_COMPATIBLE,
        lambda: config.set_memory_pool_limit(0, 1),
        lambda: setattr(config, "builder_optimization_level", 3),
        lambda: old.ICudaEngine.num_io_tensors,
    ):
        with pytest.raises(AttributeError):
            read()
    assert not hasattr(config, "hardware_compatibility_level")


def test_removed_names_raise_too():
    """TensorRT 11 has no calibrator and no FP16 flag, TensorRT 10 no bindings."""
    new, _ = open_release("11.0")
    for owner, name in (
        (new, "IInt8EntropyCalibrator2"),
        (new.BuilderFlag, "FP16"),
        (new.IBuilderConfig, "int8_calibrator"),
        (new.Builder, "platform_has_fast_int8"),
        (new.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"),
        (open_release("10.0")[0].ICudaEngine, "num_bindings"),
        (open_release("10.0")[0].ICudaEngine, "__len__"),
    ):
        assert not hasattr(owner, name), name


def test_wrong_parameters_raise():
    """Too few, too many and misspelled parameters are refused; the recorded names are taken."""
    trt, world = open_release("10.3")
    builder = trt.Builder(ready_logger(trt))
    for wrong in (
        lambda: builder.create_network(0, 1),
        lambda: builder.create_network(flag=0),
        lambda: builder.build_serialized_network(None),
        trt.Builder,
        trt.ICudaEngine,
    ):
        with pytest.raises(TypeError):
            wrong()
    builder.create_network(flags=2)
    assert world.values("Builder.create_network") == [(2,)]


def test_read_only_properties_stay_so():
    """A property that the bindings only read cannot be assigned to."""
    trt, _ = open_release("10.3")
    builder = trt.Builder(ready_logger(trt))
    with pytest.raises(AttributeError):
        builder.num_DLA_cores = 2


def test_base_class_must_be_initialised():
    """A logger that forgets the base's __init__ is a TypeError, as pybind11 makes it one."""
    trt, _ = open_release("10.3")
    forgetful = type("Logger", (trt.ILogger,), {"__init__": lambda _: None})()
    with pytest.raises(TypeError, match="must be called"):
        trt.Builder(forgetful)


def test_what_has_no_act_is_loud():
    """A recorded method that the fake does not act out fails by name; it never answers None."""
    trt, _ = open_release("10.3")
    config = trt.Builder(ready_logger(trt)).create_builder_config()
    with pytest.raises(NotImplementedError, match=r"IBuilderConfig\.get_tactic_sources"):
        config.get_tactic_sources()


def test_copies_happen_at_synchronize(monkeypatch):
    """Who reads a result before waiting for the stream reads stale memory, as on a GPU."""
    _, world = open_release("10.3")
    gpu = fake_cuda.install(monkeypatch, world)
    stream, memory, host = gpu.Stream(), gpu.mem_alloc(8), gpu.pagelocked_empty(2, np.float32)
    gpu.memcpy_htod_async(memory, np.array([1, 2], np.float32), stream)
    gpu.memcpy_dtoh_async(host, memory, stream)
    assert host.tolist() == [99, 99]
    stream.synchronize()
    assert host.tolist() == [1, 2]
