"""Promises of a plan: its header, whether it may load here, and how it runs."""

from __future__ import annotations

import ctypes
import hashlib
import struct
import types

import numpy as np
import pytest

from edge_inception.engines._plan import Header, PlanRunner, VendorError, read_header, refusal


def plan(*version, magic=b"ftrt", serialization=0):
    """A header laid out as trtexec reads it, and some bytes behind it."""
    return magic + struct.pack("<I", serialization) + bytes(16) + bytes(version) + bytes(8)


def sidecar(content, **changes):
    digest = hashlib.sha256(content).hexdigest()
    facts = {"sha256": digest, "tensorrt": "10.3.0.30", "sm": "8.7", "device": "Orin"}
    return {**facts, "precision": "int8", "dla_core": None, **changes}


ORIN = {"tensorrt": "10.3.0", "sm": "8.7", "device": "Orin", "num_dla_cores": 2}
PLAN = plan(10, 3, 0, 30)


def test_header_tells_kind_and_version():
    """Bytes 24 to 27 are major, minor, patch and build; unknown layouts have no version."""
    assert read_header(PLAN) == Header("tensorrt", "10.3.0.30")
    assert read_header(plan(magic=b"vtrt")) == Header("tensorrt_rtx", None)
    assert read_header(plan(10, 3, 0, 30, serialization=9)) == Header("tensorrt", None)
    assert read_header(b"ftrt") == Header("tensorrt", None)
    assert read_header(plan(10, 3, 0, 30, magic=b"ptrt")) == Header("tensorrt", None)
    assert read_header(b"\x7fELF") == Header("", None)
    assert read_header(b"") == Header("", None)


def test_a_plan_of_this_machine_may_load():
    """Equal facts, and facts that one side does not know, refuse nothing."""
    assert refusal(PLAN, sidecar(PLAN), ORIN) == ("", "")
    assert refusal(PLAN, {}, ORIN) == ("", "")
    assert refusal(PLAN, sidecar(PLAN), {}) == ("", "")


@pytest.mark.parametrize(
    ("facts", "here", "reason"),
    [
        ({"sha256": "0" * 64}, {}, "sidecar says 000000000000"),
        ({"tensorrt": "8.6.2"}, {}, "built by TensorRT 10.3.0.30, its sidecar says 8.6.2"),
        ({}, {"tensorrt": "10.13.3"}, "for TensorRT 10.3.0.30, here is 10.13.3"),
        ({}, {"sm": "7.2"}, "for SM 8.7, here is 7.2"),
        ({}, {"device": "Xavier"}, "for device Orin, here is Xavier"),
        ({}, {"precision": "fp16"}, "for precision int8, here is fp16"),
        ({"dla_core": 0}, {"dla_core": 1}, "for DLA core 0, here is 1"),
        ({"dla_core": 1}, {"num_dla_cores": 1}, "for DLA core 1, here is 1 DLA cores"),
        ({"tensorrt": None}, {"tensorrt": "8.6.2"}, "for TensorRT 10.3.0.30, here is 8.6.2"),
    ],
)
def test_mismatch_is_one_line_with_the_command(facts, here, reason):
    """Each fact that differs refuses the plan, says both values, and names the command."""
    text, remedy = refusal(PLAN, sidecar(PLAN, **facts), {**ORIN, **here})
    assert reason in text
    assert "\n" not in text
    assert "edge-inception compile" in remedy
    assert "device.py build" in remedy


@pytest.mark.parametrize(
    ("built", "here", "loads"),
    [
        ((8, 6, 2, 3), "10.3.0", True),
        ((10, 3, 0, 30), "11.1.0", True),
        ((10, 3, 0, 30), "10.13.3", True),
        ((10, 13, 3, 9), "10.3.0", False),
        ((8, 6, 2, 3), "11.1.0", False),
        ((11, 1, 0, 0), "10.16.2", False),
    ],
)
def test_version_compatible_plans(built, here, loads):
    """8 loads in 10 and 10 in 11, later releases of one major load earlier plans, nothing else."""
    content = plan(*built)
    version = ".".join(map(str, built))
    facts = sidecar(content, tensorrt=version, version_compatible=True)
    text, _ = refusal(content, facts, {**ORIN, "tensorrt": here})
    assert (text == "") is loads


