"""How the fake TensorRT loads a plan, tells its layers and runs, as NVIDIA documents it.

The network is one layer: output j is j + 1 times the sum of an image. A foreign plan is None, with
the reason in the log alone; shapes outside of the profile are refused; execution needs a shape, an
address for every tensor and a live stream, and has results once the stream was waited for.

Sources, docs.nvidia.com/deeplearning/tensorrt: Python API reference (Runtime, ICudaEngine,
IExecutionContext, EngineInspector), "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x";
the texts of refusals are those in docs/tensorrt.md, "Plans".
"""

from __future__ import annotations

import json
import operator
from typing import Any

import numpy as np
from fake_tensorrt import make
from fake_tensorrt_build import ACTS as BUILD_ACTS
from fake_tensorrt_build import HEADER_BYTES, check_ready, say, start

CLASSES = 5
_NAMES = ["logits", "input"]  # an output before the input: order is no promise
_ELEMENTS = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


class Runtime:
    _say = say
    __init__ = start

    def _read_num_DLA_cores(self) -> int:  # noqa: N802 -- the library's name
        return self._world.num_dla_cores

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        reason, here = self._world.refusal, self._trt.__version__
        try:
            facts = json.loads(bytes(memoryview(serialized_engine))[HEADER_BYTES:])
        except ValueError:
            self._say("ERROR", "Error Code 4: Internal Error (Engine deserialization failed.)")
            return None
        is_portable = "VERSION_COMPATIBLE" in facts["flags"]
        if is_portable and not getattr(self, "_set_engine_host_code_allowed", False):
            reason = "engine host code is not allowed"
        elif facts["version"] != here and not is_portable:
            reason = (
                "6: The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {here} got {facts['version']}, please rebuild."
            )
        if reason:
            self._say("ERROR", reason)
            return None
        return make(self._trt, "ICudaEngine", facts=facts, logger=self._logger)


class ICudaEngine:
    def _read_num_io_tensors(self) -> int:
        return len(_NAMES)

    _read_num_bindings = __len__ = _read_num_io_tensors

    def get_tensor_name(self, index: int) -> str:
        return _NAMES[index]

    get_binding_name = get_tensor_name

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._trt.TensorIOMode
        return mode.INPUT if _NAMES.index(name) else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType[self._facts["element"] if _NAMES.index(name) else "FLOAT"]

    def get_tensor_shape(self, name: str) -> Any:
        batch, *rest = self._facts["shape"]
        return make(self._trt, "Dims", sizes=(batch, *(rest if _NAMES.index(name) else [CLASSES])))

    def binding_is_input(self, which: int | str) -> bool:
        return bool(_index(which))

    def get_binding_dtype(self, which: int | str) -> Any:
        return self._trt.DataType[self._facts["element"] if _index(which) else "FLOAT"]

    def get_binding_index(self, name: str) -> int:
        return _NAMES.index(name) if name in _NAMES else -1

    def create_execution_context(self) -> Any:
        return make(
            self._trt, "IExecutionContext", facts=self._facts, logger=self._logger,
            addresses={}, batch=None if self._facts["batches"] else self._facts["shape"][0],
        )  # fmt: skip

    def create_engine_inspector(self) -> Any:
        return make(self._trt, "EngineInspector", facts=self._facts)


def _index(which: int | str) -> int:
    return _NAMES.index(which) if isinstance(which, str) else operator.index(which)


class EngineInspector:
    def get_engine_information(self, kind: Any) -> str:
        """JSON with the keys of the release: 11.0 renamed and split some of them."""
        assert kind == self._trt.LayerInformationFormat.JSON
        is_new = int(self._trt.__version__.split(".")[0]) >= 11
        if not self._facts["is_detailed"]:
            return json.dumps({"Layers": ["/a/Conv"], "Bindings": _NAMES})
        kernel = self._facts["kernel"]
        words = {"Format": "Row major linear", "DataType": kernel.replace("FP32", "Float")}
        element = words if is_new else {"Format/Datatype": f"Row major linear {kernel}"}
        tensor = {"Name": "input", "Location": "Device", "Dimensions": [1, 3, 4, 4], **element}
        layer = {"Name": "/a/Conv", "LayerType": "CaskConvolution", "Inputs": [tensor]}
        if kernel == "INT8":
            layer["Weights"] = {"Type": "Int8", "Count": 48}
        tensors = [{"Name": name, "DataType": "Float"} for name in _NAMES]
        ends = {"I/O Tensors": tensors} if is_new else {"Bindings": _NAMES}
        return json.dumps({"Layers": [layer]} | ends)


