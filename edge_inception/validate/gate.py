"""The verdict on engines: which gates are met, missed, or cannot be decided by the data.

A gate is PASSED if the whole interval of the figure is within the limit, FAILED if the whole
interval is beyond it, and INCONCLUSIVE otherwise, since missing evidence of a loss does not show
that there is no loss. The verdict is FAILED if any gate failed, else INCONCLUSIVE if any gate is
inconclusive, else PASSED. Without gates the verdict is INCONCLUSIVE, "no gate set".

One gate is there unasked, beside the others: an executed INT8 engine that is slower beyond doubt
than the same library at f32 has FAILED. An undecided speed-up passes this gate, so that a busy
machine fails no build.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edge_inception.errors import counted, listed
from edge_inception.metrics.intervals import Estimate
from edge_inception.quant.search_record import SearchOutcome
from edge_inception.spec import Gates
from edge_inception.validate.report_record import Accuracy, Check, Status, Verdict

_AS_FAST = 1.0


def judge(
    gates: Gates,
    *,
    accuracy: Accuracy | None,
    speedup: Estimate | None,
    search: SearchOutcome | None = None,
    is_speed_judged: bool = False,
) -> Verdict:
    """Verdict on one engine; its accuracy and speed-up are None if they were not measured.

    The budget of a ``search`` for layer groups to leave in float is a gate as well. If
    ``is_speed_judged``, an engine that is slower beyond doubt fails also without ``min_speedup``.
    """
    checks: list[Check] = []
    if gates.max_drop_pp is not None:
        checks.append(_check_drop(gates.max_drop_pp, accuracy))
    if gates.min_agreement is not None:
        checks.append(_check_agreement(gates.min_agreement, accuracy))
    if gates.min_sqnr_db is not None:
        checks.append(_check_sqnr(gates.min_sqnr_db, accuracy))
    if gates.min_speedup:
        checks.append(_check_speedup(gates.min_speedup, speedup))
    if search:
        checks.append(_check_search(search))
    if checks and is_speed_judged and speedup and gates.min_speedup is None:
        checks.append(_check_not_slower(speedup))
    return _combine(tuple(checks))


def search_sentence(search: SearchOutcome) -> str:
    """Sentence on the groups that a search keeps in float and the drop that remains with them."""
    chosen = search.chosen
    kept = f"{counted(len(chosen.keep), 'group')} in float ({listed(chosen.keep)})"
    relation = "within" if search.is_met else f"{search.why}; the closest graph is over"
    return (
        f"{kept if chosen.keep else 'nothing in float'}: {search.metric} "
        f"{chosen.drop_pp:.2f} pp on {search.num_images} calibration images, "
        f"{relation} the {search.allowed_pp:.2f} pp budget"
    )


def joint(verdicts: Mapping[str, Verdict]) -> Verdict:
    """Verdict on several engines together, from a verdict for each name; all must pass.

    With two or more engines, the sentence of each check starts with the engine's name.
    """
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    return _combine(
        tuple(
            msgspec.structs.replace(check, sentence=f"{name}: {check.sentence}")
            for name, verdict in verdicts.items()
            for check in verdict.checks
        )
    )


def _combine(checks: tuple[Check, ...]) -> Verdict:
    if not checks:
        return Verdict(status=Status.INCONCLUSIVE, checks=(), sentence="no gate set")
    statuses = {check.status for check in checks}
    if Status.FAILED in statuses:
        status = Status.FAILED
    elif Status.INCONCLUSIVE in statuses:
        status = Status.INCONCLUSIVE
    else:
        status = Status.PASSED
    reasons = [check.sentence for check in checks if check.status is status]
    if status is Status.PASSED and len(checks) > 1:
        names = ", ".join(dict.fromkeys(check.name for check in checks))
        reasons = [f"all {len(checks)} gates met: {names}"]
    return Verdict(status=status, checks=checks, sentence="; ".join(reasons))


def _check_drop(limit_pp: float, accuracy: Accuracy | None) -> Check:
    name = "max_drop_pp"
    if accuracy is None:
        return _not_measured(name, limit_pp, "top-1 drop not measured: the engine was not executed")
    if accuracy.labelled is None:
        return _not_measured(name, limit_pp, "top-1 drop not measured: the images have no labels")
    drop = accuracy.labelled.drop_pp
    if drop.upper <= limit_pp:
        status, relation = Status.PASSED, "within"
    elif drop.lower > limit_pp:
        status, relation = Status.FAILED, "over"
    else:
        status, relation = Status.INCONCLUSIVE, "too uncertain for"
    sentence = (
        f"top-1 drop {drop.value:.2f} pp (95 % bounds {drop.lower:.2f} to {drop.upper:.2f}), "
        f"{relation} the {limit_pp:g} pp gate"
    )
    if status is Status.INCONCLUSIVE:
        sentence += f" on {accuracy.labelled.num_images} labelled images"
    return _check(name, limit_pp, drop, status, sentence)


def _check_search(search: SearchOutcome) -> Check:
    """Check of the search's budget, without bounds: the groups were chosen on the same images."""
    status = Status.PASSED if search.is_met else Status.FAILED
    drop_pp = search.chosen.drop_pp
    return _check("search", search.allowed_pp, drop_pp, status, search_sentence(search))


