"""The search for the fewest groups that an int8 graph must keep in float to meet its budget.

A group is the tensors that share a scale, with the layers that read them through their Q/DQ pairs.
Plain int8 keeps no group in float. Groups are first ranked by an estimate that runs no graph
(``sensitivity``). Then the harm of each group in the worst quarter is measured with this group
alone in int8, on the images that suffer most from plain int8: by the task metric, and between
groups equal in this by the error of the logits. Then the worst 1, 2, 3, 4, 6, 8, ... groups are
kept in float until the budget is met; groups that were not measured come last. Finally groups that
need not stay float become int8 again, the least harmful first.

No network runs in this module: the caller scores sets of groups. Every score is written to a
journal before it is used, so a search that was killed continues where it was, to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge_inception.errors import counted
from edge_inception.quant.search_record import RankedGroup, ScoredSet
from edge_inception.search.journal import Figures, ImageSubset, Journal
from edge_inception.spec import Budget, DropType

MIN_CANDIDATES = 8
_SHARE_OF_CANDIDATES = 4  # one group of 4 is measured
_SHARE_OF_TAIL = 10  # one image of 10 counts for ``tail``
_SHARE_OF_WORST, _MAX_WORST, _MIN_WORST = 4, 64, 8  # one image of 4, 8 to 64 images


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group, with the name of the tensor whose scale its tensors share.

    ``layers`` names its readers in graph order. ``expected_noise`` is an estimate that needs no run
    of a graph: the expected noise to signal of the noisiest reader's output. ``mac_share`` is the
    share of the network's multiply-adds, 0..1, that the readers of a float group compute in float.
    ``has_weights`` tells whether a reader has weights that become int8.
    """

    name: str
    layers: tuple[str, ...]
    expected_noise: float
    mac_share: float
    has_weights: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDifferences:
    """Differences between a typed graph and FP32, image by image; arrays [N], N >= 1.

    ``noise`` is the power of the error of the centred logits, ``signal`` the power of those of
    FP32. ``change`` is 1 where only the typed graph is right, -1 where only FP32 is right, else 0;
    for unlabelled images it is -1 where the two disagree, else 0.
    """

    noise: NDArray[np.float64]
    signal: NDArray[np.float64]
    change: NDArray[np.int64]


Score = Callable[[frozenset[str], tuple[int, ...] | None], ImageDifferences]
"""A function that scores the graph with these groups in float, on the images with these indices,
or on all images if the indices are None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a search; ``chosen`` meets the budget, or is the scored set closest to it.

    ``allowed_pp`` is the budget in percentage points; ``why`` explains the choice to users.
    """

    ranking: tuple[RankedGroup, ...]
    points: tuple[ScoredSet, ...]
    chosen: ScoredSet
    is_met: bool
    allowed_pp: float
    why: str

    @property
    def front(self) -> tuple[ScoredSet, ...]:
        """The Pareto front: the sets more accurate than every set with fewer MACs in float."""
        front: list[ScoredSet] = []
        order = sorted(self.points, key=lambda p: (p.float_share_of_macs, len(p.keep), *_loss(p)))
        for point in order:
            if not front or _loss(point) < _loss(front[-1]):
                front.append(point)
        return tuple(front)


def allowed_drop(budget: Budget, top1: float) -> float:
    """The allowed drop in percentage points if FP32 has the accuracy ``top1`` (0..1)."""
    is_relative = budget.drop_type is DropType.RELATIVE
    return budget.max_drop_pp * (top1 if is_relative else 1.0)


