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
KILLS_A_BUILD = 4
NUM_STAGES = 10  # artifacts of this recipe: the last is the report; on a CPU with bf16 one more
GRAPHS = ("model.onnx", "model.simplified.onnx", "model.ranges.json", "model.int8.onnx")


def command(workshop, out: Path) -> list[str]:
    build = [sys.executable, "-m", "edge_inception", "build", "--recipe", str(workshop.recipe)]
    return [*build, "--out", str(out), "--quiet"]


def finish(workshop, out: Path) -> None:
    """Build to the end."""
    done = subprocess.run(command(workshop, out), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def start_and_kill(workshop, out: Path, num_files: int, delay: float) -> int | None:
    """Kill a build and its workers ``delay`` seconds after its ``num_files``-th artifact appeared.

    Returns how many artifacts there were when it died, None when it had ended before.
    """
    process = subprocess.Popen(
        command(workshop, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and len(list(out.glob("*.json"))) < num_files:
        time.sleep(0.01)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return len(list(out.glob("*.json")))
    return None


def kill_one(workshop, out: Path, num_files: int, delay: float) -> int:
    """Kill a build there, from the start and earlier where it had ended; artifacts at its death."""
    while (left := start_and_kill(workshop, out, num_files, delay)) is None:
        shutil.rmtree(out)
        delay *= 0.5
    return left


def outputs(out: Path) -> np.ndarray:
    """Logits of the shipped engine for fixed noise."""
    pixels = np.random.default_rng(1).normal(0, 1, (3, 3, 107, 107)).astype(np.float32)
    with edge_inception.open_engine(out / "model.int8.cpu.blob", threads=1) as session:
        return session.run(pixels)


def test_a_killed_build_goes_on_to_the_same_result(workshop, tmp_path):
    """After 20 kills, four a build, the next run ends with the undisturbed hashes and outputs."""
    calm = tmp_path / "calm"
    finish(workshop, calm)
    wanted = {name: file_sha256(calm / name) for name in GRAPHS}
    logits = outputs(calm)
    files_at_kill: list[int] = []
    moments = random.Random(0)  # noqa: S311 -- a test's seed, not a secret

    def survive(index: int, kills: list[tuple[int, float]]) -> None:
        out = tmp_path / f"killed {index}"
        lefts = [kill_one(workshop, out, *kill) for kill in kills]
        files_at_kill.extend(lefts)
        finish(workshop, out)
        assert {name: file_sha256(out / name) for name in GRAPHS} == wanted, (
            f"killed after {lefts} files"
        )
        np.testing.assert_array_equal(outputs(out), logits)
        assert not list(out.glob(".*.partial"))
        for path in out.glob("*.json"):
            if path.name.endswith((".onnx.json", ".blob.json", ".npz.json")):
                artifact.load(_kind(path), path.with_suffix(""))

    with ThreadPoolExecutor(max_workers=2) as pool:
        # every stage in turn, and a random moment in it; some run on into the next stages. What
        # goes on after a kill is killed again, a quarter of the stages later.
        quarters = [NUM_STAGES * k // KILLS_A_BUILD for k in range(KILLS_A_BUILD)]
        plans = [
            [(start + i % 3, moments.uniform(0, 1.5)) for start in quarters]
            for i in range(NUM_KILLS // KILLS_A_BUILD)
        ]
        for future in [pool.submit(survive, i, plan) for i, plan in enumerate(plans)]:
            future.result()
    assert len(files_at_kill) == NUM_KILLS
    # the fast stages end before the kill arrives now and then, so not every count is seen
    assert len(set(files_at_kill)) >= 5, f"kills hit too few stages: {sorted(files_at_kill)}"


def _kind(sidecar: Path) -> type[artifact.Artifact]:
    name = sidecar.name
    if name.startswith(("model.int8.onnx", "model.fp32.onnx")):
        return artifact.TypedGraph
    if name.startswith("model.simplified"):
        return artifact.SimplifiedGraph
    if name.startswith("model.onnx"):
        return artifact.Graph
    return artifact.EngineFile if name.endswith(".blob.json") else artifact.Baseline
