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
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_inception.errors import counted
from edge_inception.search.journal import Figures, Images, Journal
from edge_inception.spec import Budget, DropType

FEWEST_CANDIDATES = 8
_SHARE_OF_CANDIDATES = 4  # one group of 4 is measured
_SHARE_OF_TAIL = 10  # one image of 10 counts for ``tail``
_SHARE_OF_WORST, _MOST_WORST, _FEWEST_WORST = 4, 64, 8  # one image of 4, 8 to 64 images


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group, with the name of the tensor whose scale its tensors share.

    ``layers`` names its readers in graph order. ``free`` is its free score, which needs no run of a
    graph: the expected noise to signal of the noisiest reader's output. ``cost`` is the share of
    the network's multiply-adds, 0..1, that the readers of a float group compute in float.
    ``has_weights`` tells whether a reader has weights that become int8.
    """

    name: str
    layers: tuple[str, ...]
    free: float
    cost: float
    has_weights: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Differences between a typed graph and FP32, image by image; arrays [N], N >= 1.

    ``noise`` is the power of the error of the centred logits, ``signal`` the power of those of
    FP32. ``change`` is 1 where only the typed graph is right, -1 where only FP32 is right, else 0;
    for unlabelled images it is -1 where the two disagree, else 0.
    """

    noise: NDArray[np.float64]
    signal: NDArray[np.float64]
    change: NDArray[np.int64]


Score = Callable[[frozenset[str], tuple[int, ...] | None], Evidence]
"""A function that scores the graph with these groups in float, on the images with these indices,
or on all images if the indices are None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One scored graph, which keeps the groups ``keep`` in float.

    ``drop_pp`` is the top-1 drop in percentage points, or on unlabelled images the disagreement
    with FP32. ``noise`` is the noise to signal of the logits, ``tail`` its mean over the tenth of
    the images that suffers most. ``cost`` is the share of multiply-adds that stays float, 0..1.
    ``worst`` has the indices of the most affected images, the worst first.
    """

    keep: tuple[str, ...]
    drop_pp: float
    noise: float
    tail: float
    cost: float
    worst: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A group and its measured harm; both figures are None if the group was not scored.

    With this group alone in int8, ``harm`` is the noise to signal of the logits of the images that
    plain int8 affects most, and ``lost_pp`` their top-1 drop in percentage points. A group without
    weights cannot be int8 alone: its figures are the excess of plain int8 over the graph with only
    this group in float.
    """

    group: Group
    harm: float | None = None
    lost_pp: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Outcome of a search; ``chosen`` meets the budget, or is the point closest to it.

    ``allowed_pp`` is the budget in percentage points; ``why`` explains the choice to users.
    """

    ranking: tuple[Ranked, ...]
    points: tuple[Point, ...]
    chosen: Point
    is_met: bool
    allowed_pp: float
    why: str

    @property
    def front(self) -> tuple[Point, ...]:
        """The Pareto front: the points more accurate than every point that costs less."""
        front: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.cost, len(p.keep), *_badness(p))):
            if not front or _badness(point) < _badness(front[-1]):
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
) -> Found:
    """The point with the fewest groups in float that meets the budget, or the closest point to it.

    Args:
        groups: All groups of the plain int8 graph, in graph order.
        score: The function that scores a set of groups.
        budget: The allowed loss of accuracy.
        top1: Share of images, 0..1, that FP32 classifies correctly; 1 for unlabelled images.
        journal: The scores that are already known; new scores are added to it.
    """
    points = Points(groups, score, journal)
    allowed = allowed_drop(budget, top1)

    def found(ranking: Sequence[Ranked], chosen: Point, why: str) -> Found:
        return Found(
            ranking=tuple(ranking),
            points=tuple(points.known),
            chosen=chosen,
            is_met=chosen.drop_pp <= allowed,
            allowed_pp=allowed,
            why=why,
        )

    plain = points.of(frozenset())
    if plain.drop_pp <= allowed:
        return found(ranked(groups), plain, "plain int8 meets the budget")
    order = confirmed(points, candidates(groups))
    weighted = [one.group.name for one in order if one.group.has_weights]
    # the least harmful group with weights stays int8; else no layer would be int8
    names = [one.group.name for one in order if one.group.name not in weighted[-1:]]
    most = len(names)
    if budget.max_groups:
        most = min(most, budget.max_groups)
    for count in sizes(most):
        keep = frozenset(names[:count])
        if points.of(keep).drop_pp <= allowed:
            _score_smaller_sets(points, names[:count], allowed)
            met = [point for point in points.known if point.drop_pp <= allowed]
            best = min(met, key=lambda p: (len(p.keep), p.cost, *_badness(p)))
            return found(order, best, _why(best, len(points.known)))
    closest = min(points.known, key=lambda p: (*_badness(p), len(p.keep)))
    num_tried = counted(len(points.known), "scored set")
    why = f"none of {num_tried}, with up to {counted(most, 'group')} in float, meets the budget"
    return found(order, closest, why)


