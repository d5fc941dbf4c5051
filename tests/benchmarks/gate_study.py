"""False alarms and power of `compare`'s gate, on the recorded pool of this machine's real noise.

Trials are drawn from the pool that gate_pool.py records: a random start, then consecutive sittings,
judged as `compare` judges (10 pairs, up to 50 while undecided). A against A2 is the same engine:
any `fail` is a false alarm. "+5 %" is A2 with every time multiplied by 1.05, so that the truth is
known whatever the machine did; "slowed" is the engine that really spins for 5 % of each call, which
load stretches: its own ratio is told. A trial that is not a `fail` is a miss, undecided ones
included. The same sittings are judged by a bare threshold on the ratio of medians, as
pytest-benchmark's --benchmark-compare-fail=median:3% does, and by a two-sided Mann-Whitney test of
all call times pooled, p < 0.05, both on all of A and then all of B, as their users measure. "With
drift" slows every block by its place on a thermal ramp of 5 to 8 % over the trial; for the rivals
all of B comes after it. Trials share sittings, so their intervals are too narrow; the number of
sittings is told beside them.

    python tests/benchmarks/gate_study.py --out tests/benchmarks/results/gate_study.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gate_pool import PERCENT, POOL

from edge_inception import stage
from edge_inception.latency import machine
from edge_inception.latency.regression import Gate, Verdict, log_ratio, sequential
from edge_inception.metrics.intervals import wilson

GATE = Gate()
TRIALS = 500
_SEED = 0
_EXACT = "A2 +5 %"
_KINDS = {"same": "A2", "exact": _EXACT, "slowed": "B"}


class Sitting(NamedTuple):
    """Blocks of call times in ms by arm, and whether load was added."""

    arms: dict[str, list[list[float]]]  # A, A2, B as recorded, and _EXACT
    is_loaded: bool
    foreign_cores: float


def main() -> None:
    """Judge many trials of each kind; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=POOL)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, default=TRIALS)
    arguments = parser.parse_args()
    pool = read_pool(arguments.pool)
    parts = {
        "all": (pool, False),
        "all with drift": (pool, True),
        "quiet": ([one for one in pool if not one.is_loaded], False),
        "loaded": ([one for one in pool if one.is_loaded], False),
    }
    results = {
        name: study(part, arguments.trials, drift=drift)
        for name, (part, drift) in parts.items()
        if len(part) > GATE.max_pairs
    }
    record = {
        "sittings": len(pool),
        "trials": arguments.trials,
        "gate": stage.plain(GATE),
        "machine": stage.plain(machine.describe()),
        "foreign_cores": float(np.mean([one.foreign_cores for one in pool])),
        "results": results,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(to_markdown(record))


def read_pool(path: Path) -> list[Sitting]:
    """The sittings of a pool in the order of their recording."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    slower = 1 + PERCENT / 100
    return [
        Sitting(
            {
                **entry["arms"],
                _EXACT: [[slower * call for call in block] for block in entry["arms"]["A2"]],
            },
            entry["is_loaded"],
            entry["foreign_cores"] or 0.0,
        )
        for entry in entries
    ]


def study(pool: Sequence[Sitting], trials: int, *, drift: bool) -> dict[str, Any]:
    """Shares of each verdict over trials, for the gate and the two rivals."""
    random = np.random.default_rng(_SEED)
    starts = random.integers(0, len(pool), trials)
    ramps = random.uniform(0.05, 0.08, trials) if drift else np.zeros(trials)
    found: dict[str, dict[str, Any]] = {}
    for kind, second in _KINDS.items():
        gate: Counter[str] = Counter()
        alarms: Counter[str] = Counter()
        for start, ramp in zip(starts, ramps, strict=True):
            window = [pool[(start + i) % len(pool)] for i in range(GATE.max_pairs)]
            result, logs = sequential(_figure(window, second, ramp), GATE)
            gate[result.verdict.value] += 1
            # the rivals measure as their users do: all runs of A, then all of B, as many as we did
            earlier, later = window[: len(logs) // 2], window[len(logs) // 2 : len(logs)]
            a = _calls(earlier, "A")
            b = _calls(later, second) * (1 + ramp)
            alarms["threshold"] += bool(np.median(b) > (1 + GATE.delta) * np.median(a))
            alarms["mann-whitney"] += mann_whitney(a, b) < 0.05 and bool(
                np.median(b) > np.median(a)
            )
        ratios = [log_ratio(_medians(one.arms["A"]), _medians(one.arms[second])) for one in pool]
        found[kind] = {
            "median_ratio": float(np.exp(np.median(ratios))),
            "gate": {verdict.value: _share(gate[verdict.value], trials) for verdict in Verdict},
            **{name: _share(alarms[name], trials) for name in ("threshold", "mann-whitney")},
        }
    return found


def _figure(window: Sequence[Sitting], second: str, ramp: float) -> Callable[[int], float]:
    """The log ratio of a pair, its blocks slowed by where in the trial they were measured.

    Arms take turns block by block and change who goes first, A B B A, in each round and each pair.
    """

    def figure(index: int) -> float:
        arms = window[index].arms
        medians = {"A": _medians(arms["A"]), second: _medians(arms[second])}
        rounds = len(medians["A"])
        for turn in range(rounds):
            order = ("A", second) if (index + turn) % 2 == 0 else (second, "A")
            for slot, arm in enumerate(order):
                place = (index + (turn + slot / 2) / rounds) / len(window)
                medians[arm][turn] *= 1 + ramp * place
        return log_ratio(medians["A"], medians[second])

    return figure


def _medians(blocks: Sequence[Sequence[float]]) -> list[float]:
    return [float(np.median(block)) for block in blocks]


def _calls(window: Sequence[Sitting], arm: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([call for one in window for block in one.arms[arm] for call in block])


def mann_whitney(
    a: np.ndarray[Any, np.dtype[np.float64]], b: np.ndarray[Any, np.dtype[np.float64]]
) -> float:
    """Two-sided p by the normal approximation; call times hardly tie.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18 (1947) 50-60.
    """
    order = np.argsort(np.concatenate([a, b]), kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    n, m = len(a), len(b)
    u = ranks[:n].sum() - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


def _share(count: int, total: int) -> dict[str, float]:
    found = wilson(int(count), total)
    return {"value": found.value, "lower": found.lower, "upper": found.upper}


def to_markdown(record: dict[str, Any]) -> str:
    """The table for the README."""
    heads = ("pool", "false alarms", "power at +5 %", "of slowed", "undecided: same, +5 %")
    rivals = ("threshold: false, power", "Mann-Whitney: false, power")
    lines = [f"| {' | '.join((*heads, *rivals))} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, found in record["results"].items():
        same, exact, slowed = (found[kind] for kind in _KINDS)
        slowed_by = f"{100 * (slowed['median_ratio'] - 1):+.1f} %"
        others = [
            f"{_percent(same[rival])}, {_percent(exact[rival])}"
            for rival in ("threshold", "mann-whitney")
        ]
        cells = [
            _whole(same["gate"]["fail"]),
            _whole(exact["gate"]["fail"]),
            f"{_percent(slowed['gate']['fail'])} at {slowed_by}",
            ", ".join(_percent(one["gate"]["inconclusive"]) for one in (same, exact)),
            *others,
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f} %"


def _whole(share: dict[str, float]) -> str:
    return f"{_percent(share)} ({100 * share['lower']:.1f} to {100 * share['upper']:.1f})"


if __name__ == "__main__":
    main()
