"""Drawings of Vega-Lite specifications as SVG inside the page, without script or network.

Colours are the page's own CSS variables, so one drawing serves light, dark and print. Each chart is
drawn at two widths, and the page shows the one that fits.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert
from markupsafe import Markup

WIDE, NARROW = 520, 335
"""Widths of a drawing in pixels: a column on a desktop or on paper, and a phone's screen."""

TEXT = {"text": {"field": "text"}}
"""Encoding of a layer that writes the field ``text`` of each value."""

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
_OPENING = re.compile(r"\A<svg [^>]*?\bwidth=\"([\d.]+)\" height=\"([\d.]+)\"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing with its texts; ``says`` describes the drawing in words, for screen readers."""

    title: str
    says: str
    wide: Markup
    narrow: Markup
    note: str = ""


def draw(title: str, says: str, spec: Callable[[int], Mapping[str, Any]], note: str = "") -> Chart:
    """A chart at both widths.

    Args:
        title: Text above the drawing.
        says: What the drawing shows, in words.
        spec: Width in pixels -> Vega-Lite specification without its width, with its data inside.
        note: Text beneath the drawing.
    """
    wide, narrow = (svg({**spec(width), "width": width}, says) for width in (WIDE, NARROW))
    return Chart(title=title, says=says, wide=wide, narrow=narrow, note=note)


def layer(
    mark: str,
    encoding: Mapping[str, Any] | None = None,
    data: Sequence[Mapping[str, Any]] | None = None,
    **look: Any,
) -> Mapping[str, Any]:
    """A layer of a Vega-Lite specification.

    Args:
        mark: Type of the marks, such as "point".
        encoding: Channels in addition to those of the whole specification.
        data: Values of this layer; None means those of the whole specification.
        look: Properties of the marks.
    """
    own = {} if data is None else {"data": {"values": data}}
    return {**own, "mark": {"type": mark, **look}, "encoding": encoding or {}}


def svg(spec: Mapping[str, Any], says: str) -> Markup:
    """An ``svg`` element for a page; screen readers take it for an image, and its text is escaped.

    Args:
        spec: Vega-Lite specification; ``width`` is in pixels and includes axes and padding.
        says: Accessible name of the image.
    """
    complete = {
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": 2, "right": 12, "top": 4, "bottom": 2},
        **spec,
        "config": _CONFIG,
    }
    drawn = vl_convert.vegalite_to_svg(complete, vl_version=_VEGA_LITE, allowed_base_urls=[])
    opening = _OPENING.match(drawn)
    assert opening, "Vega writes its size first"
    attributes = f'role="img" aria-label="{html.escape(says)}" data-chart="vega"'
    # the size as Vega drew it, which the page's style may shrink
    sized = f'<svg {attributes} width="{opening[1]}" height="{opening[2]}"'
    return Markup(sized + drawn[opening.end() :])  # noqa: S704 -- Vega escapes the text in it


def finite(value: Any) -> float | None:
    """``value`` as a number to draw; None where it is no number, NaN or infinite."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
