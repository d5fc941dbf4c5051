"""Wall time of a build with nothing changed: `python tests/benchmarks/rebuild.py --out X.json`.

Builds the demo recipe (or reuses it), then times the same command again in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from edge_inception.latency import machine
from edge_inception.stage import plain

GOAL_S = 3.0


def build(folder: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and the number of reused stages of one build."""
    command = [sys.executable, "-m", "edge_inception", "build", "--precision", "int8"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", str(folder)], check=False, capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, sum(line.endswith("reused") for line in done.stderr.splitlines())


def main() -> int:
    """Measure, print, write JSON; exit 1 when the goal is missed or a stage ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/solar"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    build(arguments.folder)
    rounds = [build(arguments.folder) for _ in range(arguments.rounds)]
    record = {
        "benchmark": "rebuild",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": plain(machine.describe()),
        "goal_s": GOAL_S,
        "rounds": arguments.rounds,
        "reused_stages": min(reused for _, _, reused in rounds),
        "median_wall_s": round(statistics.median(wall for wall, _, _ in rounds), 2),
        "range_wall_s": [round(f(wall for wall, _, _ in rounds), 2) for f in (min, max)],
        "median_cpu_s": round(statistics.median(cpu for _, cpu, _ in rounds), 2),
    }
    text = json.dumps(record, indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    return int(record["median_wall_s"] > GOAL_S)


if __name__ == "__main__":
    sys.exit(main())
