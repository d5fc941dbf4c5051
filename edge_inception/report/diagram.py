"""The network as a graph: a drawing for each block, its branches side by side, its layers in boxes.

Input is the record of ``graph.topology``. No chart library draws this, so it is written by hand;
every text goes through markupsafe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edge_inception.report.vega import finite

_BOX, _TALL, _GAP, _DROP = 58, 36, 5, 16
_BAR = 22
_MARGIN = 2
_INPUT = -1
_LARGE, _MEGA, _KILO = 1e9, 1e6, 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One drawing with its words."""

    name: str
    says: str
    macs: str
    drawing: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """A layer in the table beneath; texts, empty where not known."""

    name: str
    label: str
    sizes: str
    macs: str
    share: str
    parameters: str
    precision: str
    sqnr: str
    ms: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where everything in a block stands.

    ``columns`` and ``rows`` by layer; ``edges`` are (source, layer, column it runs down in).
    """

    columns: Mapping[int, int]
    rows: Mapping[int, int]
    edges: tuple[tuple[int, int, int], ...]
    num_columns: int


def blocks(
    record: Mapping[str, Any],
    noise: Mapping[str, Any] | None = None,
    times: Mapping[str, float] | None = None,
) -> list[Block]:
    """All blocks, drawn.

    Args:
        record: Of ``graph.topology``.
        noise: Of compare-layers, for the SQNR of each layer.
        times: Name of a layer to its time in ms, where an engine was asked for it.
    """
    layers = _measured(record, noise, times)
    most = max((finite(layer["macs"]) or 0.0 for layer in layers), default=0.0)
    return [_block(block, layers, most) for block in record["blocks"]]


def lines(
    record: Mapping[str, Any],
    noise: Mapping[str, Any] | None = None,
    times: Mapping[str, float] | None = None,
) -> list[LayerLine]:
    """All layers, for a table; arguments as those of ``blocks``."""
    layers = _measured(record, noise, times)
    total = sum(finite(layer["macs"]) or 0.0 for layer in layers)
    return [
        LayerLine(
            name=layer["name"],
            label=layer["label"],
            sizes=" x ".join(map(str, layer["sizes"] or ())),
            macs=count(layer["macs"]),
            share=f"{100 * (layer['macs'] or 0) / total:.1f}" if total and layer["macs"] else "",
            parameters=count(layer["num_parameters"]),
            precision=layer["precision"] or "",
            sqnr=_decibels(layer),
            ms="" if layer["ms"] is None else f"{layer['ms']:.3f}",
        )
        for layer in layers
    ]


def count(value: Any) -> str:
    """``12.3 M``; empty for 0 and None."""
    number = finite(value)
    if not number:
        return ""
    for least, unit in ((_LARGE, "G"), (_MEGA, "M"), (_KILO, "k")):
        if number >= least:
            return f"{number / least:.3g} {unit}"
    return f"{number:.0f}"


def plan(entry: int, layers: Sequence[int], inputs: Mapping[int, Sequence[int]]) -> Plan:
    """Columns and rows of a block's layers.

    A branch keeps its column until it splits; each further branch opens the next one. A layer
    stands one row below the lowest of what it reads.

    Args:
        entry: What the block reads.
        layers: Its layers in graph order; the last one is where its branches meet.
        inputs: What each reads, within the block.
    """
    readers = _readers(layers, inputs)
    last = layers[-1]
    columns: dict[int, int] = {}
    runs: dict[tuple[int, int], int] = {}
    num_columns = 1

    def follow(source: int, column: int) -> None:
        nonlocal num_columns
        is_free = True
        for layer in readers.get(source, ()):
            if layer in columns or (layer == last and source != entry):
                runs[source, layer] = column
                continue
            if not is_free:
                column, num_columns = num_columns, num_columns + 1
            is_free = False
            runs[source, layer] = column
            if layer != last:
                columns[layer] = column
                follow(layer, column)

    follow(entry, 0)
    rows = {entry: 0}
    for layer in layers:
        rows[layer] = 1 + max(rows[source] for source in inputs[layer])
    edges = tuple((source, layer, column) for (source, layer), column in runs.items())
    return Plan(columns=columns, rows=rows, edges=edges, num_columns=num_columns)


def _readers(layers: Sequence[int], inputs: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for layer in layers:
        for source in inputs[layer]:
            found.setdefault(source, []).append(layer)
    return found


def _block(block: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], most: float) -> Block:
    entry, own = block["entry"], block["layers"]
    inside = {entry, *own}
    # what a long connection brings from before the block counts as the block's own input
    inputs = {
        layer: list(dict.fromkeys(s if s in inside else entry for s in layers[layer]["inputs"]))
        for layer in own
    }
    found = plan(entry, own, inputs)
    total = sum(finite(layers[layer]["macs"]) or 0.0 for layer in own)
    return Block(
        name=block["name"],
        says=f"{block['name']}: {_told(found, own, layers)}",
        macs=count(total),
        drawing=_drawn(found, entry, own, [layers, most]),
    )


def _told(found: Plan, own: Sequence[int], layers: Sequence[Mapping[str, Any]]) -> str:
    branches: dict[int, list[str]] = {}
    for layer, column in found.columns.items():
        branches.setdefault(column, []).append(layers[layer]["label"])
    words = "; ".join(", ".join(branch) for _, branch in sorted(branches.items()))
    end = layers[own[-1]]["label"]
    return f"{words}; then {end}" if words else str(end)


def _drawn(found: Plan, entry: int, own: Sequence[int], shown: Sequence[Any]) -> Markup:
    layers, most = shown
    last = own[-1]
    width = found.num_columns * (_BOX + _GAP) - _GAP + 2 * _MARGIN
    height = _top(found.rows[last]) + _TALL + _MARGIN
    parts = [_edge(found, edge, last) for edge in found.edges]  # beneath the boxes
    parts.append(_bar(Markup("from {}").format(_name(entry, layers)), width))
    for layer in own:
        column = found.columns.get(layer)
        left = _MARGIN + (column or 0) * (_BOX + _GAP)
        wide = _BOX if column is not None else width - 2 * _MARGIN
        place = (left, _top(found.rows[layer]), wide)
        parts.append(_box(layers[layer], place, most))
    return Markup(
        '<svg data-chart="block" width="{0}" height="{1}" viewBox="0 0 {0} {1}" '
        'aria-hidden="true">{2}</svg>'
    ).format(width, height, Markup("").join(parts))


def _name(index: int, layers: Sequence[Mapping[str, Any]]) -> str:
    return "image" if index == _INPUT else str(layers[index]["label"])


def _top(row: int) -> int:
    """Pixels from the top; row 0 is the entry, which is a line of text."""
    return row * (_TALL + _DROP) - _TALL + 14


def _bar(text: Markup, width: int) -> Markup:
    return Markup('<text class="entry" x="{}" y="11">{}</text>').format(width // 2, text)


def _edge(found: Plan, edge: tuple[int, int, int], last: int) -> Markup:
    """Down from its source in its own column, to its layer."""
    source, layer, column = edge
    start = found.columns.get(source, column)
    end = column if layer == last else found.columns[layer]
    top = 15 if found.rows[source] == 0 else _top(found.rows[source]) + _BAR
    bottom = _top(found.rows[layer])
    first, run, to = (_MARGIN + c * (_BOX + _GAP) + _BOX // 2 for c in (start, column, end))
    leaves = 15 if found.rows[source] == 0 else _top(found.rows[source]) + _TALL
    bend = _DROP // 2
    path = (
        f"M{first} {top} V{leaves} C{first} {leaves + bend} {run} {leaves} {run} {leaves + bend} "
        f"V{bottom - bend} C{run} {bottom - bend / 2} {to} {bottom - bend} {to} {bottom}"
    )
    return Markup('<path class="edge" d="{}"/>').format(path)


def _box(layer: Mapping[str, Any], place: tuple[int, int, int], most: float) -> Markup:
    left, top, wide = place
    macs = finite(layer["macs"]) or 0.0
    middle = left + wide / 2
    kind = {"int8": "int8", "float": "float"}.get(str(layer["precision"]), "unknown")
    jump = " jump" if layer["is_jump"] else ""
    length = (_BOX - 8) * macs / most if most else 0.0
    words = _decibels(layer, " dB") or _micros(layer) or count(macs)
    lines_of = [Markup('<text x="{}" y="{}">{}</text>').format(middle, top + 14, layer["label"])]
    if words:
        second = Markup('<text class="second" x="{}" y="{}">{}</text>')
        lines_of.append(second.format(middle, top + 27, words))
    tall = _TALL if words else _BAR
    return Markup(
        '<g class="box {0}"><title>{1}</title><rect x="{2}" y="{3}" width="{4}" height="{5}" '
        'rx="3"/><rect class="macs" x="{6}" y="{7}" width="{8:.1f}" height="3"/>{9}</g>'
    ).format(
        kind + jump, "; ".join(_tip(layer)), left, top, wide, tall, left + 4, top + tall - 5,
        length, Markup("").join(lines_of),
    )  # fmt: skip


def _tip(layer: Mapping[str, Any]) -> Iterator[str]:
    yield str(layer["name"])
    if layer["sizes"]:
        yield f"writes {' x '.join(map(str, layer['sizes']))}"
    if layer["macs"]:
        yield f"{count(layer['macs'])} multiply-adds"
    if layer["precision"]:
        yield str(layer["precision"])
    if _micros(layer):
        yield _micros(layer)
    if _decibels(layer):
        yield f"SQNR {_decibels(layer)} dB"


def _decibels(layer: Mapping[str, Any], unit: str = "") -> str:
    value = finite(layer["sqnr_db"])
    return "" if value is None else f"{value:.0f}{unit}"


def _micros(layer: Mapping[str, Any]) -> str:
    """``49 us``; empty where the time is not known."""
    return "" if layer["ms"] is None else f"{1000 * layer['ms']:.0f} us"


def _by_name(noise: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    found = noise.get("layers") if noise else None
    if not isinstance(found, list):
        return {}
    return {str(one.get("name")): one for one in found if isinstance(one, dict)}


def _measured(
    record: Mapping[str, Any],
    noise: Mapping[str, Any] | None,
    times: Mapping[str, float] | None,
) -> list[Mapping[str, Any]]:
    """The layers with ``sqnr_db``, ``is_jump`` and ``ms``."""
    noisy = _by_name(noise)
    found: list[Mapping[str, Any]] = []
    for layer in record["layers"]:
        name = str(layer["name"])
        one = noisy.get(name, {})
        noise_of = {"sqnr_db": one.get("sqnr_db"), "is_jump": one.get("is_jump") is True}
        found.append({**layer, **noise_of, "ms": (times or {}).get(name)})
    return found
