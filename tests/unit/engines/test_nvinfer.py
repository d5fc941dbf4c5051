"""Promises of the shared TensorRT code that travels to devices."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from edge_inception.engines import _nvinfer

SOURCE = Path(_nvinfer.__file__)
SETTINGS = _nvinfer.BuildSettings(
    min_batch=1, opt_batch=2, max_batch=4, workspace_mib=64, compute_capabilities=()
)


def python36():
    """A Python 3.6 interpreter of this machine, if it has one."""
    installed = sorted(Path.home().glob(".pyenv/versions/3.6.*/bin/python"))
    return str(installed[-1]) if installed else shutil.which("python3.6")


def test_file_is_python_36():
    """The grammar of Python 3.6 accepts the file, and it imports nothing that 3.6 lacks."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else _names(node))
    }
    assert imported <= {"ctypes", "functools", "operator", "re", "collections", "typing", "pycuda"}
    annotations = [n for n in ast.walk(tree) if isinstance(n, ast.Subscript)]
    builtin = {"list", "dict", "tuple", "set", "type"}
    assert not [n for n in annotations if isinstance(n.value, ast.Name) and n.value.id in builtin]


def _names(node):
    return [alias.name for alias in node.names]


@pytest.mark.skipif(python36() is None, reason="no Python 3.6 interpreter here")
def test_file_runs_on_python_36():
    """Python 3.6 itself imports the file and reads a layer dump with it."""
    program = (
        "import _nvinfer; dump = _nvinfer.layer_dump(['Layers:\\n' + __import__('sys').argv[1]]);"
        "print(_nvinfer.describe_layers(dump)['weight_bytes'])"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python36(), "-c", program, CONV],
        cwd=SOURCE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(done.stdout) == {"Int8": 8 * 4 * 9, "Float": 4 * 8}


def tensor(name, dims, kind):
    return (
        f"{{ Name: {name}, Dimensions: [{dims}], Strides: [1], StrideOrder: [0], "
        f"Datatype: {kind}, Format: (Linear) Row major linear format }}"
    )


def line(kind, inputs, constants):
    return (
        f"Name: some/layer_0, LayerType: {kind}, Inputs: [ {', '.join(inputs)}], "
        f"Constants: [ {', '.join(constants)}], Outputs: [ {tensor('out', '1,8', 'Float')}], "
        "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: /a/Conv]"
    )


KERNEL, SCALE = tensor("w", "8,4,3,3", "Int8"), tensor("s", "1,8,1,1", "Float")
CONV = line("correlation", [tensor("x", "1,4,9,9", "Int8")], [KERNEL, SCALE])


def test_weight_bytes_by_hand():
    """Bytes are elements times element size, by type, and int8 convolutions are counted."""
    found = _nvinfer.describe_layers(_nvinfer.layer_dump(["noise", "Layers:\n" + CONV]))
    assert found["weight_bytes"] == {"Int8": 8 * 4 * 9, "Float": 8 * 4}
    assert found["total_weight_bytes"] == 8 * 4 * 9 + 8 * 4
    assert found["layers"] == {"correlation": {"Int8": 1}}
    assert found["int8_layers"] == 1


def test_shared_constant_counts_once():
    """Two layers that read one constant hold one copy of its bytes."""
    found = _nvinfer.describe_layers(_nvinfer.layer_dump([f"Layers:\n{CONV}\n{CONV}"]))
    assert found["weight_bytes"]["Int8"] == 8 * 4 * 9
    assert found["int8_layers"] == 2


def test_input_padding_is_no_weight():
    """A plane as large as the image it is joined to is padding; a kernel of that size is not."""
    plane = tensor("p", "1,1,9,9", "Int8")
    pad = line("kgen", [tensor("x", "1,3,9,9", "Float")], [plane])
    wide = line("correlation", [tensor("y", "1,4,3,3", "Int8")], [KERNEL])
    found = _nvinfer.describe_layers(_nvinfer.layer_dump([f"Layers:\n{pad}\n{wide}"]))
    assert found["padding_bytes"] == 81
    assert found["weight_bytes"] == {"Int8": 8 * 4 * 9}


def test_generated_code_multiplies_no_matrix():
    """Code that moves int8 data next to an int8 constant is no int8 layer; a gemm is one."""
    data, table = tensor("x", "1,6", "Int8"), tensor("p", "1,2", "Int8")
    both = f"Layers:\n{line('kgen', [data], [table])}\n{line('gemm', [data], [table])}"
    assert _nvinfer.describe_layers(_nvinfer.layer_dump([both]))["int8_layers"] == 1


def test_synchronisation_is_no_layer():
    """Signals and waits between streams are not counted as layers."""
    wait = (
        "Name: w, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , EventId: 1"
    )
    assert _nvinfer.describe_layers(_nvinfer.layer_dump([f"Layers:\n{wait}"]))["layers"] == {}


