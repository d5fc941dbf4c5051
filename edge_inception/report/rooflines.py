"""Charts of estimated speeds on targets, and of the sets of float groups that a search scored.

A group is a tensor that int8 would quantize, with the layers that read it. Figures that are NaN are
not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_inception.errors import counted
from edge_inception.quant.search_record import ScoredSet, SearchRecord
from edge_inception.report.charts import log_ticks
from edge_inception.report.vega import NARROW, TEXT, Chart, draw, finite, layer

_QUIET, _ACCENT = "var(--quiet)", "var(--accent)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """A layer's multiply-adds, the bytes it moves, and its share, 0..1, of the least time."""

    macs: float
    num_bytes: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Estimated speed of a network on a target at batch 1, at the best precision of the target.

    ``low``, ``middle`` and ``high`` are the images per second to plan with; ``bound`` is what the
    roofline allows. ``intensity`` is the whole network's multiply-adds per byte. ``compute_share``
    is the share, 0..1, of the least time in which compute is the limit.
    """

    target: str
    precision: str
    macs_per_s: float
    bytes_per_s: float
    bound: float
    low: float
    middle: float
    high: float
    compute_share: float
    intensity: float
    layers: tuple[LayerCost, ...]

    @property
    def title(self) -> str:
        """Target and precision, such as ``orin-nano-8gb, int8``."""
        return f"{self.target}, {self.precision}"


def targets(rooflines: Sequence[Roofline]) -> Chart | None:
    """Chart of the images per second to plan with, and the roofline's bound, for every target."""
    if not rooflines:
        return None
    points = [
        {"name": o.title, "low": o.low, "middle": o.middle, "high": o.high, "bound": o.bound}
        for o in rooflines
    ]

    def spec(_: int) -> Mapping[str, Any]:
        x = {
            "type": "quantitative", "title": "images/s", "scale": {"type": "log"},
            "axis": {"format": "~s", "tickCount": 5},
        }  # fmt: skip
        span = {"x": {**x, "field": "low"}, "x2": {"field": "high"}}
        axis = {"grid": False, "labelLimit": 190, "minExtent": 172}
        return {
            "height": 22 * len(points) + 50,
            "data": {"values": points},
            "encoding": {
                "y": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": axis}
            },
            "layer": [
                layer("rule", span, color=_ACCENT),
                layer("point", {"x": {**x, "field": "middle"}}, color=_ACCENT, size=40),
                layer("tick", {"x": {**x, "field": "bound"}}, color=_QUIET, size=14, thickness=3),
            ],
        }

    says = "images per second to plan with, estimated: " + "; ".join(
        f"{one.title} {one.low:.3g} to {one.high:.3g}, at most {one.bound:.3g}" for one in rooflines
    )
    note = "Blue: the range to plan with. Grey: the roofline's bound. Estimates at batch 1."
    return draw("What targets could reach", says, spec, note)


def roofline(one: Roofline) -> Chart:
    """Chart of one target's roofline with every layer on it, and the whole network marked."""
    peak, bandwidth = one.macs_per_s / 1e9, one.bytes_per_s / 1e9
    shares = [
        (cost.macs / cost.num_bytes, cost.share)
        for cost in one.layers
        if cost.macs and cost.num_bytes
    ]
    dots = [{"x": x, "share": share, "y": min(peak, bandwidth * x)} for x, share in shares]
    intensity = one.intensity
    ridge = peak / bandwidth
    lowest = min([x for x, _ in shares] + [intensity, ridge]) / 2
    highest = max([x for x, _ in shares] + [intensity, ridge]) * 2
    roof = [
        {"x": lowest, "y": lowest * bandwidth}, {"x": ridge, "y": peak}, {"x": highest, "y": peak},
    ]  # fmt: skip
    network = [{"x": intensity, "y": min(peak, intensity * bandwidth), "text": "whole network"}]
    is_bound = "memory" if intensity < ridge else "compute"

    def spec(width: int) -> Mapping[str, Any]:
        log = {"type": "log", "nice": False}
        x = {
            "field": "x", "type": "quantitative", "title": "multiply-adds per byte",
            "scale": {**log, "domain": [lowest, highest]},
            "axis": {"values": log_ticks(lowest, highest), "format": "~s"},
        }  # fmt: skip
        y = {
            "field": "y", "type": "quantitative", "title": "G multiply-adds/s", "scale": log,
            "axis": {"values": log_ticks(lowest * bandwidth, peak), "format": "~s"},
        }  # fmt: skip
        size = {
            "field": "share", "type": "quantitative", "legend": None, "scale": {"rangeMax": 240},
        }  # fmt: skip
        layers = [
            layer("line", None, roof, color="var(--muted)"),
            layer("point", {"size": size}, dots, color=_QUIET, opacity=0.5),
            layer("point", None, network, color=_ACCENT, size=90),
            layer("text", TEXT, network, align="right", dx=-9, dy=-8),
        ]
        height = 240 if width > NARROW else 220
        return {"height": height, "encoding": {"x": x, "y": y}, "layer": layers}

    says = (
        f"roofline of {one.target} at {one.precision}: the whole network does {intensity:.3g} "
        f"multiply-adds per byte and is bound by {is_bound}; the ridge is at {ridge:.3g}"
    )
    share = f"{one.compute_share:.0%} of the least time is bound by compute."
    note = f"A dot is a layer, as large as its share of the least time. {share}"
    return draw(f"Roofline of {one.title}", says, spec, note)


def placements(search: SearchRecord | None) -> Chart | None:
    """Chart of top-1 drop over the share of multiply-adds in float; a dot is a set of groups."""
    scored = _finite(search.points) if search else []
    if not scored or search is None:
        return None
    chosen = search.outcome.chosen.keep
    points = [{**_place(one), "subject": one.keep == chosen} for one in scored]
    front = [_place(one) for one in _finite(search.outcome.front)]

    def spec(width: int) -> Mapping[str, Any]:
        x = {
            "field": "cost", "type": "quantitative", "axis": {"tickCount": 5},
            "title": "multiply-adds that stay float, %",
        }  # fmt: skip
        y = {
            "field": "drop", "type": "quantitative", "title": "top-1 drop, pp",
            "scale": {"padding": 14}, "axis": {"tickCount": 5},
        }  # fmt: skip
        colour = {"condition": {"test": "datum.subject", "value": _ACCENT}, "value": _QUIET}
        return {
            "height": 240 if width > NARROW else 220,
            "encoding": {"x": x, "y": y},
            "layer": [
                layer("line", None, front, color="var(--muted)"),
                layer("point", {"color": colour}, points, size=60),
            ],
        }

    says = f"{counted(len(points), 'set')} of groups in float: " + "; ".join(
        f"{counted(len(one.keep), 'group')}, {100 * one.float_share_of_macs:.1f} % float, "
        f"drop {one.drop_pp:.2f} pp"
        for one in scored
    )
    note = "A dot is one graph, the blue one was chosen; the line joins those that none beats."
    return draw("Placements tried", says, spec, note)


def _finite(scored: Sequence[ScoredSet]) -> list[ScoredSet]:
    return [
        one for one in scored if None not in (finite(one.float_share_of_macs), finite(one.drop_pp))
    ]


def _place(one: ScoredSet) -> dict[str, Any]:
    return {"cost": 100 * one.float_share_of_macs, "drop": one.drop_pp}
