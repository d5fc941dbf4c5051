"""TensorRT-RTX: NVIDIA's library for RTX GPUs, which compiles ahead of time without a GPU.

The engine holds portable code, whose compilation the driver of an RTX GPU finishes at the engine's
first run. Without a requested compute capability the library compiles one engine for 8.0 (Ampere)
and later. Turing (7.5) must be requested, and computes INT8 convolutions in float16 from
dequantized weights, so this backend refuses an int8 graph compiled for 7.5 alone.

Source: docs.nvidia.com/deeplearning/tensorrt-rtx, "CPU-Only AOT and TensorRT-RTX Engines";
docs/tensorrt.md, "TensorRT-RTX".
"""

from __future__ import annotations

from edge_inception.engines import _nvidia, _plan_session

_LIBRARY = _nvidia.LibrarySpec(
    name="tensorrt_rtx",
    title="TensorRT-RTX",
    modules=("tensorrt_rtx_bindings", "tensorrt_rtx"),
    distributions=("tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu12-libs"),
    remedy="pip install 'edge-inception[rtx]'",
    tool="tensorrt_rtx",
    needs_gpu_to_compile=False,
    # The other options were tried with 1.7.1: an optimization level, sparsity and a hardware level
    # change no byte of the plan; a timing cache has no effect; the library sees no DLA core; refit
    # and stripped weights need a GPU; version compatibility needs a library that the wheel lacks.
    supported_options=frozenset(("compute_capabilities", "workspace_mib")),
)

BACKEND = _plan_session.backend_of(_LIBRARY)
