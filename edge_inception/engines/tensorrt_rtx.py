"""TensorRT-RTX: NVIDIA's parser and compiler, which compile ahead of time without a GPU.

The engine holds portable code that the driver of an RTX GPU finishes at its first run. When no
compute capability is asked for, the library's default stands: compute capability 8.0 (Ampere) and
later in one engine. Turing (7.5) must be asked for, and there INT8 convolutions are computed in
float16 from dequantized weights, so an int8 graph compiled for 7.5 alone is refused.

Source: docs.nvidia.com/deeplearning/tensorrt-rtx, "CPU-Only AOT and TensorRT-RTX Engines";
docs/tensorrt.md, "TensorRT-RTX".
"""

from __future__ import annotations

from edge_inception.engines import _nvidia, _plan_session

_VENDOR = _nvidia.Vendor(
    name="tensorrt_rtx",
    title="TensorRT-RTX",
    modules=("tensorrt_rtx_bindings", "tensorrt_rtx"),
    distributions=("tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu12-libs"),
    remedy="pip install 'edge-inception[rtx]'",
    tool="tensorrt_rtx",
    needs_gpu_to_compile=False,
    # Tried with 1.7.1: an optimization level, sparsity and a hardware level change no byte of the
    # plan; a timing cache does nothing; no DLA core is seen; refit and stripping need a GPU; and
    # version compatibility needs a library that the wheel lacks.
    honours=frozenset(("compute_capabilities", "workspace_mib")),
)

BACKEND = _plan_session.backend_of(_VENDOR)
