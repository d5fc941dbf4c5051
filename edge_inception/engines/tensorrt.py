"""TensorRT 8.2 to 11, which compiles an engine on the GPU that will run it, such as a Jetson's.

On a Jetson, JetPack installs TensorRT and pip must not replace it; elsewhere TensorRT is a wheel. A
plan (a serialized engine) is tied to the library version and to the GPU on which its kernels were
timed. This backend has not run on hardware so far: this project's machines have no NVIDIA
GPU that TensorRT could use.
"""

from __future__ import annotations

from edge_inception.engines import _nvidia, _plan_session
from edge_inception.engines._backend import TENSORRT_OPTIONS

_LIBRARY = _nvidia.LibrarySpec(
    name="tensorrt",
    title="TensorRT",
    modules=("tensorrt",),
    distributions=("tensorrt",),
    remedy=(
        "on a Jetson: sudo apt install tensorrt python3-libnvinfer (it comes with JetPack, never "
        "from pip); elsewhere: pip install 'edge-inception[tensorrt]'"
    ),
    tool="trtexec",
    needs_gpu_to_compile=True,
    supported_options=frozenset(("workspace_mib", "memory_pools", *TENSORRT_OPTIONS)),
)

BACKEND = _plan_session.backend_of(_LIBRARY)