def search(
    groups: Sequence[Group],
    score: Score,
    *,
    budget: Budget,
    top1: float,
    journal: Journal,
) -> Result:
    """The scored set with the fewest groups in float that meets the budget, or the closest to it.

    Args:
        groups: All groups of the plain int8 graph, in graph order.
        score: Called for sets of groups whose scores are not in ``journal``.
        budget: The allowed loss of accuracy.
        top1: Share of images, 0..1, that FP32 classifies correctly; 1 for unlabelled images.
        journal: The scores that are already known; new scores are added to it.
    """
    table = ScoreTable(groups, score, journal)
    allowed = allowed_drop(budget, top1)
    is_met = partial(_is_met, allowed_pp=allowed, min_sqnr_db=budget.min_sqnr_db)

    def result(ranking: Sequence[RankedGroup], chosen: ScoredSet, why: str) -> Result:
        return Result(
            ranking=tuple(ranking),
            points=tuple(table.known),
            chosen=chosen,
            is_met=is_met(chosen),
            allowed_pp=allowed,
            why=why,
        )

    plain = table.score(frozenset())
    if is_met(plain):
        return result(rank_by_estimate(groups), plain, "plain int8 meets the budget")
    order = rank_by_harm(table, candidates(groups))
    weighted = [one.group for one in order if table.groups[one.group].has_weights]
    # the least harmful group with weights stays int8; else no layer would be int8
    names = [one.group for one in order if one.group not in weighted[-1:]]
    most = len(names)
    if budget.max_groups:
        most = min(most, budget.max_groups)
    for count in sizes(most):
        keep = frozenset(names[:count])
        if is_met(table.score(keep)):
            _score_smaller_sets(table, names[:count], is_met)
            met = [point for point in table.known if is_met(point)]
            best = min(met, key=lambda p: (len(p.keep), p.float_share_of_macs, *_loss(p)))
            return result(order, best, _why(best, len(table.known)))
    closest = min(table.known, key=lambda p: (*_loss(p), len(p.keep)))
    num_tried = counted(len(table.known), "scored set")
    why = f"none of {num_tried}, with up to {counted(most, 'group')} in float, meets the budget"
    return result(order, closest, why)


class ScoreTable:
    """Scores of sets of groups: read from the journal, or computed by ``score`` and journaled."""

    def __init__(self, groups: Sequence[Group], score: Score, journal: Journal) -> None:
        self.groups = {group.name: group for group in groups}
        self._score, self._journal = score, journal
        self._scored: dict[frozenset[str], ScoredSet] = {}

    @property
    def known(self) -> list[ScoredSet]:
        """The sets scored on all images, in the order of their scoring."""
        return list(self._scored.values())

    def score(self, keep: frozenset[str]) -> ScoredSet:
        """The scores of the graph that keeps these groups in float, on all images."""
        if keep not in self._scored:
            figures = self._figures(keep, None)
            kept = [group for name, group in self.groups.items() if name in keep]
            self._scored[keep] = ScoredSet(
                keep=tuple(group.name for group in kept),
                drop_pp=figures.drop_pp,
                noise_to_signal=figures.noise,
                worst_tenth_noise_to_signal=figures.tail,
                float_share_of_macs=sum(group.mac_share for group in kept),
            )
        return self._scored[keep]

    def measure_harm(self, group: Group) -> RankedGroup:
        """The group with its harm: its loss alone in int8, on the images plain int8 affects most.

        A group without weights cannot be int8 alone: its harm is the excess of plain int8 over the
        graph with only this group in float.
        """
        worst = self._figures(frozenset(), None).worst
        if group.has_weights:
            figures = self._figures(frozenset(self.groups) - {group.name}, worst)
            return _ranked(group, figures.noise, figures.drop_pp)
        plain = self._figures(frozenset(), worst)
        without = self._figures(frozenset({group.name}), worst)
        harm = max(plain.noise - without.noise, 0.0)
        return _ranked(group, harm, plain.drop_pp - without.drop_pp)

    def _figures(self, keep: frozenset[str], rows: tuple[int, ...] | None) -> Figures:
        images: ImageSubset = "all" if rows is None else "worst"
        figures = self._journal.known(keep, images)
        if figures is None:
            figures = _summarize(self._score(keep, rows))
            self._journal.add(keep, images, figures)
        return figures


