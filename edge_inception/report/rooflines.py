"""What targets could reach at most, and which groups a search kept in float: charts of estimates.

The records come from ``estimate`` and from ``quant.search``; what does not fit is not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_inception.errors import counted
from edge_inception.report.charts import log_ticks
from edge_inception.report.vega import NARROW, Chart, draw, finite

_QUIET, _ACCENT = "var(--quiet)", "var(--accent)"


def targets(rooflines: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Images per second to plan with, and the bound, of every target with known peaks."""
    if not rooflines:
        return None
    points = [{**one, "name": f"{one['target']}, {one['precision']}"} for one in rooflines]

    def spec(_: int) -> Mapping[str, Any]:
        x = {
            "type": "quantitative", "title": "images/s", "scale": {"type": "log"},
            "axis": {"format": "~s", "tickCount": 5},
        }  # fmt: skip
        axis = {"grid": False, "labelLimit": 190, "minExtent": 172}
        return {
            "height": 22 * len(points) + 50,
            "data": {"values": points},
            "encoding": {
                "y": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": axis}
            },
            "layer": [
                {
                    "mark": {"type": "rule", "color": _ACCENT},
                    "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
                },
                {
                    "mark": {"type": "point", "color": _ACCENT, "size": 40},
                    "encoding": {"x": {**x, "field": "middle"}},
                },
                {
                    "mark": {"type": "tick", "color": _QUIET, "size": 14, "thickness": 3},
                    "encoding": {"x": {**x, "field": "bound"}},
                },
            ],
        }

    says = "images per second to plan with, estimated: " + "; ".join(
        f"{p['name']} {p['low']:.3g} to {p['high']:.3g}, at most {p['bound']:.3g}" for p in points
    )
    note = "Blue: the range to plan with. Grey: the roofline's bound. Estimates at batch 1."
    return draw("What targets could reach", says, spec, note)


def roofline(one: Mapping[str, Any]) -> Chart:
    """Every layer on the roof of one target, the whole network marked."""
    peak, bandwidth = one["macs_per_s"] / 1e9, one["bytes_per_s"] / 1e9
    dots = [
        {"x": layer["macs"] / layer["num_bytes"], "share": layer["share"]}
        for layer in one["layers"]
        if layer["macs"] and layer["num_bytes"]
    ]
    dots = [{**dot, "y": min(peak, bandwidth * dot["x"])} for dot in dots]
    whole = one["intensity"]
    ridge = peak / bandwidth
    lowest = min([dot["x"] for dot in dots] + [whole, ridge]) / 2
    highest = max([dot["x"] for dot in dots] + [whole, ridge]) * 2
    roof = [
        {"x": lowest, "y": lowest * bandwidth}, {"x": ridge, "y": peak}, {"x": highest, "y": peak},
    ]  # fmt: skip
    network = [{"x": whole, "y": min(peak, whole * bandwidth), "text": "whole network"}]
    is_bound = "memory" if whole < ridge else "compute"

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
            "field": "share",
            "type": "quantitative",
            "legend": None,
            "scale": {"rangeMax": 240},
        }
        mark = {"type": "point", "color": _QUIET, "opacity": 0.5}
        name = {"type": "text", "align": "right", "dx": -9, "dy": -8}
        layers = [
            {"data": {"values": roof}, "mark": {"type": "line", "color": "var(--muted)"}},
            {"data": {"values": dots}, "mark": mark, "encoding": {"size": size}},
            {"data": {"values": network}, "mark": {"type": "point", "color": _ACCENT, "size": 90}},
            {
                "data": {"values": network},
                "mark": name,
                "encoding": {"text": {"field": "text"}},
            },
        ]
        height = 240 if width > NARROW else 220
        return {"height": height, "encoding": {"x": x, "y": y}, "layer": layers}

    says = (
        f"roofline of {one['target']} at {one['precision']}: the whole network does {whole:.3g} "
        f"multiply-adds per byte and is bound by {is_bound}; the ridge is at {ridge:.3g}"
    )
    share = f"{one['compute_share']:.0%} of the least time is bound by compute."
    note = f"A dot is a layer, as large as its share of the least time. {share}"
    return draw(f"Roofline of {one['target']}, {one['precision']}", says, spec, note)


def placements(search: Mapping[str, Any] | None) -> Chart | None:
    """Top-1 drop over the share of multiply-adds that stays float, of every set that was scored."""
    points = [point for one in _listed(search, "points") if (point := _placement(one))]
    if not points or search is None:
        return None
    outcome = _inner(search, "outcome")
    kept = _inner(outcome, "chosen").get("keep")
    points = [{**point, "subject": point["keep"] == kept} for point in points]
    front = [point for one in _listed(outcome, "front") if (point := _placement(one))]

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
                {"data": {"values": front}, "mark": {"type": "line", "color": "var(--muted)"}},
                {
                    "data": {"values": points},
                    "mark": {"type": "point", "size": 60},
                    "encoding": {"color": colour},
                },
            ],
        }

    says = f"{counted(len(points), 'set')} of groups in float: " + "; ".join(
        f"{counted(len(p['keep']), 'group')}, {p['cost']:.1f} % float, drop {p['drop']:.2f} pp"
        for p in points
    )
    note = "A dot is one graph, blue the one chosen; the line joins those that nothing beats."
    return draw("Placements tried", says, spec, note)


def _inner(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at ``key``; an empty one where there is none."""
    found = record.get(key)
    return found if isinstance(found, dict) else {}


def _listed(record: Mapping[str, Any] | None, key: str) -> Sequence[Any]:
    found = record.get(key) if record else None
    return found if isinstance(found, list) else ()


def _placement(one: Any) -> dict[str, Any] | None:
    if not isinstance(one, dict) or not isinstance(one.get("keep"), list):
        return None
    cost, drop = finite(one.get("float_share_of_macs")), finite(one.get("drop_pp"))
    if cost is None or drop is None:
        return None
    return {"keep": one["keep"], "cost": 100 * cost, "drop": drop}
