"""Types of NVIDIA's Python module for the type checker; none of them exists at run time.

Functions take the library as the argument ``trt``: it is TensorRT of some release or TensorRT-RTX.
This file lists the members of ``trt`` that the functions may use. ``tensorrt-stubs`` (TensorRT
10.13) gives their types, so the type checker finds a misspelled method or a surplus parameter
without the library. Members that 10.13 lacks are looked up by ``hasattr``, and the tests check them
against lists of the members of each release (tests/contract/surfaces).
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
    Parser = tensorrt.OnnxParser | tensorrt.OnnxParserRefitter
    Runtime = tensorrt.Runtime

    class CapturingLogger(tensorrt.ILogger):
        """The logger that ``_inspection.capturing_logger`` returns."""

        messages: list[tuple[str, str]]

    class StubbedLibrary(Protocol):
        """The members of ``trt`` that the functions use and ``tensorrt-stubs`` has."""

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

    class Library(StubbedLibrary, Protocol):
        """TensorRT of any release or TensorRT-RTX; the stubs lack ``__version__``."""

        __name__: str
        __version__: str

    _: StubbedLibrary = tensorrt  # here the type checker compares the stubs with the protocol