def candidates(groups: Sequence[Group]) -> list[Group]:
    """The groups to measure: those with weights that are expected to be worst, then some without.

    Of the groups with weights as many as a quarter of all groups are measured, but at least eight.
    The worst eight without weights, which only pools or Adds read, follow: no multiply-add becomes
    float with them, and the estimate does not know which of their channels matter.
    """
    most = max(MIN_CANDIDATES, math.ceil(len(groups) / _SHARE_OF_CANDIDATES))
    order = _noisiest_first(groups)
    weighted = [group for group in order if group.has_weights][:most]
    return [*weighted, *[group for group in order if not group.has_weights][:MIN_CANDIDATES]]


def _noisiest_first(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: -group.expected_noise)


def rank_by_estimate(groups: Iterable[Group]) -> list[RankedGroup]:
    """The groups by their expected noise, the most harmful first; equal ones keep their order."""
    return [_ranked(group) for group in _noisiest_first(groups)]


def rank_by_harm(table: ScoreTable, chosen: Sequence[Group]) -> list[RankedGroup]:
    """All groups: the ``chosen`` by their measured harm, then the others by the estimate."""
    scored = [table.measure_harm(group) for group in chosen]
    # an image that int8 gets right by luck does not make a group harmless
    scored.sort(key=lambda one: (max(one.lost_pp or 0.0, 0.0), one.harm or 0.0), reverse=True)
    return [*scored, *rank_by_estimate(g for g in table.groups.values() if g not in chosen)]


def _ranked(group: Group, harm: float | None = None, lost_pp: float | None = None) -> RankedGroup:
    return RankedGroup(
        group=group.name,
        layers=group.layers,
        free_noise_to_signal=group.expected_noise,
        harm=harm,
        lost_pp=lost_pp,
        float_share_of_macs=group.mac_share,
    )


def _is_met(point: ScoredSet, *, allowed_pp: float, min_sqnr_db: float | None) -> bool:
    """Whether a scored set is within the budget."""
    noise = math.inf if min_sqnr_db is None else 10.0 ** (-min_sqnr_db / 10.0)
    return point.drop_pp <= allowed_pp and point.noise_to_signal <= noise


def _score_smaller_sets(
    table: ScoreTable, names: Sequence[str], is_met: Callable[[ScoredSet], bool]
) -> None:
    """Leave groups out one by one, the least harmful first, as long as the budget is met."""
    keep = frozenset(names)
    for name in reversed(names):
        smaller = keep - {name}
        if smaller and is_met(table.score(smaller)):
            keep = smaller


def sizes(most: int) -> Iterator[int]:
    """The sizes 1, 2, 3, 4, 6, 8, 12, 16, ... below ``most``, and the largest, ``most`` itself."""
    size = 1
    while size < most:
        yield size
        step = 1 << max(0, size.bit_length() - 2)
        size += step
    if most:
        yield most


def _loss(point: ScoredSet) -> tuple[float, float]:
    """The loss of a scored set as a sort key: the metric, then the error of the worst logits.

    One image of two hundred moves the metric by half a percentage point, so ties are common.
    """
    return point.drop_pp, point.worst_tenth_noise_to_signal


def _summarize(differences: ImageDifferences) -> Figures:
    """The figures of a graph over all images."""
    each = differences.noise / np.maximum(differences.signal, np.finfo(np.float64).tiny)
    worst_first = np.argsort(-each, kind="stable")
    count = len(each)
    tail = worst_first[: max(1, count // _SHARE_OF_TAIL)]
    affected = min(max(count // _SHARE_OF_WORST, _MIN_WORST), _MAX_WORST)
    return Figures(
        drop_pp=float(-100.0 * differences.change.mean()) + 0.0,
        noise=float(differences.noise.sum() / max(differences.signal.sum(), np.finfo(float).tiny)),
        tail=float(each[tail].mean()),
        worst=tuple(int(index) for index in worst_first[:affected]),
    )


def _why(best: ScoredSet, num_tried: int) -> str:
    return (
        f"the fewest of {num_tried} scored sets that meet the budget: "
        f"{counted(len(best.keep), 'group')} in float, "
        f"{100 * best.float_share_of_macs:.1f} % of the multiply-adds"
    )
