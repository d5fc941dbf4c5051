"""The verdict of ``compare``: whether engine B is slower than engine A, by pairs of processes.

The two processes of a pair take turns block by block (``bench``). The log ratio of a pair is the
median over the turns of log(block median of B / block median of A), since a disturbance of some
turns hardly changes the median, and a drift affects both processes. Calls of one process are not
independent, so the interval is computed over the pairs.

The verdict depends on the whole interval of the ratio: ``pass`` if its upper bound is below
1 + delta, ``improved`` if the upper bound is below 1 - delta, ``fail`` if its lower bound is above
1 + delta; delta is the largest slow-down allowed, as a share. Otherwise pairs are added up to a
maximum, at which the verdict is ``inconclusive``. The verdict is ``invalid`` if the measurements
are not comparable.

Source: docs/latency.md, "Simulation" and "Gate"; Student, Biometrika 6 (1908) 1-25;
Efron, Annals of Statistics 7 (1979) 1-26.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_inception.latency.bench import Protocol, Run, run_together
from edge_inception.latency.measure import Contender
from edge_inception.latency.record import BASELINE, CANDIDATE, ResultRecord, Verdict
from edge_inception.metrics.intervals import Estimate, geometric_mean, student_quantile
from edge_inception.spec import Progress, no_progress

_RESAMPLES = 10_000
_SEED = 0
_MIN_BOOTSTRAP_PAIRS = 9  # number of pairs; Student's t serves up to 8: docs/latency.md, "Gate"

EXIT_CODES: Mapping[Verdict, int] = {
    Verdict.PASS: 0,
    Verdict.IMPROVED: 0,
    Verdict.FAIL: 6,
    Verdict.INCONCLUSIVE: 8,
    Verdict.INVALID: 8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Limit of a comparison: ``delta`` is the largest slow-down allowed, as a share.

    ``pairs`` are measured first, then ``step`` more at a time up to ``max_pairs``.
    """

    delta: float = 0.03
    pairs: int = 10
    max_pairs: int = 50
    step: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Verdict with the ratio of B over A; ``ratio`` is None if nothing could be compared."""

    verdict: Verdict
    ratio: Estimate | None
    delta: float
    num_pairs: int
    reasons: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Ratio, interval, limit and reasons in one sentence, without the verdict."""
        if self.ratio is None:
            return "; ".join(self.reasons)
        percent = 100 * (self.ratio.value - 1)
        low, high = 100 * (self.ratio.lower - 1), 100 * (self.ratio.upper - 1)
        direction = "slower" if percent >= 0 else "faster"
        return (
            f"B is {abs(percent):.1f} % {direction} than A "
            f"(95 % interval {low:+.1f} % to {high:+.1f} %, "
            f"{self.num_pairs} pairs), limit {100 * self.delta:+g} %"
            + "".join(f"; {reason}" for reason in self.reasons)
        )


def log_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Log ratio of one pair: median over the turns of log(B's block median / A's block median).

    Args:
        a: Medians of A's blocks in ms, in order.
        b: Medians of B's blocks, as many.

    Raises:
        ValueError: The numbers of blocks differ, or are 0.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} blocks of A and {len(b)} of B are no turns")
    return float(np.median(np.log(np.array(b) / np.array(a))))


def ratio_interval(logs: Sequence[float]) -> Estimate:
    """Ratio of B over A with its two-sided 95 % interval, from the log ratios of the pairs.

    Up to 8 pairs give the mean of the log ratios with Student's t interval; 9 or more pairs give
    their median with a bootstrap interval, from 10,000 resamples with a fixed seed.

    Raises:
        ValueError: There are fewer than two pairs.
    """
    if len(logs) < 2:  # noqa: PLR2004 -- a variance
        raise ValueError(f"need two or more pairs, got {len(logs)}")
    values = np.asarray(logs, dtype=np.float64)
    if len(values) < _MIN_BOOTSTRAP_PAIRS:
        return geometric_mean(logs)
    random = np.random.default_rng(_SEED)
    resamples = values[random.integers(0, len(values), (_RESAMPLES, len(values)))]
    low, high = np.quantile(np.median(resamples, axis=1), (0.025, 0.975))
    return _estimate(float(np.median(values)), float(low), float(high), "paired-bootstrap-log-95")


def _estimate(centre: float, lower: float, upper: float, method: str) -> Estimate:
    return Estimate(
        value=math.exp(centre), lower=math.exp(lower), upper=math.exp(upper), method=method
    )


def judge(logs: Sequence[float], delta: float) -> Result:
    """Verdict on pairs.

    Args:
        logs: Log ratios of two or more pairs, from ``log_ratio``.
        delta: Largest slow-down allowed, a share above 0.

    Raises:
        ValueError: There are fewer than two pairs, or delta is not above 0.
    """
    if delta <= 0:
        raise ValueError(f"delta must be above 0, got {delta}")
    return _decide(ratio_interval(logs), delta, len(logs))


