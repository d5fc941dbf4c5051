"""Charts drawn from Vega-Lite specifications as SVG, which needs no script and no network.

Colours are the page's own CSS variables, so the same drawing serves light, dark and print. Each
chart is drawn at two widths, and the page shows the one that fits.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert
from markupsafe import Markup

WIDE, NARROW = 520, 335
"""Widths of a drawing in pixels: a column on a desktop or on paper, and a phone's screen."""

TEXT = {"text": {"field": "text"}}
"""Encoding of a layer that writes the field ``text`` of each value."""

HIGHLIGHT, GREY, DARK_GREY, RED = (
    f"var(--{name})" for name in ("accent", "quiet", "muted", "failed")
)
BY_SUBJECT = {"condition": {"test": "datum.is_subject", "value": HIGHLIGHT}, "value": GREY}
"""Colour of a mark: highlighted where the value belongs to the judged engine or chosen set."""

_NARROW_CUT_PX = 20  # height of a wide drawing less that of a narrow one

_VEGA_LITE = "5.20"
_FONT = "system-ui, sans-serif"
_TEXT = {"font": _FONT, "fontSize": 12, "fontWeight": "normal", "color": "var(--ink)"}
_CONFIG: Mapping[str, Any] = {
    "font": _FONT,
    "background": None,
    "mark": {"aria": False},  # screen readers read the name of the whole drawing
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "labelColor": "var(--ink)",
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titleColor": "var(--muted)",
        "gridColor": "var(--rule)",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelLimit": 150,
    },
    "axisY": {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleY": -8},
    "legend": {"labelFontSize": 12, "labelColor": "var(--ink)", "title": None, "orient": "top"},
    "text": _TEXT,
    "rule": {"color": "var(--quiet)", "strokeWidth": 2},
    "point": {"filled": True, "opacity": 1, "size": 70},
    "tick": {"thickness": 1},
    "line": {"strokeWidth": 1.5},
}
_SVG_TAG = re.compile(r"\A<svg [^>]*?\bwidth=\"([\d.]+)\" height=\"([\d.]+)\"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing with its texts; ``description`` is what screen readers read out."""

    title: str
    description: str
    wide: Markup
    narrow: Markup
    note: str = ""


def draw(
    title: str,
    description: str,
    spec: Mapping[str, Any],
    note: str = "",
    *,
    is_height_fixed: bool = False,
) -> Chart:
    """A chart at both widths.

    ``spec`` is a Vega-Lite specification without its width; its ``height`` is in pixels with axes
    and padding. The narrow drawing is 20 pixels lower, unless ``is_height_fixed``.
    """
    cut_px = 0 if is_height_fixed else _NARROW_CUT_PX
    narrow = {**spec, "width": NARROW, "height": spec["height"] - cut_px}
    return Chart(
        title=title,
        description=description,
        wide=_svg({**spec, "width": WIDE}, description),
        narrow=_svg(narrow, description),
        note=note,
    )


def axis(
    title: str,
    field: str | None = None,
    *,
    scale: Mapping[str, Any] | None = None,
    ticks: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A position channel for numbers.

    ``field`` is None where the layers name it; ``options`` are further properties of the axis.
    """
    channel = {"type": "quantitative", "title": title, "field": field, "scale": scale}
    known = {key: value for key, value in channel.items() if value is not None}
    return known | {"axis": options | ({"tickCount": ticks} if ticks else {})}


def name_axis(max_label_px: int, width_px: float) -> dict[str, Any]:
    """A vertical position channel with a row for each ``name``, in the order of the values."""
    look = {"grid": False, "labelLimit": max_label_px, "minExtent": width_px}
    return {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": look}


def layer(
    mark: str,
    encoding: Mapping[str, Any] | None = None,
    data: Sequence[Mapping[str, Any]] | None = None,
    **properties: Any,
) -> Mapping[str, Any]:
    """A layer of a Vega-Lite specification, with marks such as "point" and their properties.

    ``encoding`` adds to the channels of the whole specification, and ``data`` replaces its values.
    """
    own = {} if data is None else {"data": {"values": data}}
    return {**own, "mark": {"type": mark, **properties}, "encoding": encoding or {}}


def _svg(spec: Mapping[str, Any], description: str) -> Markup:
    """An ``svg`` element that screen readers take for an image; its texts are escaped."""
    complete = {
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": 2, "right": 12, "top": 4, "bottom": 2},
        **spec,
        "config": _CONFIG,
    }
    svg = vl_convert.vegalite_to_svg(complete, vl_version=_VEGA_LITE, allowed_base_urls=[])
    opening = _SVG_TAG.match(svg)
    assert opening, "Vega writes width and height first"
    attributes = f'role="img" aria-label="{html.escape(description)}" data-chart="vega"'
    # Only the size of Vega's own tag is kept; without its style, the page may shrink the drawing.
    sized = f'<svg {attributes} width="{opening[1]}" height="{opening[2]}"'
    return Markup(sized + svg[opening.end() :])  # noqa: S704 -- Vega escapes the text in it
