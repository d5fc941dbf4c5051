"""Promises of building with NVIDIA's libraries, by their recorded interface."""

from __future__ import annotations

import re
import types

import pytest

from edge_inception.engines import _nvinfer

SETTINGS = _nvinfer.BuildSettings(min_batch=1, opt_batch=2, max_batch=4, workspace_mib=64)


class _Enum:
    """Members as pybind11 enums show them: ``int()`` and ``name``."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def __int__(self):
        return self.value


class _Error:
    """A parser error of TensorRT 8 and 9: it knows the node's index and not its name."""

    def desc(self):
        return "Assertion failed:\n  something"

    def node(self):
        return 3


def fake_trt(  # noqa: C901 -- small methods of three fake classes
    *, plan=b"ftrt-plan", parses=True, has_strong_typing=True
):
    """The part of TensorRT's recorded API that a build touches; ``calls`` keeps what was set."""
    trt = types.ModuleType("tensorrt")
    calls = {}
    severity = _Enum("ERROR", 1)

    class Logger:
        pass

    class Builder:
        def __init__(self, logger):
            self.logger = logger

        def create_network(self, flags):
            calls["flags"] = flags
            tensor = types.SimpleNamespace(name="input", shape=(-1, 3, 8, 8))
            return types.SimpleNamespace(get_input=lambda _: tensor)

        def create_builder_config(self):
            def limit(pool, size):
                calls["workspace"] = (pool, size)

            return types.SimpleNamespace(
                set_memory_pool_limit=limit,
                add_optimization_profile=lambda p: calls.update(profile=p.shapes),
            )

        def create_optimization_profile(self):
            profile = types.SimpleNamespace(shapes=None)
            profile.set_shape = lambda *shapes: setattr(profile, "shapes", shapes)
            return profile

        def build_serialized_network(self, _network, _config):
            if plan is None:
                self.logger.log(severity, "Could not find any implementation for node /a/Conv.")
            return plan

    class Parser:
        num_errors = 1

        def __init__(self, network, logger):
            pass

        def parse_from_file(self, _path):
            return parses

        def get_error(self, _index):
            return _Error()

    trt.__version__ = "10.3.0"
    no_gpu = types.SimpleNamespace(deserialize_cuda_engine=lambda _: None)
    trt.Runtime = lambda _logger: no_gpu
    trt.ILogger, trt.Builder, trt.OnnxParser = Logger, Builder, Parser
    trt.ProfilingVerbosity = types.SimpleNamespace(DETAILED="detailed")
    trt.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
    flags = {"STRONGLY_TYPED": 1} if has_strong_typing else {"EXPLICIT_BATCH": 0}
    trt.NetworkDefinitionCreationFlag = types.SimpleNamespace(**flags)
    trt.calls = calls
    return trt


def test_strong_typing_workspace_and_profile_reach_the_builder():
    """TensorRT 10 needs the flag; workspace is in bytes; the profile has three whole shapes."""
    trt = fake_trt()
    built = _nvinfer.build(trt, "model.onnx", SETTINGS)
    assert built.plan == b"ftrt-plan"
    assert trt.calls["flags"] == 0b10
    assert trt.calls["workspace"] == ("workspace", 64 * 2**20)
    assert trt.calls["profile"] == ("input", (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))


def test_library_without_strong_typing_is_refused():
    """TensorRT 8 cannot build strongly typed networks; nothing is built weakly in silence."""
    with pytest.raises(_nvinfer.VendorError, match=r"has no STRONGLY_TYPED; TensorRT 9\.0"):
        _nvinfer.build(fake_trt(has_strong_typing=False), "model.onnx", SETTINGS)


def test_builder_failure_carries_the_log():
    """A None plan is explained by what the library logged."""
    with pytest.raises(_nvinfer.VendorError, match="implementation for node /a/Conv"):
        _nvinfer.build(fake_trt(plan=None), "model.onnx", SETTINGS)


def test_parser_error_without_names_has_the_index():
    """Where the library knows no node name, the node's index stands for it, on one line."""
    with pytest.raises(_nvinfer.VendorError, match=re.escape("node 3")) as caught:
        _nvinfer.build(fake_trt(parses=False), "model.onnx", SETTINGS)
    assert "\n" not in str(caught.value)


def test_compute_capabilities_need_a_library_that_has_them():
    """TensorRT compiles for the GPU it runs on; asking it for another is refused."""
    asked = SETTINGS._replace(compute_capabilities=("8.9",))
    with pytest.raises(_nvinfer.VendorError, match=r"no compute capability 8\.9; known: none"):
        _nvinfer.build(fake_trt(), "model.onnx", asked)
