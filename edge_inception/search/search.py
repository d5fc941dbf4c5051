"""Which groups an int8 graph keeps in float so that it keeps its accuracy: the fewest that do.

A group is a tensor's Q/DQ pair and the layers that read it. Groups are ranked by what can be known
without running anything (``sensitivity``); of the worst quarter the harm is confirmed end to end,
with that group alone in int8, on the images that suffer most from the plain int8 graph: first the
task metric, then the error of the logits. Then the worst 1, 2, 3, 4, 6, 8, ... are kept in float
until the budget is met, those that were not confirmed last, and those that turn out to be
dispensable are quantized again, the least harmful first.

Nothing here runs a network: the caller scores sets of groups. Every score is written to a journal
before it is used, so a search that was killed goes on where it was, to the same result.
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
_SHARE_OF_CANDIDATES = 4
_SHARE_OF_TAIL = 10
_SHARE_OF_WORST, _MOST_WORST, _FEWEST_WORST = 4, 64, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A tensor's pair and what reads it; named by the tensor whose scale it is.

    ``layers`` are the readers in graph order. ``free`` is the expected noise to signal of the
    noisiest reader's output. ``cost`` is the share of the network's multiply-adds that stays float
    when the group does; ``has_weights``: a reader has int8 weights.
    """

    name: str
    layers: tuple[str, ...]
    free: float
    cost: float
    has_weights: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Answers of a typed graph beside those of FP32, image by image; arrays [N], N >= 1.

    ``noise`` and ``signal`` are powers of the logits, centred. ``change`` is 1 where only the typed
    graph is right, -1 where only FP32 is, else 0; of unlabelled images -1 where they disagree.
    """

    noise: NDArray[np.float64]
    signal: NDArray[np.float64]
    change: NDArray[np.int64]


Score = Callable[[frozenset[str], tuple[int, ...] | None], Evidence]
"""Scores the graph that keeps these groups in float, on the images of these indices or on all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One scored graph.

    ``drop_pp`` is the top-1 drop, or the disagreement of unlabelled images, in percentage points;
    ``noise`` the noise to signal of the logits, ``tail`` the mean of it over the tenth of the
    images that suffers most. ``cost`` is the share of multiply-adds that stays float. ``worst`` are
    indices of images, the most affected first.
    """

    keep: tuple[str, ...]
    drop_pp: float
    noise: float
    tail: float
    cost: float
    worst: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A group, and what it does alone in int8 to the most affected images, if that was scored.

    ``harm`` is the noise to signal of their logits, ``lost_pp`` their top-1 drop. No graph is int8
    in a group that holds no weights alone: what plain int8 has more of both than without it.
    """

    group: Group
    harm: float | None = None
    lost_pp: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Outcome of a search; ``chosen`` is the point to build, or the closest to the budget."""

    ranking: tuple[Ranked, ...]
    points: tuple[Point, ...]
    chosen: Point
    is_met: bool
    allowed_pp: float
    why: str

    @property
    def front(self) -> tuple[Point, ...]:
        """Points that no other beats: each is more accurate than all that cost less."""
        front: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.cost, len(p.keep), *_badness(p))):
            if not front or _badness(point) < _badness(front[-1]):
                front.append(point)
        return tuple(front)


def allowed_drop(budget: Budget, top1: float) -> float:
    """The budget in percentage points, where FP32 has ``top1`` (0..1) on the same images."""
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
    """The fewest groups in float with which the budget is met, or the closest point.

    Args:
        groups: All groups of the plain int8 graph, in graph order.
        score: Scores sets of them.
        budget: What is allowed.
        top1: Share of images that FP32 has right, for a relative budget; 1 of unlabelled ones.
        journal: Scores that are known already; new ones are added.
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
    # the least harmful stays int8: with all of them in float no layer would
    names = [one.group.name for one in order if one.group.name not in weighted[-1:]]
    most = len(names)
    if budget.max_groups:
        most = min(most, budget.max_groups)
    for count in sizes(most):
        keep = frozenset(names[:count])
        if points.of(keep).drop_pp <= allowed:
            _dispense(points, names[:count], allowed)
            met = [point for point in points.known if point.drop_pp <= allowed]
            best = min(met, key=lambda p: (len(p.keep), p.cost, *_badness(p)))
            return found(order, best, _why(best, len(points.known)))
    closest = min(points.known, key=lambda p: (*_badness(p), len(p.keep)))
    tried = counted(len(points.known), "scored set")
    why = f"none of {tried}, with up to {counted(most, 'group')} in float, meets the budget"
    return found(order, closest, why)


