"""Drawings of the network's blocks as SVG: branches side by side, a box for each layer.

No chart library draws such graphs, so the SVG is written here; markupsafe escapes every text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from edge_inception.report.noise_record import NoiseRecord, NoisyLayer

if TYPE_CHECKING:
    from edge_inception.graph import topology
    from edge_inception.graph.topology import DrawnLayer, Topology

# in pixels: width of a box, height of a row, and the gaps between columns and between rows
_BOX, _TALL, _GAP, _DROP = 58, 36, 5, 16
_BAR = 22  # pixels: height of a box with one line of text; a box with two fills its row
_MARGIN = 2  # pixels around the drawing
_INPUT = -1  # index that stands for the image
_LARGE, _MEGA, _KILO = 1e9, 1e6, 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The drawing of one block; ``says`` describes the drawing in words, for screen readers."""

    name: str
    says: str
    macs: str
    drawing: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """A layer's line in the table beneath the drawings; a text is empty where it is unknown.

    ``share`` is the percentage of the network's multiply-adds (``macs``), ``sqnr`` is in dB.
    """

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
    """Positions in the drawing of a block.

    ``columns`` and ``rows`` map a layer's index to a number from 0; row 0 is the entry. The entry
    and the last layer have no column, since they span the drawing. An edge is the line between two
    layers, as (source, layer that reads it, column in which the line runs down).
    """

    columns: Mapping[int, int]
    rows: Mapping[int, int]
    edges: tuple[tuple[int, int, int], ...]
    num_columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A layer with its noise and its time in ms, each None where it was not measured."""

    layer: DrawnLayer
    noise: NoisyLayer | None
    ms: float | None

    @property
    def macs(self) -> int:
        """Multiply-adds of the layer; 0 where they are not known."""
        return self.layer.macs or 0


def blocks(
    network: Topology,
    noise: NoiseRecord | None = None,
    times: Mapping[str, float] | None = None,
) -> list[Block]:
    """Drawings of all blocks.

    Args:
        network: Layers and blocks of the network.
        noise: Record of ``compare-layers``, which has the SQNR of each layer.
        times: Name of a layer -> its time in ms, as ``bench --layers`` measured it.
    """
    layers = _measured(network, noise, times)
    most = max((one.macs for one in layers), default=0)
    return [_block(block, layers, most) for block in network.blocks]


def lines(
    network: Topology,
    noise: NoiseRecord | None = None,
    times: Mapping[str, float] | None = None,
) -> list[LayerLine]:
    """Table lines of all layers; the arguments are those of ``blocks``."""
    layers = _measured(network, noise, times)
    total = sum(one.macs for one in layers)
    return [
        LayerLine(
            name=one.layer.name,
            label=one.layer.label,
            sizes=" x ".join(map(str, one.layer.sizes or ())),
            macs=count(one.macs),
            share=f"{100 * one.macs / total:.1f}" if one.macs else "",
            parameters=count(one.layer.num_parameters),
            precision=one.layer.precision or "",
            sqnr=_decibels(one),
            ms="" if one.ms is None else f"{one.ms:.3f}",
        )
        for one in layers
    ]


def count(number: int) -> str:
    """A number to three significant digits, such as ``12.3 M``; an empty text for 0."""
    if not number:
        return ""
    for least, unit in ((_LARGE, "G"), (_MEGA, "M"), (_KILO, "k")):
        if number >= least:
            return f"{number / least:.3g} {unit}"
    return f"{number:.0f}"


def plan(entry: int, layers: Sequence[int], inputs: Mapping[int, Sequence[int]]) -> Plan:
    """Columns and rows of a block's layers.

    Where several layers read the same source, the first keeps the column of the source, and each
    other one gets a new column on the right. A line to the last layer, or to a layer that has a
    column already, needs no new column, except a shortcut from the entry straight to the last
    layer. A layer stands one row below the lowest of the layers it reads.

    Args:
        entry: Index of the layer whose result the block reads, or -1 for the image.
        layers: Indices of the block's layers in graph order; its branches meet in the last layer.
        inputs: Layer -> the layers it reads, which are layers of the block or the entry.
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
    readers: dict[int, list[int]] = {}
    for layer in layers:
        for source in inputs[layer]:
            readers.setdefault(source, []).append(layer)
    return readers


def _block(block: topology.Block, layers: Sequence[_Measured], most: int) -> Block:
    entry, own = block.entry, block.layers
    inside = {entry, *own}
    # an input from before the block is drawn as a line from the block's entry
    inputs = {
        layer: list(dict.fromkeys(s if s in inside else entry for s in layers[layer].layer.inputs))
        for layer in own
    }
    layout = plan(entry, own, inputs)
    return Block(
        name=block.name,
        says=f"{block.name}: {_describe_branches(layout, own, layers)}",
        macs=count(sum(layers[layer].macs for layer in own)),
        drawing=_drawn(layout, block, layers, most),
    )