def test_version_compatible_plan_needs_its_hash():
    """Such a plan executes code of its own: without a recorded hash it does not load."""
    facts = sidecar(PLAN, version_compatible=True, sha256=None)
    assert "executes code" in refusal(PLAN, facts, ORIN)[0]


@pytest.mark.parametrize(
    ("level", "here", "reason"),
    [
        ("ampere+", {"sm": "8.6", "device": "A2"}, ""),
        ("ampere+", {"sm": "12.0", "device": "RTX 5090"}, ""),
        ("ampere+", {"sm": "7.5", "device": "T4"}, "for SM 8.0 or later, here is 7.5"),
        ("sameComputeCapability", {"device": "Orin NX"}, ""),
        ("sameComputeCapability", {"sm": "8.6", "device": "A2"}, "for SM 8.7, here is 8.6"),
        ("", {"device": "Orin NX"}, "for device Orin, here is Orin NX"),
    ],
)
def test_hardware_compatible_plans(level, here, reason):
    """By its level a plan is held to its GPU, to its SM, or to Ampere and later."""
    text, _ = refusal(PLAN, sidecar(PLAN, hardware_compatible=level), {**ORIN, **here})
    assert text.endswith(reason)
    assert bool(text) is bool(reason)


class _Enum:
    def __init__(self, name):
        self.name = name


def at(address, count, kind):
    """``count`` elements at an address of what these tests call device memory."""
    size = count * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_byte * size).from_address(address), kind)


class _Context:
    """Adds up each image, so that a mixed-up buffer shows in the logits."""

    def __init__(self, kind, stub):
        self.kind, self.addresses, self.shape, self.calls = kind, {}, None, []
        self.capturing = stub and ctypes.c_int.in_dll(stub, "stub_capturing")

    def compute(self):
        batch = self.shape[0]
        images = at(self.addresses["input"], int(np.prod(self.shape)), self.kind)
        # The runner's first call after a change of shape finds memory that nobody wrote yet.
        with np.errstate(all="ignore"):
            sums = images.reshape(batch, -1).sum(axis=1)
        at(self.addresses["logits"], batch, np.float32)[:] = sums

    def enqueue(self, stream):
        assert stream
        self.calls.append("captured" if self.capturing and self.capturing.value else "executed")
        if self.calls[-1] == "executed":
            self.compute()
        return True


class NamedContext(_Context):
    """TensorRT 8.5 and later."""

    def set_input_shape(self, name, shape):
        assert name == "input"
        self.shape = shape if shape[0] <= 4 else None
        return self.shape is not None

    def get_tensor_shape(self, name):
        assert name == "logits"
        return (self.shape[0], 1)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream_handle):
        return self.enqueue(stream_handle)


class BindingContext(_Context):
    """TensorRT 8.4 and earlier: 0 is the output, 1 the input."""

    def set_binding_shape(self, index, shape):
        assert index == 1
        self.shape = shape if shape[0] <= 4 else None
        return self.shape is not None

    def get_binding_shape(self, index):
        assert index == 0
        return (self.shape[0], 1)

    def execute_async_v2(self, bindings, stream_handle):
        self.addresses = dict(zip(("logits", "input"), bindings, strict=True))
        return self.enqueue(stream_handle)


KINDS = {"float32": _Enum("FLOAT"), "uint8": _Enum("UINT8")}


def library(way, *, kind="float32", loads=True, stub=None, context=True):
    """An inference library whose only plan adds up pixels; the output comes before the input."""
    trt = types.ModuleType("tensorrt")
    trt.__version__ = "10.3.0"
    trt.ILogger = type("ILogger", (), {})
    trt.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
    names = ["logits", "input"]
    kinds = {"logits": KINDS["float32"], "input": KINDS[kind]}
    if way == "named":
        trt.context = NamedContext(kind, stub)
        engine = types.SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda name: "in" if name == "input" else "out",
            get_tensor_dtype=kinds.__getitem__,
        )
    else:
        trt.context = BindingContext(kind, stub)
        engine = types.SimpleNamespace(
            num_bindings=2,
            get_binding_name=names.__getitem__,
            binding_is_input=lambda index: index == 1,
            get_binding_dtype=lambda index: kinds[names[index]],
        )
    engine.create_execution_context = lambda: trt.context if context else None
    trt.runtimes = []

    def runtime(logger):
        if not loads:
            logger.log(_Enum("ERROR"), "expecting compute 9.0 got compute 8.9, please rebuild.")
        made = types.SimpleNamespace(deserialize_cuda_engine=lambda _: engine if loads else None)
        trt.runtimes.append(made)
        return made

    trt.Runtime = runtime
    return trt


