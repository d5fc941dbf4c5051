"""Every release of TensorRT: plans by named tensors and by bindings, on the names it offers."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest
from tensorrt_releases import (
    RELEASES,
    STRONG,
    WEAK,
    Settings,
    assert_order,
    each,
    open_release,
    typing_of,
)

from edge_inception.engines import _nvinfer

IMAGES = np.arange(2 * 48, dtype=np.float32).reshape(2, 3, 4, 4)


def open_runner(release, monkeypatch, **facts):
    """A runner, the world and the GPU, with the calls of the build and of opening forgotten."""
    trt, world = open_release(release, **facts)
    gpu = fake_cuda.install(monkeypatch, world)
    built = _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    runner = _nvinfer.PlanRunner(trt, built.plan, wants_graph=False)
    world.calls.clear()
    return runner, world, gpu


def expected(images):
    """Closed form of the fake network: output j is j + 1 times the sum of an image."""
    return np.outer(images.reshape(len(images), -1).sum(axis=1), np.arange(1, 6))


@each(RELEASES[1:])
def test_run_by_names(release, monkeypatch):
    """Shape, then addresses, then work in one stream, then waiting for it; the GPU is left."""
    runner, world, gpu = open_runner(release, monkeypatch)
    np.testing.assert_array_equal(runner.run(IMAGES)["logits"], expected(IMAGES))
    assert_order(
        world,
        "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address",
        "cuda.upload",
        "IExecutionContext.execute_async_v3",
        "cuda.download",
        "cuda.synchronize",
    )
    assert world.names()[-1] == "cuda.synchronize"
    runner.close()
    assert gpu.depth == 0


def test_run_by_bindings(monkeypatch):
    """TensorRT 8.4 and earlier: the shape by number, addresses in the order of the bindings."""
    runner, world, gpu = open_runner("8.2", monkeypatch)
    np.testing.assert_array_equal(runner.run(IMAGES)["logits"], expected(IMAGES))
    assert world.values("IExecutionContext.set_binding_shape") == [(1, IMAGES.shape)]
    assert_order(
        world,
        "IExecutionContext.set_binding_shape",
        "cuda.upload",
        "IExecutionContext.execute_async_v2",
        "cuda.download",
        "cuda.synchronize",
    )
    runner.close()
    assert gpu.depth == 0


@each(RELEASES)
def test_run_on_a_dla_core(release, monkeypatch):
    """The core is chosen before the plan is loaded, and its work is enqueued, not captured."""
    trt, world = open_release(release, shape=(2, 3, 4, 4), num_dla_cores=2)
    fake_cuda.install(monkeypatch, world)
    asked = Settings(
        min_batch=2,
        max_batch=2,
        typing="weak" if release in WEAK else "strong",
        precision="fp16",
        dla_core=1,
    )
    built = _nvinfer.build(trt, "model.onnx", asked)
    world.calls.clear()
    runner = _nvinfer.PlanRunner(trt, built.plan, dla_core=1)
    np.testing.assert_array_equal(runner.run(IMAGES)["logits"], expected(IMAGES))
    assert_order(world, "Runtime.DLA_core=", "Runtime.deserialize_cuda_engine")
    assert world.values("Runtime.DLA_core=") == [(1,)]
    assert "DLA" in runner.why_no_graph
    runner.close()


@each(STRONG[:5])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_weak_plans_of_tensorrt_10_run(release, precision, monkeypatch):
    """Releases that build both ways run the weak plan as they run the strong one."""
    trt, world = open_release(release)
    fake_cuda.install(monkeypatch, world)
    built = _nvinfer.build(trt, "model.onnx", Settings(typing="weak", precision=precision))
    runner = _nvinfer.PlanRunner(trt, built.plan, wants_graph=False)
    np.testing.assert_array_equal(runner.run(IMAGES)["logits"], expected(IMAGES))
    runner.close()


@each(RELEASES)
def test_plan_that_carries_code(release, monkeypatch):
    """A version-compatible plan loads only for who trusts it, with the switch set before."""
    trt, world = open_release(release)
    fake_cuda.install(monkeypatch, world)
    settings = Settings(typing=typing_of(release))
    if release in RELEASES[:2]:  # engine_host_code_allowed came with 8.6
        built = _nvinfer.build(trt, "model.onnx", settings)
        with pytest.raises(_nvinfer.VendorError, match=r"need TensorRT 8\.6"):
            _nvinfer.PlanRunner(trt, built.plan, is_trusted=True)
        return
    built = _nvinfer.build(trt, "model.onnx", settings._replace(version_compatible=True))
    with pytest.raises(_nvinfer.VendorError, match="not allowed"):
        _nvinfer.PlanRunner(trt, built.plan)
    world.calls.clear()
    runner = _nvinfer.PlanRunner(trt, built.plan, is_trusted=True, wants_graph=False)
    assert_order(world, "Runtime.engine_host_code_allowed=", "Runtime.deserialize_cuda_engine")
    np.testing.assert_array_equal(runner.run(IMAGES)["logits"], expected(IMAGES))
    runner.close()


@each(RELEASES)
def test_every_batch_has_its_own_answers(release, monkeypatch):
    """Buffers are kept for one shape and made anew for another; answers are not overwritten."""
    runner, world, _ = open_runner(release, monkeypatch)
    first = runner.run(IMAGES[:1])["logits"]
    both = runner.run(IMAGES)["logits"]
    again = runner.run(2 * IMAGES)["logits"]
    np.testing.assert_array_equal(first, expected(IMAGES[:1]))
    np.testing.assert_array_equal(both, expected(IMAGES))
    np.testing.assert_array_equal(again, 2 * both)
    assert sum("_shape" in name and "set" in name for name in world.names()) == 2


@each(RELEASES)
def test_shape_outside_of_the_profile(release, monkeypatch):
    """A batch that the plan was not built for is an error with the library's reason."""
    runner, world, _ = open_runner(release, monkeypatch)
    with pytest.raises(_nvinfer.VendorError, match="outside of the profile"):
        runner.run(np.zeros((5, 3, 4, 4), np.float32))
    assert not any("execute" in name for name in world.names())