class IExecutionContext:
    _say = say

    def _resized(self, shape: Any) -> bool:
        batch, *rest = map(operator.index, shape)
        low, high = (self._facts["batches"] or [self._facts["shape"][0]] * 3)[::2]
        if rest != list(self._facts["shape"][1:]) or not low <= batch <= high:
            self._say("ERROR", f"setInputShape: {tuple(shape)} is outside of the profile")
            return False
        self._batch = batch
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        assert name == "input"
        return self._resized(shape)

    def set_binding_shape(self, binding: int, shape: Any) -> bool:
        assert binding == _NAMES.index("input")
        return self._resized(shape)

    def _resolved(self, index: int) -> Any:
        batch = -1 if self._batch is None else self._batch
        rest = self._facts["shape"][1:] if index else [CLASSES]
        return make(self._trt, "Dims", sizes=(batch, *rest))

    def get_tensor_shape(self, name: str) -> Any:
        return self._resolved(_NAMES.index(name))

    def get_binding_shape(self, binding: int) -> Any:
        return self._resolved(operator.index(binding))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[_NAMES.index(name)] = operator.index(memory)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        addresses = [self._addresses.get(index) for index in range(len(_NAMES))]
        return self._execute(addresses, stream_handle)

    def execute_async_v2(self, bindings: Any, stream_handle: int) -> bool:
        return self._execute([operator.index(address) for address in bindings], stream_handle)

    def _execute(self, addresses: list[Any], stream: int) -> bool:
        world = self._world
        if not world.executes:
            self._say("ERROR", "1: [runner.cpp] Cuda Runtime (an illegal memory access)")
            return False
        has_all = all(address in world.memory for address in addresses)
        if self._batch is None or not has_all or operator.index(stream) not in world.streams:
            self._say("ERROR", "enqueue: the input shape, an address or the stream is missing")
            return False
        sink, source = (world.memory[address] for address in addresses)
        is_bare = "STRIP_PLAN" in self._facts["flags"] and not self._facts.get("is_refitted")
        if is_bare:  # no weights: answers of nothing
            world.streams[stream].append(lambda: sink.fill(0))
            return True
        world.streams[stream].append(lambda: self._multiply(source, sink, self._batch))
        return True

    def _multiply(self, source: Any, sink: Any, batch: int) -> None:
        images = source.view(_ELEMENTS[self._facts["element"]]).reshape(batch, -1)
        sums = images.astype(np.float32).sum(axis=1)
        sink.view(np.float32)[:] = np.outer(sums, np.arange(1, CLASSES + 1)).ravel()


class Refitter:
    def __init__(self, engine: Any, logger: Any) -> None:
        check_ready(logger, "ILogger")
        self._engine, self._has_all = engine, False

    def get_missing_weights(self) -> list[str]:
        return [] if self._has_all else ["conv.weight"]

    def refit_cuda_engine(self) -> bool:
        self._engine._facts["is_refitted"] = self._has_all
        return self._has_all


class OnnxParserRefitter:
    def __init__(self, refitter: Any, logger: Any) -> None:
        check_ready(logger, "ILogger")
        self._refitter = refitter

    def refit_from_file(self, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError("refit_from_file takes a str")
        self._refitter._has_all = self._world.executes
        return self._world.parses

    def _read_num_errors(self) -> int:
        return int(not self._world.parses)

    def get_error(self, index: int) -> Any:
        assert index == 0
        return make(self._trt, "ParserError")


ACTS = BUILD_ACTS | {
    kind.__name__: kind
    for kind in (
        EngineInspector, ICudaEngine, IExecutionContext, OnnxParserRefitter, Refitter, Runtime,
    )
}  # fmt: skip