def test_older_spelling_of_types_is_read():
    """TensorRT 10 writes Format/Datatype where RTX writes Datatype."""
    old = CONV.replace(", Datatype:", ", Format/Datatype:")
    found = _nvinfer.describe_layers(_nvinfer.layer_dump(["Layers:\n" + old]))
    assert found["weight_bytes"] == {"Int8": 8 * 4 * 9, "Float": 8 * 4}


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
    with pytest.raises(_nvinfer.VendorError, match=r"tensorrt 10\.3\.0 cannot build a strongly"):
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


def test_plan_magic():
    """The first four bytes tell RTX plans from TensorRT plans; an empty file is neither."""
    assert _nvinfer.plan_magic(b"vtrt\0\0") == "vtrt"
    assert _nvinfer.plan_magic(b"") == ""


class _FakeGpu(types.ModuleType):
    """pycuda.driver, with host arrays for device memory; an address is an index into ``memory``."""

    def __init__(self):
        super().__init__("pycuda.driver")
        self.memory, self.depth = [], 0

    def init(self):
        pass

    def Device(self, _index):  # noqa: N802 -- pycuda's name
        return types.SimpleNamespace(retain_primary_context=lambda: self)

    def push(self):
        self.depth += 1

    def pop(self):
        self.depth -= 1

    def Stream(self):  # noqa: N802 -- pycuda's name
        return types.SimpleNamespace(handle=0, synchronize=lambda: None)

    def mem_alloc(self, size):
        self.memory.append(np.zeros(size, np.uint8))
        return len(self.memory) - 1

    def pagelocked_empty(self, shape, dtype):
        return np.empty(shape, dtype)

    def memcpy_htod_async(self, address, array, _stream):
        self.memory[address][:] = array.ravel().view(np.uint8)

    def memcpy_dtoh_async(self, array, address, _stream):
        array[...] = self.memory[address].view(array.dtype).reshape(array.shape)


class _FakeContext:
    """Computes the sum of each image, so that a mixed-up buffer shows in the logits."""

    def __init__(self, gpu, kind):
        self.gpu, self.addresses, self.batch, self.kind = gpu, {}, 0, kind

    def set_input_shape(self, name, shape):
        assert name == "input"
        self.batch = shape[0]

    def get_tensor_shape(self, name):
        assert name == "logits"
        return (self.batch, 1)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, _handle):
        images = self.gpu.memory[self.addresses["input"]].view(self.kind).reshape(self.batch, -1)
        logits = self.gpu.memory[self.addresses["logits"]].view(np.float32)
        logits[:] = images.sum(axis=1)
        return True


@pytest.fixture
def gpu(monkeypatch):
    fake = _FakeGpu()
    package = types.ModuleType("pycuda")
    package.driver = fake
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    return fake


def running_trt(gpu, *, loads=True, kind="float32"):
    """The recorded named-tensor API, output listed before input."""
    trt = fake_trt()
    trt.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
    names = ["logits", "input"]
    engine = types.SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=names.__getitem__,
        get_tensor_mode=lambda name: "out" if name == "logits" else "in",
        get_tensor_dtype=lambda name: _Enum(
            {"float32": "FLOAT", "uint8": "UINT8"}[kind if name == "input" else "float32"], 0
        ),
        create_execution_context=lambda: _FakeContext(gpu, kind),
    )

    def runtime(logger):
        if not loads:
            logger.log(_Enum("ERROR", 1), "expecting compute 9.0 got compute 8.9, please rebuild.")
        return types.SimpleNamespace(deserialize_cuda_engine=lambda _: engine if loads else None)

    trt.Runtime = runtime
    return trt


def test_runner_moves_images_and_logits(gpu):
    """Each batch meets its own logits, also after a change of batch, in its own array."""
    runner = _nvinfer.PlanRunner(running_trt(gpu), b"plan")
    images = np.arange(3 * 12, dtype=np.float32).reshape(3, 3, 2, 2)
    first = runner.run(images[:1])["logits"]
    both = runner.run(images[1:])["logits"]
    again = runner.run(images[1:] * 2)["logits"]
    runner.close()
    np.testing.assert_array_equal(first, images[:1].sum(axis=(1, 2, 3))[:, None])
    np.testing.assert_array_equal(both, images[1:].sum(axis=(1, 2, 3))[:, None])
    np.testing.assert_array_equal(again, 2 * both)
    assert gpu.depth == 0


def test_runner_takes_pixels(gpu):
    """The element type comes from the engine, and one byte a pixel travels."""
    runner = _nvinfer.PlanRunner(running_trt(gpu, kind="uint8"), b"plan")
    assert runner.input_element == "uint8"
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert runner.run(images)["logits"].tolist() == [[66.0]]
    assert [len(part) for part in gpu.memory] == [12, 4]
    runner.close()


def test_plan_of_another_gpu_is_explained(gpu):
    """deserialize_cuda_engine returns None and says why in the log alone: that is the error."""
    with pytest.raises(_nvinfer.VendorError, match=r"expecting compute 9\.0 got compute 8\.9"):
        _nvinfer.PlanRunner(running_trt(gpu, loads=False), b"plan")
    assert gpu.depth == 0