def _decide(ratio: Estimate, delta: float, count: int) -> Result:
    if ratio.lower > 1 + delta:
        verdict = Verdict.FAIL
    elif ratio.upper < 1 - delta:
        verdict = Verdict.IMPROVED
    elif ratio.upper < 1 + delta:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.INCONCLUSIVE
    return Result(verdict=verdict, ratio=ratio, delta=delta, num_pairs=count, reasons=())


def sequential(measure_pair: Callable[[int], float], gate: Gate) -> tuple[Result, list[float]]:
    """Result and log ratios; pairs are measured until the verdict is conclusive.

    Args:
        measure_pair: Function that measures pair number i and returns its log ratio.
        gate: Limit and numbers of pairs.
    """
    logs: list[float] = []
    wanted = gate.pairs
    while True:
        logs += [measure_pair(index) for index in range(len(logs), wanted)]
        result = judge(logs, gate.delta)
        if result.verdict is not Verdict.INCONCLUSIVE or wanted >= gate.max_pairs:
            return result, logs
        wanted = min(wanted + gate.step, gate.max_pairs)


def compare(
    a: Contender,
    b: Contender,
    images: Path,
    protocol: Protocol,
    gate: Gate,
    *,
    progress: Progress = no_progress,
) -> tuple[Result, list[Run]]:
    """Result and runs of a comparison; pairs are measured until the verdict is conclusive.

    Raises:
        InputError: An engine cannot be opened or refuses the images.
        Inconclusive: A process died, hung, or used another number of threads.
    """
    runs: list[Run] = []

    def measure_pair(index: int) -> float:
        sides = {BASELINE: a, CANDIDATE: b} if index % 2 == 0 else {CANDIDATE: b, BASELINE: a}
        by_side = {run.side: run for run in run_together(sides, images, protocol, pair=index)}
        first, second = by_side[BASELINE], by_side[CANDIDATE]
        runs.extend((first, second))
        progress(index + 1, max(gate.pairs, index + 1))
        return log_ratio(first.medians, second.medians)

    result, _ = sequential(measure_pair, gate)
    throttled = {run.pair for run in runs if run.telemetry.throttled}
    if throttled:
        reason = f"the machine throttled in {len(throttled)} of {result.num_pairs} pairs"
        result = replace(result, verdict=Verdict.INVALID, reasons=(reason,))
    return result, runs


def compare_with_stored(stored: Sequence[float], fresh: Sequence[float], delta: float) -> Result:
    """Verdict on today's runs against stored runs; it is weaker than a verdict on pairs.

    The interval is Welch's, on the logarithms of the runs' medians. A change of the machine between
    the two days is part of the ratio, and no statistic can remove it.

    Args:
        stored: Medians of the baseline's runs in ms, two or more.
        fresh: Medians of today's runs in ms, two or more.
        delta: Largest slow-down allowed, a share.

    Raises:
        ValueError: ``stored`` or ``fresh`` has fewer than two medians.
    """
    if min(len(stored), len(fresh)) < 2:  # noqa: PLR2004 -- a variance
        raise ValueError(f"need two or more runs of each, got {len(stored)} and {len(fresh)}")
    first, second = np.log(np.asarray(stored)), np.log(np.asarray(fresh))
    errors = first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)
    total = float(sum(errors)) or float(np.finfo(float).tiny)
    parts = errors[0] ** 2 / (len(first) - 1) + errors[1] ** 2 / (len(second) - 1)
    freedom = max(1, int(total * total / (float(parts) or float(np.finfo(float).tiny))))
    centre = float(second.mean() - first.mean())
    half = student_quantile(min(freedom, len(first) + len(second) - 2)) * math.sqrt(total)
    ratio = _estimate(centre, centre - half, centre + half, "welch-t-log-95")
    return _decide(ratio, delta, min(len(stored), len(fresh)))


def result_record(result: Result) -> ResultRecord:
    """The result as the ``result`` of a record."""
    ratio = result.ratio
    return ResultRecord(
        ratio=ratio.value if ratio else None,
        ci95=(ratio.lower, ratio.upper) if ratio else None,
        method=ratio.method if ratio else None,
        delta=result.delta,
        k=result.num_pairs,
        verdict=result.verdict,
        reasons=result.reasons,
        sentence=result.sentence,
    )


def pairs_needed(logs: Sequence[float], gate: Gate, *, true_change: float = 0.05) -> int:
    """Number of pairs with which a true slow-down of ``true_change`` fails 9 times in 10.

    The normal approximation gives ((1.96 + 1.28) sd / distance) squared, at least 3. sd is the
    standard deviation of A/A pairs (an engine against itself), distance is that of ``true_change``
    to the limit, both of logarithms; 1.96 stands for 95 %, 1.28 for 9 times in 10.

    Args:
        logs: Log ratios of two or more A/A pairs.
        gate: Gate whose ``delta`` is below ``true_change``.
        true_change: True slow-down, as a share.

    Raises:
        ValueError: ``true_change`` is within the gate's limit.
    """
    distance = math.log(1 + true_change) - math.log(1 + gate.delta)
    if distance <= 0:
        raise ValueError(f"a change of {true_change} is within the limit {gate.delta}")
    spread = float(np.std(np.asarray(logs), ddof=1))
    return max(3, math.ceil(((1.96 + 1.2816) * spread / distance) ** 2))
