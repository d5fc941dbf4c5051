"""The recorded names of each TensorRT: where they come from, and that two sources agree on them.

The surfaces are what the tests of the TensorRT code stand on. They were recorded from NVIDIA's
wheels; the table below is what NVIDIA's open-source bindings say, read tag by tag.
"""

from __future__ import annotations

import functools
import json
import runpy
from pathlib import Path

import pytest
from tensorrt_releases import RELEASES

SURFACES = Path(__file__).parent / "surfaces"

# Name, first version that has it, last version that has it (None: all). Source:
# docs/tensorrt.md, "Names". Where a name came or went between two recorded versions, the nearest
# stands here.
HISTORY = (
    ("Builder.build_serialized_network", None, None),
    ("Builder.build_engine", None, "8.6"),
    ("Builder.max_batch_size", None, "8.6"),
    ("Builder.platform_has_fast_fp16", None, "10.16"),
    ("Builder.platform_has_fast_int8", None, "10.16"),
    ("Builder.build_serialized_network_to_stream", "10.13", None),
    ("Builder.build_engine_with_config", "10.7", None),
    ("BuilderFlag.FP16", None, "10.16"),
    ("BuilderFlag.INT8", None, "10.16"),
    ("BuilderFlag.GPU_FALLBACK", None, None),
    ("BuilderFlag.STRICT_TYPES", None, "8.6"),
    ("BuilderFlag.ENABLE_TACTIC_HEURISTIC", "8.5", "8.6"),
    ("BuilderFlag.VERSION_COMPATIBLE", "8.6", None),
    ("BuilderFlag.FP8", "8.6", "10.16"),
    ("BuilderFlag.STRIP_PLAN", "10.0", None),
    ("BuilderFlag.REFIT_INDIVIDUAL", "10.3", None),
    ("BuilderFlag.EDITABLE_TIMING_CACHE", "10.13", None),
    ("BuilderFlag.OBEY_PRECISION_CONSTRAINTS", None, "10.16"),
    ("CalibrationAlgoType.ENTROPY_CALIBRATION_2", None, "10.16"),
    ("DataType.UINT8", "8.5", None),
    ("DataType.FP8", "8.6", None),
    ("DataType.INT64", "10.0", None),
    ("DataType.FP4", "10.13", None),
    ("EngineInspector.get_engine_information", None, None),
    ("HardwareCompatibilityLevel.AMPERE_PLUS", "8.6", None),
    ("HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY", "10.13", None),
    ("IBuilderConfig.max_workspace_size", None, "8.6"),
    ("IBuilderConfig.set_memory_pool_limit", "8.5", None),
    ("IBuilderConfig.int8_calibrator", None, "10.16"),
    ("IBuilderConfig.algorithm_selector", None, "10.16"),
    ("IBuilderConfig.builder_optimization_level", "8.6", None),
    ("IBuilderConfig.hardware_compatibility_level", "8.6", None),
    ("IBuilderConfig.max_aux_streams", "8.6", None),
    ("IBuilderConfig.progress_monitor", "10.0", None),
    ("IBuilderConfig.runtime_platform", "10.3", None),
    ("IBuilderConfig.max_num_tactics", "10.7", None),
    ("ICudaEngine.__len__", None, "8.6"),
    ("ICudaEngine.num_bindings", None, "8.6"),
    ("ICudaEngine.get_binding_shape", None, "8.6"),
    ("ICudaEngine.num_io_tensors", "8.5", None),
    ("ICudaEngine.get_tensor_mode", "8.5", None),
    ("ICudaEngine.device_memory_size", None, "10.16"),
    ("ICudaEngine.device_memory_size_v2", "10.3", None),
    ("ICudaEngine.has_implicit_batch_dimension", None, "10.16"),
    ("ICudaEngine.create_execution_context_without_device_memory", None, "10.16"),
    ("IExecutionContext.execute_async_v2", None, "8.6"),
    ("IExecutionContext.execute_v2", None, None),
    ("IExecutionContext.execute_async_v3", "8.5", None),
    ("IExecutionContext.set_binding_shape", None, "8.6"),
    ("IExecutionContext.set_input_shape", "8.5", None),
    ("IExecutionContext.set_tensor_address", "8.5", None),
    ("IExecutionContext.infer_shapes", "8.5", None),
    ("IInt8EntropyCalibrator2.read_calibration_cache", None, "10.16"),
    ("ILayer.precision", None, "10.16"),
    ("IProgressMonitor.step_complete", "10.0", None),
    ("ITensor.set_dynamic_range", None, "10.16"),
    ("ITimingCache.combine", None, None),
    ("MemoryPoolType.WORKSPACE", "8.5", None),
    ("MemoryPoolType.TACTIC_DRAM", "8.6", None),
    ("MemoryPoolType.TACTIC_SHARED_MEMORY", "10.0", None),
    ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", None, "10.16"),
    ("NetworkDefinitionCreationFlag.EXPLICIT_PRECISION", None, "8.6"),
    ("NetworkDefinitionCreationFlag.STRONGLY_TYPED", "10.0", None),
    ("OnnxParser.parse_from_file", None, None),
    ("OnnxParser.supports_model", None, "10.16"),
    ("OnnxParser.supports_model_v2", "10.3", None),
    ("OnnxParserFlag.NATIVE_INSTANCENORM", "8.6", None),
    ("OnnxParserRefitter.refit_from_file", "10.0", None),
    ("ProfilingVerbosity.DETAILED", None, None),
    ("ProfilingVerbosity.VERBOSE", None, "8.6"),
    ("QuantizationFlag.CALIBRATE_BEFORE_FUSION", None, "10.16"),
    ("Runtime.engine_host_code_allowed", "8.6", None),
    ("TacticSource.CUDNN", None, "10.16"),
)