class Points:
    """Scored sets of groups: asked of the journal first, else of ``score`` and written down."""

    def __init__(self, groups: Sequence[Group], score: Score, journal: Journal) -> None:
        self.groups = {group.name: group for group in groups}
        self._score, self._journal = score, journal
        self._points: dict[frozenset[str], Point] = {}

    @property
    def known(self) -> list[Point]:
        """Points on all images, in the order they were asked for."""
        return list(self._points.values())

    def of(self, keep: frozenset[str]) -> Point:
        """The point of ``keep`` on all images."""
        if keep not in self._points:
            record = self._record(keep, None)
            self._points[keep] = Point(
                keep=tuple(name for name in self.groups if name in keep),
                cost=sum(self.groups[name].cost for name in self.groups if name in keep),
                drop_pp=record.drop_pp,
                noise=record.noise,
                tail=record.tail,
                worst=record.worst,
            )
        return self._points[keep]

    def alone(self, group: Group) -> Ranked:
        """What this group alone in int8 does to the images that plain int8 affects most."""
        worst = self.of(frozenset()).worst
        if group.has_weights:
            record = self._record(frozenset(self.groups) - {group.name}, worst)
            return Ranked(group=group, harm=record.noise, lost_pp=record.drop_pp)
        plain = self._record(frozenset(), worst)
        without = self._record(frozenset({group.name}), worst)
        return Ranked(
            group=group,
            harm=max(plain.noise - without.noise, 0.0),
            lost_pp=plain.drop_pp - without.drop_pp,
        )

    def _record(self, keep: frozenset[str], rows: tuple[int, ...] | None) -> Figures:
        images: Images = "all" if rows is None else "worst"
        record = self._journal.known(keep, images)
        if record is None:
            record = _measured(self._score(keep, rows))
            self._journal.add(keep, images, record)
        return record


def candidates(groups: Sequence[Group]) -> list[Group]:
    """The worst quarter by the free score, but at least eight, of those that hold weights.

    And the worst eight that only pools or sums read: no multiply-add is lost with them in float,
    and the free score does not know which of their channels matter.
    """
    most = max(FEWEST_CANDIDATES, math.ceil(len(groups) / _SHARE_OF_CANDIDATES))
    order = [one.group for one in ranked(groups)]
    weighted = [group for group in order if group.has_weights][:most]
    return [*weighted, *[group for group in order if not group.has_weights][:FEWEST_CANDIDATES]]


def ranked(groups: Iterable[Group]) -> list[Ranked]:
    """Groups by their free score, the most harmful first; equals in graph order."""
    return [Ranked(group=group) for group in sorted(groups, key=lambda g: -g.free)]


def confirmed(points: Points, chosen: Sequence[Group]) -> list[Ranked]:
    """All groups: those ``chosen`` by the harm they do alone, then the rest by the free score."""
    scored = [points.alone(group) for group in chosen]
    # an image won by luck is no merit
    scored.sort(key=lambda one: (max(one.lost_pp or 0.0, 0.0), one.harm or 0.0), reverse=True)
    return [*scored, *(one for one in ranked(points.groups.values()) if one.group not in chosen)]


def _dispense(points: Points, names: Sequence[str], allowed: float) -> None:
    """Score smaller sets: without each group, the least harmful first, if none is missed."""
    keep = frozenset(names)
    for name in reversed(names):
        smaller = keep - {name}
        if smaller and points.of(smaller).drop_pp <= allowed:
            keep = smaller


def sizes(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... below ``most``, and ``most`` itself."""
    size = 1
    while size < most:
        yield size
        step = 1 << max(0, size.bit_length() - 2)
        size += step
    if most:
        yield most


def _badness(point: Point) -> tuple[float, float]:
    """What less of is better: the metric, then the logits of the worst-affected images.

    One image of a few hundred moves the metric by half a percentage point, so ties are common.
    """
    return point.drop_pp, point.tail


def _measured(evidence: Evidence) -> Figures:
    """The figures of a point, as the journal holds them."""
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


def _why(best: Point, tried: int) -> str:
    plural = "s" if len(best.keep) > 1 else ""
    return (
        f"the fewest of {tried} scored sets that meet the budget: {len(best.keep)} group{plural} "
        f"in float, {100 * best.cost:.1f} % of the multiply-adds"
    )
