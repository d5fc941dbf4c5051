"""``build.sh`` of a bundle: trtexec's commands for each TensorRT version, to read and to run.

Flags change with the version (facts/jetson.md 2.5); the table here is the one place that knows how.
The script has not run on a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """\
#!/bin/sh
# Build and time the engine of this bundle with NVIDIA's trtexec, without Python.
#   sh build.sh build GRAPH ENGINE     such as: sh build.sh build graphs/weak.onnx my.engine
#   sh build.sh bench ENGINE TIMES     times every call into a JSON file
#   sh build.sh show                   print the commands and run nothing
# device.py runs this where TensorRT's Python bindings are missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tool=${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}  # JetPack puts it there, not on PATH
libraries=$(ls /usr/lib/*/libnvinfer.so.*.*.* 2>/dev/null || true)
installed=$(echo "$libraries" | sed -n 's/.*libnvinfer\\.so\\.//p' | head -n 1)
version=${TENSORRT_VERSION:-$installed}
if [ -z "$version" ]; then
  echo "error: no libnvinfer.so is installed" >&2
  echo "fix: sudo apt-get install nvidia-jetpack, or set TENSORRT_VERSION" >&2
  exit 4
fi
major=${version%%.*}
case $version in
  8.[0-3].*) workspace=--workspace= ;;
  *) workspace=--memPoolSize=workspace: ;;  # since TensorRT 8.4
esac
"""

_TAIL = """\
run() {
  echo "+ $*" >&2
  [ "$action" = show ] || "$@"
}

action=${1:-show}
case $action in
  build) run "$tool" --onnx="$2" --saveEngine="$3" $build ;;
  bench) run "$tool" --loadEngine="$2" --exportTimes="$3" $bench ;;
  show)
    run "$tool" --onnx="$here/$graph" --saveEngine=my.engine $build
    run "$tool" --loadEngine=my.engine --exportTimes=times.json $bench
    ;;
  *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac
"""


def render(graphs: Sequence[Mapping[str, Any]], choices: Mapping[str, Any]) -> str:
    """The script.

    Args:
        graphs: Records of the manifest.
        choices: ``build`` of the manifest.
    """
    by_typing = {graph["typing"]: graph for graph in graphs}
    eight = by_typing.get("implicit") or by_typing.get("weak")
    ten = by_typing.get("implicit") or by_typing.get("strong")
    eleven = by_typing.get("strong")
    lines = [_HEAD, "case $major in"]
    for pattern, graph, comment in (
        ("8|9", eight, "weak typing: the flags allow what the graph asks for"),
        ("10", ten, "precision is in the graph; transfers are timed by default"),
        ("*", eleven, "weak typing is gone; transfers are left out unless asked for"),
    ):
        lines += _case(pattern, graph, comment, choices)
    lines += ["esac", "", _TAIL]
    return "\n".join(lines)


def _case(
    pattern: str, graph: Mapping[str, Any] | None, comment: str, choices: Mapping[str, Any]
) -> list[str]:
    if graph is None:
        return [
            f"  {pattern})",
            '    echo "error: this bundle has no graph for TensorRT $version" >&2',
            '    echo "fix: make a bundle for this device: edge-inception bundle" >&2',
            "    exit 3 ;;",
        ]
    bench = {"8|9": "--useSpinWait", "10": "--useSpinWait --useCudaGraph"}.get(
        pattern, "--includeDataTransfers"
    )
    return [
        f"  {pattern})  # {comment}",
        f"    graph={graph['file']}",
        f'    build="{" ".join(_build_flags(pattern, graph, choices))}"',
        f'    bench="--warmUp=2000 --duration=5 --iterations=300 {bench}"',
        "    ;;",
    ]


def _build_flags(pattern: str, graph: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    flags = []
    if graph["typing"] == "strong":
        flags += ["--stronglyTyped"] if pattern == "10" else []
    else:
        flags += ["--int8"] if graph["precision"] == "int8" else []
        flags += ["--fp16"] if "fp16" in {graph["precision"], graph["float_rest"]} else []
    if graph["typing"] == "implicit" and graph["precision"] == "int8":
        flags.append("--calib=$here/calibration.cache")
    if choices["workspace_mib"] is not None:
        flags.append(f"${{workspace}}{choices['workspace_mib']}")
    if choices["dla_core"] is not None:
        flags.append(f"--useDLACore={choices['dla_core']}")
        flags += ["--allowGPUFallback"] if choices["allow_gpu_fallback"] else []
    if choices["builder_optimization_level"] is not None and pattern != "8|9":
        flags.append(f"--builderOptimizationLevel={choices['builder_optimization_level']}")
    return flags + _shapes(graph)


def _shapes(graph: Mapping[str, Any]) -> list[str]:
    batch, *image = graph["input_shape"]
    if isinstance(batch, int) and batch > 0:
        return []
    size = "x".join(str(side) for side in image)
    profile = graph["profile"]
    return [
        f"--{word}Shapes={graph['input']}:{profile[word]}x{size}" for word in ("min", "opt", "max")
    ]
