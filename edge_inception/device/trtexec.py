"""TensorRT through NVIDIA's own tool, where its Python bindings are missing.

``build.sh`` of the bundle holds the commands; this file runs it and reads what it writes. trtexec
builds and times an engine, and gives no answers to compare: ``verify`` needs the bindings.
This file travels to devices: Python 3.6 syntax and numpy. It has not run on a device.
"""

import json
import os
import shutil
import subprocess
import tempfile
from typing import Any, Dict, List, Mapping, Optional, Tuple

if __package__:
    from edge_inception.device import errors as refusal
    from edge_inception.device import manifest, measure
    from edge_inception.device.errors import Refusal
else:
    import errors as refusal  # type: ignore[import-not-found,no-redef]
    import manifest  # type: ignore[import-not-found,no-redef]
    import measure  # type: ignore[import-not-found,no-redef]
    from errors import Refusal  # type: ignore[no-redef]

TOOL = "/usr/src/tensorrt/bin/trtexec"  # where JetPack puts it; not on PATH
_TAIL_LINES = 3


def find_tool() -> Optional[str]:
    """Path of trtexec: TRTEXEC of the environment, JetPack's, or one on PATH."""
    for path in (os.environ.get("TRTEXEC"), TOOL, shutil.which("trtexec")):
        if path and os.access(path, os.X_OK):
            return path
    return None


class Trtexec:
    """The way of ``ways`` for a device that has trtexec and no bindings."""

    name = "tensorrt"
    suffix = ".engine"

    def __init__(self, bundle: Any, board: Mapping[str, Any], tool: str) -> None:
        self._bundle, self._board, self._tool = bundle, board, tool

    def version(self) -> str:
        """Version of the installed library, checked against the manifest's range.

        Raises:
            Refusal: No library, or the bundle is not for it.
        """
        version = self._board["tensorrt"]
        if version is None:
            raise Refusal(
                "{} is here, and no libnvinfer.so".format(self._tool),
                "install TensorRT from the JetPack: sudo apt-get install nvidia-jetpack",
                refusal.LIBRARY_MISSING,
            )
        manifest.require_tensorrt(self._bundle, version)
        return str(version)

    def identity(self) -> Dict[str, Any]:
        """What its plans are tied to, as far as it can be told without the bindings.

        Raises:
            Refusal: As ``version``.
        """
        device = self._board["model"] or "unknown"
        return {"tensorrt": self.version(), "sm": None, "device": device}

    def graph(self) -> Dict[str, Any]:
        """The graph for this version.

        Raises:
            Refusal: As ``version``.
        """
        return manifest.graph_for(self._bundle, self.version())

    def compile(self, path: str, graph: Mapping[str, Any]) -> Tuple[bytes, Dict[str, Any]]:
        """The plan that trtexec builds.

        Raises:
            Refusal: It fails; its last lines are the message.
        """
        del graph
        with tempfile.TemporaryDirectory() as folder:
            engine = os.path.join(folder, "built.engine")
            self._run("build", path, engine)
            with open(engine, "rb") as stream:
                return stream.read(), {"runner": "trtexec"}

    def load(self, content: bytes, sidecar: Mapping[str, Any]) -> Any:
        """Refuse: trtexec gives no answers.

        Raises:
            Refusal: Always.
        """
        del content, sidecar
        raise Refusal(
            "answers need TensorRT's Python bindings; trtexec can only build and bench",
            "sudo apt-get install python3-libnvinfer",
            refusal.LIBRARY_MISSING,
        )

    def timed_run(self, engine: str, protocol: Any) -> Dict[str, Any]:
        """Latency that trtexec measures: statistics and every sample in ms.

        What ``build.sh`` asks of it: copies are timed, the CPU spins, and from 10.0 on the calls
        are one captured CUDA graph.

        Raises:
            Refusal: It fails, or writes no times.
        """
        with tempfile.TemporaryDirectory() as folder:
            times = os.path.join(folder, "times.json")
            lengths = {
                "WARMUP_MS": "{:g}".format(1000 * protocol.warmup_s),
                "DURATION_S": "{:g}".format(protocol.seconds),
                "CALLS": str(protocol.calls),
            }
            self._run("bench", engine, times, **lengths)
            with open(times, encoding="utf-8") as stream:
                run = statistics(json.load(stream))
        run.update(
            arm="A",
            block=0,
            slot=0,
            metric="h2d_compute_d2h_ms",
            spin_wait=True,
            cuda_graph=manifest.numbers(self.version()) >= (10,),
        )
        return run

    def _run(self, *arguments: str, **environment: str) -> None:
        done = subprocess.run(
            ["sh", self._bundle.path("build.sh"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(
                os.environ, TRTEXEC=self._tool, TENSORRT_VERSION=self.version(), **environment
            ),
            check=False,
        )
        if done.returncode != 0:
            lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
            errors = [line for line in lines if "[E]" in line] or lines
            raise Refusal(
                "trtexec failed (exit {}): {}".format(
                    done.returncode, " | ".join(errors[-_TAIL_LINES:])
                ),
                "run it to see everything: sh build.sh {} {}".format(
                    " ".join(arguments[:2]),
                    "my.engine" if arguments[0] == "build" else "times.json",
                ),
                refusal.BUILD_FAILED,
            )


def statistics(times: List[Mapping[str, float]]) -> Dict[str, Any]:
    """A run in the form of ``measure.timed_run`` from what ``--exportTimes`` wrote.

    Raises:
        Refusal: It holds no call.
    """
    if not times:
        raise Refusal(
            "trtexec timed no call", "run sh build.sh bench by hand", refusal.BUILD_FAILED
        )
    samples = [float(entry["latencyMs"]) for entry in times]
    computes = [float(entry["computeMs"]) for entry in times]
    return {
        "runner": "trtexec",
        "t0": None,
        **measure.summary(samples, computes),
        "temp_c": {"start": {}, "end": {}},
        "gpu_mhz_min": None,
    }
