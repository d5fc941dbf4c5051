"""kill -9 at random moments: nothing is lost, nothing half-written is taken for whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import edge_inception
from edge_inception import artifact
from edge_inception.artifact import file_sha256

pytestmark = pytest.mark.slow
NUM_KILLS = 20
GRAPHS = ("model.onnx", "model.simplified.onnx", "model.ranges.json", "model.int8.onnx")


def command(workshop, out: Path) -> list[str]:
    build = [sys.executable, "-m", "edge_inception", "build", "--recipe", str(workshop.recipe)]
    return [*build, "--out", str(out), "--quiet"]


def finish(workshop, out: Path) -> float:
    """Build to the end; seconds it took."""
    started = time.monotonic()
    done = subprocess.run(command(workshop, out), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started


def start_and_kill(workshop, out: Path, seconds: float) -> bool:
    """Start a build in its own process group and kill all of it after ``seconds``.

    False when it had ended before.
    """
    process = subprocess.Popen(
        command(workshop, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def outputs(out: Path) -> np.ndarray:
    """Logits of the shipped engine for fixed noise."""
    pixels = np.random.default_rng(1).normal(0, 1, (3, 3, 107, 107)).astype(np.float32)
    with edge_inception.open_engine(out / "model.int8.cpu.blob", threads=1) as session:
        return session.run(pixels)


def test_a_killed_build_goes_on_to_the_same_result(workshop, tmp_path):
    """After each of 20 kills the next run ends with the undisturbed hashes and engine outputs."""
    calm = tmp_path / "calm"
    seconds = finish(workshop, calm)
    wanted = {name: file_sha256(calm / name) for name in GRAPHS}
    logits = outputs(calm)
    files_at_kill: list[int] = []
    moments = random.Random(0)  # noqa: S311 -- a test's seed, not a secret

    def survive(index: int, moment: float) -> None:
        out = tmp_path / f"killed {index}"
        while not start_and_kill(workshop, out, moment):
            shutil.rmtree(out)  # it was faster than the undisturbed one: try an earlier moment
            moment *= 0.7
        files_at_kill.append(len(list(out.glob("*.json"))))
        finish(workshop, out)
        assert {name: file_sha256(out / name) for name in GRAPHS} == wanted, f"killed at {moment} s"
        np.testing.assert_array_equal(outputs(out), logits)
        assert not list(out.glob(".*.partial"))
        for path in out.glob("*.json"):
            if path.name.endswith((".onnx.json", ".blob.json", ".npz.json")):
                artifact.load(_kind(path), path.with_suffix(""))

    with ThreadPoolExecutor(max_workers=2) as pool:
        times = [moments.uniform(0.1, 1.6) * seconds for _ in range(NUM_KILLS)]
        for future in [pool.submit(survive, i, t) for i, t in enumerate(times)]:
            future.result()
    assert len(files_at_kill) == NUM_KILLS
    assert len(set(files_at_kill)) >= 4, f"kills hit too few stages: {sorted(files_at_kill)}"


def _kind(sidecar: Path) -> type[artifact.Artifact]:
    name = sidecar.name
    if name.startswith(("model.int8.onnx", "model.fp32.onnx")):
        return artifact.TypedGraph
    if name.startswith("model.simplified"):
        return artifact.SimplifiedGraph
    if name.startswith("model.onnx"):
        return artifact.Graph
    return artifact.EngineFile if name.endswith(".blob.json") else artifact.Baseline
