"""Wall time of `edge-inception --help` in fresh processes: `python tests/benchmarks/startup.py`.

Beside it an empty interpreter, interleaved, so that the machine's own share is visible.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from edge_inception.latency import machine
from edge_inception.stage import plain, tool_version

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "edge-inception --version": [sys.executable, "-m", "edge_inception", "--version"],
    "edge-inception --help": [sys.executable, "-m", "edge_inception", "--help"],
}
GOAL_MS = 150.0


def wall_ms(command: list[str]) -> float:
    """Milliseconds from spawn to exit."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1e3


def main() -> int:
    """Measure, print, optionally write JSON; exit 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.rounds + 1):
        for name, command in COMMANDS.items():
            times[name].append(wall_ms(command))
    record = {
        "benchmark": "startup",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": plain(machine.describe()),
        "click": tool_version("click"),
        "rounds": arguments.rounds,
        "goal_ms": GOAL_MS,
        # the first round warms the file cache and does not count
        "median_ms": {name: round(statistics.median(t[1:]), 1) for name, t in times.items()},
        "range_ms": {
            name: [round(min(t[1:]), 1), round(max(t[1:]), 1)] for name, t in times.items()
        },
    }
    sys.stdout.write(json.dumps(record, indent=1) + "\n")
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(record["median_ms"]["edge-inception --help"] > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