@functools.cache
def read(name):
    return json.loads((SURFACES / f"{name}.json").read_text())


def has(surface, path):
    """Whether a surface has ``Class.member`` or ``Enum.member``."""
    kind, name = path.split(".")
    members = surface["classes"].get(kind, ()), surface["enums"].get(kind, ())
    return any(name == word.partition("(")[0].rstrip("=") for part in members for word in part)


@pytest.mark.parametrize(("path", "first", "last"), HISTORY, ids=[row[0] for row in HISTORY])
def test_surfaces_agree_with_the_open_source_bindings(path, first, last):
    """What came and went, as read from NVIDIA's sources, is what the wheels really offer."""
    start = RELEASES.index(first) if first else 0
    stop = RELEASES.index(last) if last else len(RELEASES)
    wanted = [start <= index <= stop for index in range(len(RELEASES))]
    assert [has(read(version), path) for version in RELEASES] == wanted


@pytest.mark.parametrize("name", [*RELEASES, "rtx"])
def test_every_surface_tells_its_origin(name):
    """A surface is of the release it is named for, and says where it was read and when."""
    surface = read(name)
    assert surface["version"].startswith("" if name == "rtx" else f"{name}.")
    assert "wheel" in surface["origin"] or name in {"8.2", "rtx"}
    assert len(surface["recorded"]) == len("2026-11-25")


def test_hand_read_surface_lies_inside_the_recorded_one():
    """8.2 was read by a person: all of it stands in 8.5's wheel, with the same parameters."""
    hand, recorded = read("8.2"), read("8.5")
    for name, members in hand["classes"].items():
        assert set(members) <= set(recorded["classes"][name]), name
    for name, values in hand["enums"].items():
        assert values.items() <= recorded["enums"][name].items(), name


def test_rtx_surface_is_the_installed_one():
    """TensorRT-RTX as installed has the recorded names, so its recording cannot grow old."""
    module = pytest.importorskip("tensorrt_rtx_bindings")
    found = runpy.run_path(str(SURFACES / "record.py"))["surface"](module)
    recorded = read("rtx")
    assert {part: recorded[part] for part in found} == found
    assert recorded["version"] == module.__version__
