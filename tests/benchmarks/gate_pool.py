"""The pool of runs that the false-alarm study draws from: fresh processes on this real machine.

Each sitting runs three engines side by side, block by block: A, the same engine again (A2), and the
same engine with every call 5 % longer (B). One JSON line a sitting, appended and synced, so that a
killed recording goes on where it stopped. With ``--load`` a program of many starts and stops works
in the background in every second sitting, on top of whatever else the machine does.

    python tests/benchmarks/gate_pool.py --engine ENGINE --sittings 400 --load
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edge_inception import artifact
from edge_inception.artifact import EngineFile
from edge_inception.latency.bench import Protocol, run_together
from edge_inception.latency.measure import Contender

POOL = Path("build/gate_study/pool.jsonl")
PERCENT = 5.0
PROTOCOL = Protocol(
    threads=1, warmup_calls=10, warmup_s=0.2, calls=80, seconds=1.5, stable=None, block_calls=8
)
_BURST = """
import random, time
while True:
    end = time.perf_counter() + random.uniform(0.05, 0.6)
    while time.perf_counter() < end:
        sum(range(2000))
    time.sleep(random.uniform(0.05, 1.2))
"""


def main() -> None:
    """Record until the pool holds as many sittings as were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--sittings", type=int, default=400)
    parser.add_argument("--pool", type=Path, default=POOL)
    parser.add_argument("--load", action="store_true", help="a busy program in every second one")
    arguments = parser.parse_args()
    arguments.pool.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.pool.read_text().splitlines() if arguments.pool.exists() else []
    images = _images(arguments.engine, arguments.pool.with_suffix(".npy"))
    for index in range(len(lines), arguments.sittings):
        is_loaded = arguments.load and index % 2 == 1
        burst = subprocess.Popen([sys.executable, "-c", _BURST]) if is_loaded else None
        try:
            entry = _sitting(arguments.engine, images, index)
        finally:
            if burst:
                burst.kill()
                burst.wait()
        entry["is_loaded"] = is_loaded
        with arguments.pool.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _images(engine: Path, path: Path) -> Path:
    details = artifact.load(EngineFile, engine).details
    shape = [16, *details.input_shape[1:]]
    np.save(path, np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    return path


def _sitting(engine: Path, images: Path, index: int) -> dict[str, object]:
    plain = {"path": str(engine.resolve())}
    contenders = {
        "A": Contender(name="A", factory="edge_inception.inference:open_engine", arguments=plain),
        "A2": Contender(name="A2", factory="edge_inception.inference:open_engine", arguments=plain),
        "B": Contender(
            name="B", factory="slowed:open_slowed", arguments={**plain, "percent": PERCENT}
        ),
    }
    # which of the equal two comes first changes, so that a place in the row favours nobody
    arms = ("A", "A2", "B") if index % 2 == 0 else ("B", "A2", "A")
    started = time.time()
    runs = run_together({arm: contenders[arm] for arm in arms}, images, PROTOCOL, pair=index)
    return {
        "index": index,
        "time": started,
        "foreign_cores": runs[0].foreign_cores,
        "arms": {run.side: [[round(v, 4) for v in block] for block in run.blocks] for run in runs},
    }


if __name__ == "__main__":
    main()