@each(RELEASES)
def test_failed_execution(release, monkeypatch):
    """False from the library is an error with its reason, never stale numbers."""
    runner, world, _ = open_runner(release, monkeypatch)
    world.executes = False
    with pytest.raises(_nvinfer.VendorError, match="illegal memory access"):
        runner.run(IMAGES)


@each(RELEASES)
def test_runtime_that_cannot_start(release, monkeypatch):
    """A driver that the library cannot use is an error with the reason, and the GPU is left."""
    trt, world = open_release(release)
    built = _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    world.starts, gpu = False, fake_cuda.install(monkeypatch, world)
    with pytest.raises(_nvinfer.VendorError, match=r"cannot start: CUDA .* error: 35"):
        _nvinfer.PlanRunner(trt, built.plan)
    assert gpu.depth == 0


@each(RELEASES)
def test_plan_of_another_gpu(release, monkeypatch):
    """None from the runtime is an error with the reason from the log, and the GPU is left."""
    refusal = "The engine plan file is generated on an incompatible device, expecting compute 9.0"
    trt, world = open_release(release)
    built = _nvinfer.build(trt, "model.onnx", Settings(typing=typing_of(release)))
    world.refusal, gpu = refusal, fake_cuda.install(monkeypatch, world)
    with pytest.raises(_nvinfer.VendorError, match=r"expecting compute 9\.0"):
        _nvinfer.PlanRunner(trt, built.plan)
    assert gpu.depth == 0


@each(RELEASES)
def test_plan_of_another_release(release, monkeypatch):
    """A plan is not run by the neighbouring release, and the reason names both."""
    other = RELEASES[RELEASES.index(release) - 1]
    trt, world = open_release(release)
    theirs = _nvinfer.build(open_release(other)[0], "m.onnx", Settings(typing=typing_of(other)))
    fake_cuda.install(monkeypatch, world)
    with pytest.raises(_nvinfer.VendorError, match=f"{trt.__version__} got {other}"):
        _nvinfer.PlanRunner(trt, theirs.plan)
