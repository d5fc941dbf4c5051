"""Which groups an int8 graph keeps in float so that it keeps its accuracy: the fewest that do.

A group is a tensor's Q/DQ pair and the layers that read it. Groups are ranked by what can be known
without running anything (``sensitivity``); of the worst quarter the harm is confirmed end to end,
with that group alone in int8, on the images that suffer most from the plain int8 graph. Then the
worst 1, 2, 3, 4, 6, 8, ... are kept in float until the budget is met, and those that turn out to be
dispensable are quantized again, the least harmful first.

Nothing here runs a network: the caller scores sets of groups. Every score is written to a journal
before it is used, so a search that was killed goes on where it was, to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inception.quant.journal import Journal
from edge_inception.quant.options import DropType, SearchOptions

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
    """A group with its ``harm``: noise to signal of the logits with it alone in int8, if scored."""

    group: Group
    harm: float | None


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


def allowed_drop(options: SearchOptions, top1: float) -> float:
    """The budget in percentage points, where FP32 has ``top1`` (0..1) on the same images."""
    is_relative = options.drop_type is DropType.RELATIVE
    return options.max_drop_pp * (top1 if is_relative else 1.0)


def rank(groups: Sequence[Group]) -> list[Group]:
    """Groups by their free score, the most harmful first; equals in graph order."""
    return sorted(groups, key=lambda group: -group.free)


def search(
    groups: Sequence[Group],
    score: Score,
    *,
    options: SearchOptions,
    top1: float,
    journal: Journal,
) -> Found:
    """The fewest groups in float with which the budget is met, or the closest point.

    Args:
        groups: All groups of the plain int8 graph, in graph order.
        score: Scores sets of them.
        options: Budget, and the most groups that may stay float.
        top1: Share of images that FP32 has right, for a relative budget; 1 of unlabelled ones.
        journal: Scores that are known already; new ones are added.
    """
    return _Search(groups, score, options, top1=top1, journal=journal).run()


class _Search:
    def __init__(
        self,
        groups: Sequence[Group],
        score: Score,
        options: SearchOptions,
        *,
        top1: float,
        journal: Journal,
    ) -> None:
        self._groups = {group.name: group for group in groups}
        self._score, self._journal = score, journal
        self._allowed = allowed_drop(options, top1)
        self._limit = options.max_groups
        self._points: dict[frozenset[str], Point] = {}

    def run(self) -> Found:
        plain = self._point(frozenset())
        order = [Ranked(group=group, harm=None) for group in rank(tuple(self._groups.values()))]
        if self._is_met(plain):
            return self._found(order, plain, "plain int8 meets the budget")
        order = self._confirmed(order, plain)
        names = [ranked.group.name for ranked in order if ranked.harm is not None]
        for count in sizes(min(self._limit or len(names), len(names))):
            keep = frozenset(names[:count])
            if self._is_met(self._point(keep)):
                self._dispense(keep, names)
                met = [point for point in self._points.values() if self._is_met(point)]
                best = min(met, key=lambda p: (len(p.keep), p.cost, *_badness(p)))
                return self._found(order, best, _why(best, len(self._points)))
        closest = min(self._points.values(), key=lambda p: (*_badness(p), len(p.keep)))
        return self._found(order, closest, f"no set of up to {len(names)} groups meets the budget")

    def _found(self, order: Sequence[Ranked], chosen: Point, why: str) -> Found:
        return Found(
            ranking=tuple(order),
            points=tuple(self._points.values()),
            chosen=chosen,
            is_met=self._is_met(chosen),
            allowed_pp=self._allowed,
            why=why,
        )

    def _is_met(self, point: Point) -> bool:
        return point.drop_pp <= self._allowed

    def _point(self, keep: frozenset[str]) -> Point:
        """The point of ``keep`` on all images."""
        if keep not in self._points:
            record = self._journal.known(keep, "all")
            if record is None:
                record = _measured(self._score(keep, None))
                self._journal.add(keep, "all", record)
            cost = sum(self._groups[name].cost for name in keep)
            kept = tuple(name for name in self._groups if name in keep)
            figures = {name: record[name] for name in ("drop_pp", "noise", "tail")}
            worst = tuple(record["worst"])
            self._points[keep] = Point(keep=kept, cost=cost, worst=worst, **figures)
        return self._points[keep]

    def _confirmed(self, order: Sequence[Ranked], plain: Point) -> list[Ranked]:
        """The worst quarter by the free score, reordered by their harm; then the others."""
        most = max(FEWEST_CANDIDATES, math.ceil(len(order) / _SHARE_OF_CANDIDATES))
        candidates = [one for one in order if one.group.has_weights][:most]
        scored = [
            Ranked(group=one.group, harm=self._harm(one.group.name, plain.worst))
            for one in candidates
        ]
        scored.sort(key=lambda one: -(one.harm or 0.0))
        return [*scored, *(one for one in order if one not in candidates)]

    def _harm(self, name: str, worst: tuple[int, ...]) -> float:
        """Noise to signal on the worst images with this group alone in int8."""
        others = frozenset(self._groups) - {name}
        record = self._journal.known(others, "worst")
        if record is None:
            record = _measured(self._score(others, worst))
            self._journal.add(others, "worst", record)
        return float(record["noise"])

    def _dispense(self, keep: frozenset[str], order: Sequence[str]) -> None:
        """Score smaller sets: without each group, the least harmful first, if none is missed."""
        for name in reversed([name for name in order if name in keep]):
            smaller = keep - {name}
            if smaller and self._is_met(self._point(smaller)):
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


def _measured(evidence: Evidence) -> Mapping[str, Any]:
    """The figures of a point, as JSON holds them."""
    each = evidence.noise / np.maximum(evidence.signal, np.finfo(np.float64).tiny)
    worst_first = np.argsort(-each, kind="stable")
    count = len(each)
    tail = worst_first[: max(1, count // _SHARE_OF_TAIL)]
    affected = min(max(count // _SHARE_OF_WORST, _FEWEST_WORST), _MOST_WORST)
    return {
        "drop_pp": float(-100.0 * evidence.change.mean()) + 0.0,
        "noise": float(evidence.noise.sum() / max(evidence.signal.sum(), np.finfo(float).tiny)),
        "tail": float(each[tail].mean()),
        "worst": [int(index) for index in worst_first[:affected]],
    }


def _why(best: Point, tried: int) -> str:
    plural = "s" if len(best.keep) > 1 else ""
    return (
        f"the fewest of {tried} scored sets that meet the budget: {len(best.keep)} group{plural} "
        f"in float, {100 * best.cost:.1f} % of the multiply-adds"
    )
