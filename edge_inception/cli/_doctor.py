"""What this machine can compile and run, and the one command that adds what is missing."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass

from edge_inception import stage
from edge_inception.engines import _registry as backends

_LEFT_OF_GRAPH = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxsim": "onnxsim",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "safetensors": "safetensors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: ``what`` is fine or missing, ``detail`` says more, ``remedy`` is a command."""

    what: str
    is_ok: bool
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Python, the libraries of the build, each engine backend, the demo's photos."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    findings = [Finding(what="python", is_ok=True, detail=f"{version} on {platform.platform()}")]
    findings.append(_build_libraries())
    findings += [_backend(name) for name in backends.backend_names()]
    findings.append(_photos())
    return findings


def _build_libraries() -> Finding:
    missing = [name for name, module in _LEFT_OF_GRAPH.items() if not _is_installed(module)]
    found = ", ".join(f"{n} {stage.tool_version(n)}" for n in _LEFT_OF_GRAPH if n not in missing)
    return Finding(
        what="checkpoint to engine",
        is_ok=not missing,
        detail=f"missing: {', '.join(missing)}" if missing else found,
        remedy="pip install 'edge-inception[compile]'" if missing else "",
    )


def _backend(name: str) -> Finding:
    state = backends.backend(name).availability()
    can = [
        w for w, is_so in (("compile", state.can_compile), ("execute", state.can_execute)) if is_so
    ]
    version = state.version.partition("-")[0]  # OpenVINO's goes on with its build
    detail = f"{version} can {' and '.join(can)}" if can else state.why_not
    if can and state.why_not:
        detail += f"; {state.why_not}"
    return Finding(what=f"engine {name}", is_ok=bool(can), detail=detail, remedy=state.remedy)


def _photos() -> Finding:
    is_installed = _is_installed("elpv_dataset")
    return Finding(
        what="demo photos",
        is_ok=is_installed,
        detail="elpv-dataset"
        if is_installed
        else "elpv-dataset is not installed; only the demo needs it",
        remedy="" if is_installed else "pip install 'edge-inception[demo]'",
    )


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