def _describe_branches(layout: Plan, own: Sequence[int], layers: Sequence[_Measured]) -> str:
    branches: dict[int, list[str]] = {}
    for layer, column in layout.columns.items():
        branches.setdefault(column, []).append(layers[layer].layer.label)
    words = "; ".join(", ".join(branch) for _, branch in sorted(branches.items()))
    end = layers[own[-1]].layer.label
    return f"{words}; then {end}" if words else end


def _drawn(layout: Plan, block: topology.Block, layers: Sequence[_Measured], most: int) -> Markup:
    entry, last = block.entry, block.layers[-1]
    width = layout.num_columns * (_BOX + _GAP) - _GAP + 2 * _MARGIN
    height = _top(layout.rows[last]) + _TALL + _MARGIN
    parts = [_edge(layout, edge, last) for edge in layout.edges]  # first, so that boxes cover them
    source = "image" if entry == _INPUT else layers[entry].layer.label
    parts.append(
        Markup('<text class="entry" x="{}" y="11">from {}</text>').format(width // 2, source)
    )
    for layer in block.layers:
        column = layout.columns.get(layer)
        left = _MARGIN + (column or 0) * (_BOX + _GAP)
        wide = _BOX if column is not None else width - 2 * _MARGIN
        place = (left, _top(layout.rows[layer]), wide)
        parts.append(_box(layers[layer], place, most))
    return Markup(
        '<svg data-chart="block" width="{0}" height="{1}" viewBox="0 0 {0} {1}" '
        'aria-hidden="true">{2}</svg>'
    ).format(width, height, Markup("").join(parts))


def _top(row: int) -> int:
    """Upper edge of a row in pixels; row 0, the entry, is one line of text, 14 pixels high."""
    return row * (_TALL + _DROP) - _TALL + 14


def _edge(layout: Plan, edge: tuple[int, int, int], last: int) -> Markup:
    """Line from a source to the column of the edge, down that column, and to the layer.

    The line starts at the lower edge of a box with one line of text; a taller box covers the start.
    """
    source, layer, column = edge
    start = layout.columns.get(source, column)
    end = column if layer == last else layout.columns[layer]
    bottom = _top(layout.rows[layer])
    first, run, to = (_MARGIN + c * (_BOX + _GAP) + _BOX // 2 for c in (start, column, end))
    above = layout.rows[source]
    top, leaves = (15 if above == 0 else _top(above) + tall for tall in (_BAR, _TALL))
    bend = _DROP // 2
    path = (
        f"M{first} {top} V{leaves} C{first} {leaves + bend} {run} {leaves} {run} {leaves + bend} "
        f"V{bottom - bend} C{run} {bottom - bend / 2} {to} {bottom - bend} {to} {bottom}"
    )
    return Markup('<path class="edge" d="{}"/>').format(path)


def _box(one: _Measured, place: tuple[int, int, int], most: int) -> Markup:
    left, top, wide = place
    middle = left + wide / 2
    kind = one.layer.precision or "unknown"
    jump = " jump" if one.noise and one.noise.is_jump else ""
    length = (_BOX - 8) * one.macs / most if most else 0.0
    words = _decibels(one, " dB") or _micros(one) or count(one.macs)
    lines_of = [Markup('<text x="{}" y="{}">{}</text>').format(middle, top + 14, one.layer.label)]
    if words:
        second = Markup('<text class="second" x="{}" y="{}">{}</text>')
        lines_of.append(second.format(middle, top + 27, words))
    tall = _TALL if words else _BAR
    return Markup(
        '<g class="box {0}"><title>{1}</title><rect x="{2}" y="{3}" width="{4}" height="{5}" '
        'rx="3"/><rect class="macs" x="{6}" y="{7}" width="{8:.1f}" height="3"/>{9}</g>'
    ).format(
        kind + jump, "; ".join(_tip(one)), left, top, wide, tall, left + 4, top + tall - 5,
        length, Markup("").join(lines_of),
    )  # fmt: skip


def _tip(one: _Measured) -> Iterator[str]:
    yield one.layer.name
    if one.layer.sizes:
        yield f"writes {' x '.join(map(str, one.layer.sizes))}"
    if one.macs:
        yield f"{count(one.macs)} multiply-adds"
    if one.layer.precision:
        yield one.layer.precision
    if _micros(one):
        yield _micros(one)
    if _decibels(one):
        yield f"SQNR {_decibels(one)} dB"


def _decibels(one: _Measured, unit: str = "") -> str:
    return f"{one.noise.sqnr_db:.0f}{unit}" if one.noise else ""


def _micros(one: _Measured) -> str:
    """The time in microseconds, such as ``49 us``; an empty text where it is unknown."""
    return "" if one.ms is None else f"{1000 * one.ms:.0f} us"


def _measured(
    network: Topology, noise: NoiseRecord | None, times: Mapping[str, float] | None
) -> list[_Measured]:
    noisy = {one.name: one for one in noise.layers} if noise else {}
    return [
        _Measured(layer=layer, noise=noisy.get(layer.name), ms=(times or {}).get(layer.name))
        for layer in network.layers
    ]