def _check_agreement(limit: float, accuracy: Accuracy | None) -> Check:
    name = "min_agreement"
    if accuracy is None:
        return _not_measured(name, limit, "agreement not measured: the engine was not executed")
    agreement = accuracy.agreement
    status, relation = _check_minimum(agreement, limit)
    sentence = (
        f"agreement {100 * agreement.value:.2f} % (95 % bounds {100 * agreement.lower:.2f} to "
        f"{100 * agreement.upper:.2f}), {relation} the {100 * limit:g} % gate"
    )
    if status is Status.INCONCLUSIVE:
        sentence += f" on {accuracy.num_images} images"
    return _check(name, limit, agreement, status, sentence)


def _check_sqnr(limit_db: float, accuracy: Accuracy | None) -> Check:
    name = "min_sqnr_db"
    if accuracy is None:
        return _not_measured(name, limit_db, "SQNR not measured: the engine was not executed")
    got = accuracy.sqnr_db
    is_met = got >= limit_db
    status, relation = (Status.PASSED, "meets") if is_met else (Status.FAILED, "below")
    sentence = f"SQNR {got:.1f} dB, {relation} the {limit_db:g} dB gate"
    return _check(name, limit_db, got, status, sentence)


def _check_speedup(limit: float, speedup: Estimate | None) -> Check:
    name = "min_speedup"
    if speedup is None:
        return _not_measured(name, limit, "speed-up not measured")
    status, relation = _check_minimum(speedup, limit)
    sentence = f"{_describe_speedup(speedup)}, {relation} the {limit:g}x gate"
    return _check(name, limit, speedup, status, sentence)


def _check_not_slower(speedup: Estimate) -> Check:
    """Check of the gate that is there unasked, which an undecided speed-up meets."""
    status, sentence = Status.PASSED, f"{_describe_speedup(speedup)}, not certainly slower than f32"
    if speedup.upper < _AS_FAST:
        status = Status.FAILED
        sentence = (
            f"{_describe_speedup(speedup)}, INT8 is slower than f32 here: --precision best ships "
            "the faster engine, --min-speedup 0 allows a slower one"
        )
    return _check("min_speedup", _AS_FAST, speedup, status, sentence)


def _describe_speedup(speedup: Estimate) -> str:
    return (
        f"speed-up {speedup.value:.2f}x (95 % interval {speedup.lower:.2f} to {speedup.upper:.2f})"
    )


def _check_minimum(got: Estimate, limit: float) -> tuple[Status, str]:
    if got.lower >= limit:
        return Status.PASSED, "meets"
    if got.upper < limit:
        return Status.FAILED, "below"
    return Status.INCONCLUSIVE, "too uncertain for"


def _not_measured(name: str, wanted: float, reason: str) -> Check:
    return _check(name, wanted, None, Status.INCONCLUSIVE, reason)


def _check(
    name: str, wanted: float, got: Estimate | float | None, status: Status, sentence: str
) -> Check:
    value, lower, upper = (
        (got.value, got.lower, got.upper) if isinstance(got, Estimate) else (got, None, None)
    )
    return Check(
        name=name,
        wanted=wanted,
        got=value,
        lower=lower,
        upper=upper,
        status=status,
        sentence=sentence,
    )
