"""Charts of estimated speeds on targets, and of the sets of float groups that a search scored.

A group is the tensors that would share an int8 scale, with the layers that read them. Values that
are NaN are not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_inception.errors import counted
from edge_inception.quant.search_record import ScoredSet, SearchRecord
from edge_inception.report.charts import log_ticks
from edge_inception.report.table import finite
from edge_inception.report.vega import (
    BY_SUBJECT,
    DARK_GREY,
    GREY,
    HIGHLIGHT,
    TEXT,
    Chart,
    axis,
    draw,
    layer,
    name_axis,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """A layer's multiply-adds, the bytes it moves, and its share, 0..1, of the shortest time."""

    macs: float
    num_bytes: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Estimated speed of a network on a target at batch 1, at the best precision of the target.

    ``low``, ``middle`` and ``high`` are the images per second to plan with; ``bound`` is what the
    roofline allows at most, which takes the shortest time. ``intensity`` is the whole network's
    arithmetic intensity in multiply-adds per byte. ``compute_share`` is the share, 0..1, of the
    shortest time in which compute is the limit.
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


def draw_targets(rooflines: Sequence[Roofline]) -> Chart | None:
    """Chart of the images per second to plan with, and the roofline's bound, for every target."""
    if not rooflines:
        return None
    points = [
        {"name": one.title, "low": one.low, "middle": one.middle, "high": one.high,
         "bound": one.bound}
        for one in rooflines
    ]  # fmt: skip
    x = axis("images/s", scale={"type": "log"}, ticks=5, format="~s")
    span = {"x": {**x, "field": "low"}, "x2": {"field": "high"}}
    spec = {
        "height": 22 * len(points) + 50,
        "data": {"values": points},
        "encoding": {"y": name_axis(190, 172)},
        "layer": [
            layer("rule", span, color=HIGHLIGHT),
            layer("point", {"x": {**x, "field": "middle"}}, color=HIGHLIGHT, size=40),
            layer("tick", {"x": {**x, "field": "bound"}}, color=GREY, size=14, thickness=3),
        ],
    }
    description = "images per second to plan with, estimated: " + "; ".join(
        f"{one.title} {one.low:.3g} to {one.high:.3g}, at most {one.bound:.3g}" for one in rooflines
    )
    note = "Blue: the range to plan with. Grey: the roofline's bound. Estimates at batch 1."
    return draw("What targets could reach", description, spec, note, is_height_fixed=True)


def draw_roofline(roofline: Roofline) -> Chart:
    """Chart of one target's roofline with every layer on it, and the whole network marked."""
    peak, bandwidth = roofline.macs_per_s / 1e9, roofline.bytes_per_s / 1e9
    intensity, ridge = roofline.intensity, peak / bandwidth
    shares = [
        (cost.macs / cost.num_bytes, cost.share)
        for cost in roofline.layers
        if cost.macs and cost.num_bytes
    ]
    dots = [{"x": x, "share": share, "y": min(peak, bandwidth * x)} for x, share in shares]
    intensities = [*(x for x, _ in shares), intensity, ridge]
    lowest, highest = min(intensities) / 2, max(intensities) * 2
    roof = [
        {"x": lowest, "y": lowest * bandwidth}, {"x": ridge, "y": peak}, {"x": highest, "y": peak},
    ]  # fmt: skip
    network = [{"x": intensity, "y": min(peak, intensity * bandwidth), "text": "whole network"}]
    log = {"type": "log", "nice": False}
    x = axis(
        "multiply-adds per byte", "x", scale={**log, "domain": [lowest, highest]},
        values=log_ticks(lowest, highest), format="~s",
    )  # fmt: skip
    ticks = log_ticks(lowest * bandwidth, peak)
    y = axis("G multiply-adds/s", "y", scale=log, values=ticks, format="~s")
    size = {"field": "share", "type": "quantitative", "legend": None, "scale": {"rangeMax": 240}}
    layers = [
        layer("line", None, roof, color=DARK_GREY),
        layer("point", {"size": size}, dots, color=GREY, opacity=0.5),
        layer("point", None, network, color=HIGHLIGHT, size=90),
        layer("text", TEXT, network, align="right", dx=-9, dy=-8),
    ]
    limit = "memory" if intensity < ridge else "compute"
    description = (
        f"roofline of {roofline.target} at {roofline.precision}: the whole network does "
        f"{intensity:.3g} multiply-adds per byte and is bound by {limit}; the ridge is at "
        f"{ridge:.3g}"
    )
    share = f"{roofline.compute_share:.0%} of the least time is bound by compute."
    note = f"A dot is a layer, as large as its share of the least time. {share}"
    spec = {"height": 240, "encoding": {"x": x, "y": y}, "layer": layers}
    return draw(f"Roofline of {roofline.title}", description, spec, note)


def draw_placements(search: SearchRecord | None) -> Chart | None:
    """Chart of top-1 drop over the share of multiply-adds in float; a dot is a set of groups."""
    scored = _drawable(search.points) if search else []
    if not scored or search is None:
        return None
    chosen = search.outcome.chosen.keep
    points = [{**_point(one), "is_subject": one.keep == chosen} for one in scored]
    front = [_point(one) for one in _drawable(search.outcome.front)]
    spec = {
        "height": 240,
        "encoding": {
            "x": axis("multiply-adds that stay float, %", "cost", ticks=5),
            "y": axis("top-1 drop, pp", "drop", scale={"padding": 14}, ticks=5),
        },
        "layer": [
            layer("line", None, front, color=DARK_GREY),
            layer("point", {"color": BY_SUBJECT}, points, size=60),
        ],
    }
    description = f"{counted(len(points), 'set')} of groups in float: " + "; ".join(
        f"{counted(len(one.keep), 'group')}, {100 * one.float_share_of_macs:.1f} % float, "
        f"drop {one.drop_pp:.2f} pp"
        for one in scored
    )
    note = "A dot is one graph, the blue one was chosen; the line joins those that none beats."
    return draw("Placements tried", description, spec, note)


def _drawable(scored: Sequence[ScoredSet]) -> list[ScoredSet]:
    return [
        one for one in scored if None not in (finite(one.float_share_of_macs), finite(one.drop_pp))
    ]


def _point(scored: ScoredSet) -> dict[str, Any]:
    return {"cost": 100 * scored.float_share_of_macs, "drop": scored.drop_pp}
