"""Types of NVIDIA's Python module for the type checker; none of them exists at run time.

The library is an argument (``trt``) everywhere, since several modules can be that argument. These
are the members that the code may use, typed by ``tensorrt-stubs`` (TensorRT 10.13), so that a
misspelled method or a surplus parameter is found without the library. Members that only other
releases have are looked up by ``hasattr`` and checked against the recorded surfaces of those
releases (tests/contract/surfaces).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt

    Builder = tensorrt.Builder
    Config = tensorrt.IBuilderConfig
    Context = tensorrt.IExecutionContext
    Engine = tensorrt.ICudaEngine
    Network = tensorrt.INetworkDefinition
    ParserError = tensorrt.ParserError
    Runtime = tensorrt.Runtime

    class CapturingLogger(tensorrt.ILogger):
        """The logger that ``_inspection.capturing_logger`` returns."""

        messages: list[tuple[str, str]]

    class Names(Protocol):
        """Members of the module that the code uses."""

        Builder: type[tensorrt.Builder]
        BuilderFlag: type[tensorrt.BuilderFlag]
        DeviceType: type[tensorrt.DeviceType]
        HardwareCompatibilityLevel: type[tensorrt.HardwareCompatibilityLevel]
        IInt8EntropyCalibrator2: type[tensorrt.IInt8EntropyCalibrator2]
        ILogger: type[tensorrt.ILogger]
        IProgressMonitor: type[tensorrt.IProgressMonitor]
        LayerInformationFormat: type[tensorrt.LayerInformationFormat]
        MemoryPoolType: type[tensorrt.MemoryPoolType]
        NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
        OnnxParser: type[tensorrt.OnnxParser]
        OnnxParserRefitter: type[tensorrt.OnnxParserRefitter]
        ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
        Refitter: type[tensorrt.Refitter]
        Runtime: type[tensorrt.Runtime]
        TensorIOMode: type[tensorrt.TensorIOMode]
        float32: tensorrt.DataType

    class Library(Names, Protocol):
        """A module of NVIDIA's: TensorRT of any release, or TensorRT-RTX."""

        __name__: str
        __version__: str

    published: Names = tensorrt  # the type checker compares Names with the stubs