class Points:
    """Scores of sets of groups: read from the journal, or computed by ``score`` and journaled."""

    def __init__(self, groups: Sequence[Group], score: Score, journal: Journal) -> None:
        self.groups = {group.name: group for group in groups}
        self._score, self._journal = score, journal
        self._points: dict[frozenset[str], Point] = {}

    @property
    def known(self) -> list[Point]:
        """The points scored on all images, in the order of their scoring."""
        return list(self._points.values())

    def of(self, keep: frozenset[str]) -> Point:
        """The point of the graph that keeps these groups in float, on all images."""
        if keep not in self._points:
            figures = self._figures(keep, None)
            self._points[keep] = Point(
                keep=tuple(name for name in self.groups if name in keep),
                cost=sum(self.groups[name].cost for name in self.groups if name in keep),
                drop_pp=figures.drop_pp,
                noise=figures.noise,
                tail=figures.tail,
                worst=figures.worst,
            )
        return self._points[keep]

    def alone(self, group: Group) -> Ranked:
        """The harm of this group alone in int8, on the images that plain int8 affects most."""
        worst = self.of(frozenset()).worst
        if group.has_weights:
            figures = self._figures(frozenset(self.groups) - {group.name}, worst)
            return Ranked(group=group, harm=figures.noise, lost_pp=figures.drop_pp)
        plain = self._figures(frozenset(), worst)
        without = self._figures(frozenset({group.name}), worst)
        return Ranked(
            group=group,
            harm=max(plain.noise - without.noise, 0.0),
            lost_pp=plain.drop_pp - without.drop_pp,
        )

    def _figures(self, keep: frozenset[str], rows: tuple[int, ...] | None) -> Figures:
        images: Images = "all" if rows is None else "worst"
        figures = self._journal.known(keep, images)
        if figures is None:
            figures = _figures_of(self._score(keep, rows))
            self._journal.add(keep, images, figures)
        return figures


def candidates(groups: Sequence[Group]) -> list[Group]:
    """The groups to measure: those with weights that have the worst free scores, then some without.

    Of the groups with weights as many as a quarter of all groups are measured, but at least eight.
    The worst eight without weights, which only pools or Adds read, follow: no multiply-add becomes
    float with them, and the free score does not know which of their channels matter.
    """
    most = max(FEWEST_CANDIDATES, math.ceil(len(groups) / _SHARE_OF_CANDIDATES))
    order = [one.group for one in ranked(groups)]
    weighted = [group for group in order if group.has_weights][:most]
    return [*weighted, *[group for group in order if not group.has_weights][:FEWEST_CANDIDATES]]


def ranked(groups: Iterable[Group]) -> list[Ranked]:
    """The groups by their free score, the most harmful first; equal scores keep the given order."""
    return [Ranked(group=group) for group in sorted(groups, key=lambda g: -g.free)]


def confirmed(points: Points, chosen: Sequence[Group]) -> list[Ranked]:
    """All groups: the ``chosen`` by their measured harm, then the others by the free score."""
    scored = [points.alone(group) for group in chosen]
    # an image that int8 gets right by luck does not make a group harmless
    scored.sort(key=lambda one: (max(one.lost_pp or 0.0, 0.0), one.harm or 0.0), reverse=True)
    return [*scored, *(one for one in ranked(points.groups.values()) if one.group not in chosen)]


def _score_smaller_sets(points: Points, names: Sequence[str], allowed: float) -> None:
    """Leave groups out one by one, the least harmful first, as long as the budget is met."""
    keep = frozenset(names)
    for name in reversed(names):
        smaller = keep - {name}
        if smaller and points.of(smaller).drop_pp <= allowed:
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


def _badness(point: Point) -> tuple[float, float]:
    """The loss of a point as a sort key: the metric, then the error of the worst-affected logits.

    One image of two hundred moves the metric by half a percentage point, so ties are common.
    """
    return point.drop_pp, point.tail


def _figures_of(evidence: Evidence) -> Figures:
    """The figures of a graph over all images of the evidence."""
    each = evidence.noise / np.maximum(evidence.signal, np.finfo(np.float64).tiny)
    worst_first = np.argsort(-each, kind="stable")
    count = len(each)
    tail = worst_first[: max(1, count // _SHARE_OF_TAIL)]
    affected = min(max(count // _SHARE_OF_WORST, _FEWEST_WORST), _MOST_WORST)
    return Figures(
        drop_pp=float(-100.0 * evidence.change.mean()) + 0.0,
        noise=float(evidence.noise.sum() / max(evidence.signal.sum(), np.finfo(float).tiny)),
        tail=float(each[tail].mean()),
        worst=tuple(int(index) for index in worst_first[:affected]),
    )


def _why(best: Point, num_tried: int) -> str:
    return (
        f"the fewest of {num_tried} scored sets that meet the budget: "
        f"{counted(len(best.keep), 'group')} in float, {100 * best.cost:.1f} % of the multiply-adds"
    )