def images(count):
    return np.arange(count * 12, dtype=np.float32).reshape(count, 3, 2, 2)


def expected(batch):
    return batch.sum(axis=(1, 2, 3))[:, None]


@pytest.mark.parametrize("way", ["named", "bindings"])
def test_runner_moves_images_and_logits(stub, way):
    """Each batch meets its own logits, also after a change of batch, in its own array; the work of
    a shape is executed once, captured once, and then launched."""
    trt = library(way, stub=stub)
    launch = ctypes.CFUNCTYPE(None)(trt.context.compute)
    ctypes.c_void_p.in_dll(stub, "stub_on_launch").value = ctypes.cast(
        launch, ctypes.c_void_p
    ).value
    runner = PlanRunner(trt, b"plan")
    batch = images(3)
    first = runner.run(batch[:1])["logits"]
    both = runner.run(batch[1:])["logits"]
    again = runner.run(batch[1:] * 2)["logits"]
    assert runner.uses_graph
    assert runner.gpu_ms == 1.5
    runner.close()
    np.testing.assert_array_equal(first, expected(batch[:1]))
    np.testing.assert_array_equal(both, expected(batch[1:]))
    np.testing.assert_array_equal(again, 2 * both)
    assert trt.context.calls == ["executed", "captured"] * 2
    assert ctypes.c_int.in_dll(stub, "stub_launches").value == 3
    assert ctypes.c_int.in_dll(stub, "stub_alive").value == 0


@pytest.mark.parametrize("way", ["named", "bindings"])
def test_runner_without_a_graph(pycuda, way):
    """Where no driver captures, the work is enqueued call by call, and the runner says why."""
    trt = library(way)
    runner = PlanRunner(trt, b"plan")
    np.testing.assert_array_equal(runner.run(images(2))["logits"], expected(images(2)))
    assert not runner.uses_graph
    assert "no CUDA driver" in runner.why_no_graph
    runner.close()
    assert pycuda.depth == 0


def test_plan_of_a_dla_core(pycuda):
    """The core is set before the plan is deserialized, and no graph is captured."""
    trt = library("named")
    runner = PlanRunner(trt, b"plan", dla_core=1)
    assert trt.runtimes[0].DLA_core == 1
    runner.run(images(1))
    assert trt.context.calls == ["executed"]
    runner.close()
    assert pycuda.depth == 0


def test_runner_takes_pixels(pycuda):
    """The element type comes from the engine, and one byte a pixel travels."""
    runner = PlanRunner(library("named", kind="uint8"), b"plan")
    assert runner.input_element == "uint8"
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert runner.run(pixels)["logits"].tolist() == [[66.0]]
    with pytest.raises(VendorError, match="takes uint8, got float32"):
        runner.run(images(1))
    runner.close()
    assert pycuda.depth == 0


@pytest.mark.parametrize("way", ["named", "bindings"])
def test_shape_outside_the_profile_is_refused(pycuda, way):
    """A batch that the plan does not take is an error before anything is copied."""
    runner = PlanRunner(library(way), b"plan")
    with pytest.raises(VendorError, match=r"does not take input shape \[5, 3, 2, 2\]"):
        runner.run(images(5))
    runner.close()
    assert pycuda.depth == 0


def test_plan_of_another_gpu_is_explained(pycuda):
    """deserialize_cuda_engine returns None and says why in the log alone: that is the error."""
    with pytest.raises(VendorError, match=r"expecting compute 9\.0 got compute 8\.9"):
        PlanRunner(library("named", loads=False), b"plan")
    assert pycuda.depth == 0


def test_missing_context_is_an_error(pycuda):
    """An execution context that the library cannot make, as without memory, is no None later."""
    with pytest.raises(VendorError, match="no reason"):
        PlanRunner(library("named", context=False), b"plan")
    assert pycuda.depth == 0


def test_trusted_plan_needs_the_switch(pycuda):
    """Host code is allowed only where asked, and only by a library that has the switch."""
    with pytest.raises(VendorError, match=r"need TensorRT 8\.6 or later"):
        PlanRunner(library("named"), b"plan", is_trusted=True)
    assert pycuda.depth == 0
