"""Findings of ``doctor``: what this machine can compile and run, and how to add the rest."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass

from edge_inception import stage
from edge_inception.engines import _registry as backends
from edge_inception.engines._backend import Availability

# Distributions that a build needs; each has a module of the same name.
_BUILD_LIBRARIES = (
    *("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime"),
    *("openvino", "safetensors"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of ``doctor`` about a part of the installation, present (``is_ok``) or missing.

    ``detail`` has the part's versions, or the reason why it is missing. ``remedy`` is the command
    that adds it, or empty.
    """

    part: str
    is_ok: bool
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Findings on Python, the libraries of a build, each engine backend and the demo's photos."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    findings = [Finding(part="python", is_ok=True, detail=f"{version} on {platform.platform()}")]
    findings.append(_build_libraries())
    findings += [_backend(name) for name in backends.backend_names()]
    findings.append(_photos())
    return findings


def _build_libraries() -> Finding:
    missing = [name for name in _BUILD_LIBRARIES if not _is_installed(name)]
    present = [name for name in _BUILD_LIBRARIES if name not in missing]
    versions = ", ".join(f"{name} {stage.tool_version(name)}" for name in present)
    return Finding(
        part="checkpoint to engine",
        is_ok=not missing,
        detail=f"missing: {', '.join(missing)}" if missing else versions,
        remedy="pip install 'edge-inception[compile]'" if missing else "",
    )


def _backend(name: str) -> Finding:
    state = backends.backend(name).availability()
    able = abilities(state)
    detail = f"{short_version(state)} can {able}" if able else state.why_not
    if able and state.why_not:
        detail += f"; {state.why_not}"
    return Finding(part=f"engine {name}", is_ok=bool(able), detail=detail, remedy=state.remedy)


def abilities(state: Availability) -> str:
    """What a backend can do here: ``compile and execute``, one of the two, or an empty text."""
    words = {"compile": state.can_compile, "execute": state.can_execute}
    return " and ".join(word for word, is_possible in words.items() if is_possible)


def short_version(state: Availability) -> str:
    """The library's version without the build number that OpenVINO appends."""
    return state.version.partition("-")[0]


def _photos() -> Finding:
    is_installed = _is_installed("elpv_dataset")
    absent = "elpv-dataset is not installed; only the demo needs it"
    return Finding(
        part="demo photos",
        is_ok=is_installed,
        detail="elpv-dataset" if is_installed else absent,
        remedy="" if is_installed else "pip install 'edge-inception[demo]'",
    )


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
