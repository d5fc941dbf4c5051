"""``build.sh`` of a bundle: a shell script with the trtexec command for each TensorRT version.

The flags come from ``engines._trtexec``. No such script was run on a device yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edge_inception.device import manifest, runtimes
from edge_inception.engines import _trtexec

_CACHE = "$cache"


class _Release(NamedTuple):
    """TensorRT versions whose trtexec takes the same flags.

    ``pattern`` is a shell pattern for them, ``version`` one of them, and ``bench`` the flags that
    timing needs.
    """

    pattern: str
    version: tuple[int, ...]
    comment: str
    bench: str


_COPY = "copies to and from the GPU are timed by default"
_RELEASES = (
    _Release("8.2.* | 8.3.*", (8, 2, 1), f"JetPack 4.6; {_COPY}", "--useSpinWait"),
    _Release("8.4.* | 8.5.*", (8, 5, 2), f"JetPack 5; {_COPY}", "--useSpinWait"),
    _Release("8.6.*", (8, 6, 2), f"JetPack 6.0; {_COPY}", "--useSpinWait"),
    _Release("9.*", (9, 3, 0), f"no JetPack has it; {_COPY}", "--useSpinWait"),
    _Release("10.*", (10, 3, 0), f"JetPack 6.1 to 7.2; {_COPY}", "--useSpinWait --useCudaGraph"),
    _Release("*", (11, 4, 1), "copies are left out unless asked for", "--includeDataTransfers"),
)
_FLAGS = '"--warmUp=${WARMUP_MS:-2000}" "--duration=${DURATION_S:-5}" "--iterations=${CALLS:-300}"'

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

action=${1:-show}
run() {
  echo "+ $*" >&2
  [ "$action" = show ] || "$@"
}
"""

_CACHE_LINES = """\
# TensorRT calibrates anew, for which there are no images, unless the first line names its version:
# TRT-8502 of 8.5.2, TRT-100300 of 10.3.0.
cache=$(mktemp)
trap 'rm -f "$cache"' EXIT
number=$(echo "$version" | awk -F. '{ print $1 * ($1 < 10 ? 1000 : 10000) + $2 * 100 + $3 }')
sed "1s/^TRT-[0-9]*/TRT-$number/" "$here/calibration.cache" > "$cache"
"""

_TAIL = """\
case $action in
  build) build "$2" "$3" ;;
  bench) bench "$2" "$3" ;;
  show) build "$here/$graph" my.engine; bench my.engine times.json ;;
  *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac
"""


def render(graphs: Sequence[manifest.Graph], choices: manifest.BuildOptions) -> str:
    """The text of ``build.sh`` for the manifest's ``graphs`` and its field ``build``."""
    has_cache = any(runtimes.is_calibrated(graph) for graph in graphs)
    lines = [_HEAD, *([_CACHE_LINES] if has_cache else []), "case $version in"]
    for release in _RELEASES:
        lines += _release_case(release, graphs, choices)
    return "\n".join([*lines, "esac", "", _TAIL])


def _release_case(
    release: _Release, graphs: Sequence[manifest.Graph], choices: manifest.BuildOptions
) -> list[str]:
    graph = manifest.select_graph(graphs, ".".join(map(str, release.version)))
    if graph is None:
        return _refuse_release(release, "this bundle has no graph for TensorRT $version")
    settings = runtimes.build_settings(
        graph, choices, _CACHE if runtimes.is_calibrated(graph) else None
    )
    batch, *rest = graph.input_shape
    image = [size for size in rest if isinstance(size, int)]
    is_free = not isinstance(batch, int)
    try:
        words = _trtexec.command(
            release.version, settings, "$1", "$2", (graph.input, image) if is_free else None
        )
    except _trtexec.NoSuchFlag as error:
        return _refuse_release(release, str(error))
    flags = " ".join(f'"{word}"' for word in words[1:])
    times = f'"--loadEngine=$1" "--exportTimes=$2" {_FLAGS} {release.bench}'
    return [
        f"  {release.pattern})  # {release.comment}",
        f"    graph={graph.file}",
        f'    build() {{ run "$tool" {flags}; }}',
        f'    bench() {{ run "$tool" {times}; }}',
        "    ;;",
    ]


def _refuse_release(release: _Release, reason: str) -> list[str]:
    return [
        f"  {release.pattern})",
        f'    echo "error: {reason}" >&2',
        '    echo "fix: make a bundle for this device: edge-inception bundle" >&2',
        "    exit 3",
        "    ;;",
    ]
