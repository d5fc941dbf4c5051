"""Choice between INT8 and float for the engine of a target that ships.

The engine with the better verdict is chosen: PASSED, then INCONCLUSIVE, then FAILED. Speed decides
between engines with the same verdict. If the engines were executed, INT8 is chosen if the whole
interval of its speed-up over the fastest float engine is above 1. If none was executed, the verdict
uses the accuracy of the same graph on another target, or that of a search, and the compiled plans
are compared by their number of kernels and the megabytes of activations that they move:
TensorRT-RTX fuses fewer layers in INT8 than in FP16, and a plan with more kernels or more memory
traffic is not expected to be faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from edge_inception.latency.measure import Latency, ratio
from edge_inception.sidecar import EngineDetails, PlanDetails
from edge_inception.validate.report_record import Choice, Row, Status, Verdict

_ORDER = (Status.PASSED, Status.INCONCLUSIVE, Status.FAILED)
_MEGA = 1e6
_INT8 = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine that may ship, and the verdict on it.

    ``details`` are those of its sidecar. ``executed_on`` is the target whose engine of the same
    graph was executed for the verdict instead; empty if none was.
    """

    row: Row
    verdict: Verdict
    details: EngineDetails
    executed_on: str = ""


class _Plan(NamedTuple):
    """Figures of a compiled plan that was not executed; activations and weights in MB per run."""

    kernels: int
    activations: float
    weights: float

    def __str__(self) -> str:
        return (
            f"{self.kernels} kernels that move {self.activations:.0f} MB of activations, "
            f"{self.weights:.1f} MB of weights"
        )


def choose(target: str, candidates: Sequence[Candidate]) -> Choice:
    """The engine that ships for a target, and the reason.

    ``candidates`` are one or more float engines and one int8 engine, all executed or none.

    Raises:
        ValueError: There is no float engine, or not exactly one int8 engine.
    """
    floats = [one for one in candidates if one.row.precision != _INT8]
    int8 = [one for one in candidates if one.row.precision == _INT8]
    if not floats or len(int8) != 1:
        raise ValueError(f"{target}: nothing to choose between")
    is_timed = all(one.row.latency for one in candidates)
    chosen = (_choose_by_latency if is_timed else _choose_by_plan)(target, floats, int8[0])
    failed = (one.row.name for one in candidates if one.verdict.status is Status.FAILED)
    return replace(chosen, failed=tuple(failed))


def _choose_by_latency(target: str, floats: Sequence[Candidate], int8: Candidate) -> Choice:
    best = min(floats, key=lambda one: (_rank(one), _latency(one).p50_ms))
    if _rank(int8) != _rank(best):
        return _choose_by_verdict(target, int8, best)
    faster = ratio(_latency(best), _latency(int8))
    figures = f"{faster.value:.2f}x (95 % interval {faster.lower:.2f} to {faster.upper:.2f})"
    if faster.lower > 1.0:
        return _choice(target, int8, f"{figures} as fast as {_title(best)}")
    if faster.upper < 1.0:
        return _choice(target, best, f"INT8 is slower here, {figures} as fast")
    return _choice(target, best, f"INT8 is not seen to be faster here, {figures} as fast")


def _choose_by_verdict(target: str, one: Candidate, other: Candidate) -> Choice:
    """The choice of the engine with the better verdict; ``other`` if both have the same."""
    winner, loser = (one, other) if _rank(one) < _rank(other) else (other, one)
    where = f" (the same graph, executed on {loser.executed_on})" if loser.executed_on else ""
    return _choice(target, winner, f"{_title(loser)} is {loser.verdict.line}{where}")


def _choose_by_plan(target: str, floats: Sequence[Candidate], int8: Candidate) -> Choice:
    best = min(floats, key=_rank)
    # No later step judges the engine, so an int8 engine that failed is not chosen for its plan.
    if int8.verdict.status is Status.FAILED or _rank(int8) != _rank(best):
        return _choose_by_verdict(target, int8, best)
    int8_plan, float_plan = _plan(int8.details), _plan(best.details)
    if int8_plan is None or float_plan is None:
        return _choice(target, best, "not executed here, and the plans tell nothing of INT8")
    evidence = f"not executed here; INT8: {int8_plan}; {_title(best)}: {float_plan}"
    if int8_plan.kernels <= float_plan.kernels and int8_plan.activations <= float_plan.activations:
        return _choice(target, int8, evidence)
    return _choice(target, best, f"{evidence}; measure both on the GPU if size matters more")


def _choice(target: str, winner: Candidate, sentence: str) -> Choice:
    return Choice(target=target, row=winner.row.name, sentence=f"{_title(winner)}: {sentence}")


def _title(candidate: Candidate) -> str:
    """Precision of a candidate for sentences, such as ``INT8`` or ``FP32 at bf16``."""
    row = candidate.row
    floats = row.float_precision
    return row.precision.upper() + (f" at {floats}" if floats not in {"", "f32"} else "")


def _rank(candidate: Candidate) -> int:
    """Rank of a candidate by its verdict; 0 is the best, PASSED."""
    return _ORDER.index(candidate.verdict.status)


def _latency(candidate: Candidate) -> Latency:
    assert candidate.row.latency is not None, "only timed candidates are compared by latency"
    return candidate.row.latency


def _plan(details: EngineDetails) -> _Plan | None:
    """Figures that the library reported when it compiled the plan; None if it reported none."""
    if not isinstance(details, PlanDetails) or not details.num_kernels:
        return None
    return _Plan(
        kernels=details.num_kernels,
        activations=details.activation_bytes / _MEGA,
        weights=details.total_weight_bytes / _MEGA,
    )
