"""TensorRT through NVIDIA's tool trtexec, where TensorRT's Python bindings are missing.

This file runs the commands in ``build.sh`` of the bundle and reads their results. trtexec builds
and times an engine, and returns no outputs to compare: ``verify`` needs the bindings.
This file travels to devices: Python 3.6 syntax and numpy. It has not run on a device.
"""

import os
import shutil
import subprocess
import tempfile
from typing import Any, Dict, Optional, Tuple

from edge_inception.device import errors, jetson_board, manifest, measure, records, runtimes
from edge_inception.device.errors import Refusal

JETPACK_PATH = "/usr/src/tensorrt/bin/trtexec"  # where JetPack puts it; not on PATH
_TAIL_LINES = 3
_TIME_KEYS = ("latencyMs", "computeMs")
_RUN_BY_HAND = "run sh build.sh bench by hand"


def find_trtexec() -> Optional[str]:
    """Path of trtexec: from the variable TRTEXEC, of JetPack, or on PATH; None if not found."""
    for path in (os.environ.get("TRTEXEC"), JETPACK_PATH, shutil.which("trtexec")):
        if path and os.access(path, os.X_OK):
            return path
    return None


class Trtexec:
    """A runtime, with the methods that ``runtimes`` describes, for a device without bindings."""

    name = "tensorrt"
    suffix = ".engine"

    def __init__(self, bundle: Any, board: jetson_board.Board, tool: str) -> None:
        self._bundle, self._board, self._tool = bundle, board, tool

    def version(self) -> str:
        """Version of the installed library, checked against the manifest's range."""
        version = self._board.tensorrt
        if version is None:
            raise Refusal(
                "found {}, but no libnvinfer.so".format(self._tool),
                "install TensorRT from the JetPack: sudo apt-get install nvidia-jetpack",
                errors.LIBRARY_MISSING,
            )
        manifest.require_tensorrt(self._bundle, version)
        return version

    def identity(self) -> runtimes.GpuIdentity:
        """The facts that a plan depends on, as far as they are known without the bindings."""
        return runtimes.GpuIdentity(self.version(), None, self._board.model or "unknown")

    def graph(self) -> manifest.Graph:
        """The graph for this version."""
        return manifest.require_graph(self._bundle, self.version())

    def compile(self, path: str, graph: manifest.Graph) -> Tuple[bytes, Dict[str, Any]]:
        """The plan that trtexec builds; a refusal has the last lines of a failed trtexec."""
        del graph
        with tempfile.TemporaryDirectory() as folder:
            engine = os.path.join(folder, "built.engine")
            self._run("build", path, engine)
            with open(engine, "rb") as stream:
                return stream.read(), {"runner": "trtexec"}

    def load(self, content: bytes, facts: Any) -> Any:
        """Refuse to open an engine, since trtexec returns no outputs."""
        del content, facts
        raise Refusal(
            "an engine's outputs need TensorRT's Python bindings; trtexec only builds and times",
            "sudo apt-get install python3-libnvinfer",
            errors.LIBRARY_MISSING,
        )

    def timed_run(self, engine: str, protocol: measure.Protocol) -> measure.Run:
        """Statistics and every sample, in ms, of calls that trtexec times.

        With the flags in ``build.sh`` trtexec includes copies in the times, the CPU spins while it
        waits, and from TensorRT 10.0 on each call launches a captured CUDA graph.

        Raises:
            Refusal: trtexec fails, or writes no times.
        """
        with tempfile.TemporaryDirectory() as folder:
            times = os.path.join(folder, "times.json")
            lengths = {
                "WARMUP_MS": "{:g}".format(1000 * protocol.warmup_s),
                "DURATION_S": "{:g}".format(protocol.seconds),
                "CALLS": str(protocol.calls),
            }
            self._run("bench", engine, times, **lengths)
            with open(times, "rb") as stream:
                run = parse_times(records.parse(stream.read(), "what trtexec wrote", _RUN_BY_HAND))
        return run._replace(
            metric="h2d_compute_d2h_ms",
            spin_wait=True,
            cuda_graph=manifest.version_numbers(self.version()) >= (10,),
        )

    def _run(self, *arguments: str, **environment: str) -> None:
        process = subprocess.run(
            ["sh", self._bundle.path("build.sh"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(
                os.environ, TRTEXEC=self._tool, TENSORRT_VERSION=self.version(), **environment
            ),
            check=False,
        )
        if process.returncode != 0:
            lines = process.stdout.decode("utf-8", "replace").strip().splitlines()
            failures = [line for line in lines if "[E]" in line] or lines
            raise Refusal(
                "trtexec failed (exit {}): {}".format(
                    process.returncode, " | ".join(failures[-_TAIL_LINES:])
                ),
                "run it to see everything: sh build.sh {} {}".format(
                    " ".join(arguments[:2]),
                    "my.engine" if arguments[0] == "build" else "times.json",
                ),
                errors.BUILD_FAILED,
            )


def parse_times(times: Any) -> measure.Run:
    """The run in the JSON of trtexec's ``--exportTimes``: a list of calls, each with times in ms.

    Raises:
        Refusal: The JSON holds no call.
    """
    try:
        samples, gpu_times = ([float(call[key]) for call in times] for key in _TIME_KEYS)
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(
            "trtexec wrote no times: {}".format(error), _RUN_BY_HAND, errors.BUILD_FAILED
        ) from error
    if not samples:
        raise Refusal("trtexec timed no call", _RUN_BY_HAND, errors.BUILD_FAILED)
    return measure.summarize_run(samples, gpu_times)._replace(runner="trtexec")
