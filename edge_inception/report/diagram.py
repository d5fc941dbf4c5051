"""Drawings of the network's blocks as SVG: branches side by side, a box for each layer.

Vega-Lite draws no graphs of nodes and edges, so the SVG is written here; markupsafe escapes every
text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from edge_inception.report.noise_record import NoiseRecord

if TYPE_CHECKING:
    from edge_inception.graph import topology
    from edge_inception.graph.topology import Topology

# sizes in pixels
_BOX_WIDTH, _ROW_HEIGHT, _COLUMN_GAP, _ROW_GAP = 58, 36, 5, 16
_LOW_BOX_HEIGHT = 22  # of a box with one line of text; a box with two fills its row
_ENTRY_HEIGHT = 14  # of row 0, which is a line of text
_MARGIN = 2
_INPUT = -1  # index that stands for the image


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The drawing of one block; ``description`` is what screen readers read out."""

    name: str
    description: str
    macs: str
    drawing: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer in the table beneath the drawings; a text is empty where the figure is unknown.

    ``num_macs`` are its multiply-adds, 0 where unknown, and ``share`` is their percentage of the
    network's. ``sqnr`` is in dB. ``is_jump``: much of the error of the int8 graph arises here.
    """

    name: str
    label: str
    sizes: str
    num_macs: int
    share: str
    parameters: str
    precision: str
    sqnr: str
    is_jump: bool
    ms: str
    microseconds: str

    @property
    def macs(self) -> str:
        """Multiply-adds as text."""
        return format_count(self.num_macs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Positions in the drawing of a block.

    ``columns`` and ``rows`` map a layer's index to a number from 0; row 0 is the entry. The entry
    and the last layer have no column, since they span the drawing. An edge is (source, layer that
    reads it, column in which its line runs down).
    """

    columns: Mapping[int, int]
    rows: Mapping[int, int]
    edges: tuple[tuple[int, int, int], ...]
    num_columns: int


def draw_blocks(
    network: Topology, noise: NoiseRecord | None = None, times: Mapping[str, float] | None = None
) -> list[Block]:
    """Drawings of all blocks.

    Args:
        network: Layers and blocks of the network.
        noise: Record of ``compare-layers``, which has the SQNR of each layer.
        times: Name of a layer -> its time in ms, as ``bench --layers`` measured it.
    """
    rows = layer_rows(network, noise, times)
    return [_draw_block(network, block, rows) for block in network.blocks]


def layer_rows(
    network: Topology, noise: NoiseRecord | None = None, times: Mapping[str, float] | None = None
) -> list[LayerRow]:
    """Table rows of all layers; the arguments are those of ``draw_blocks``."""
    noise_by_name = {layer.name: layer for layer in noise.layers} if noise else {}
    total = sum(layer.macs or 0 for layer in network.layers)
    rows = []
    for layer in network.layers:
        layer_noise, ms = noise_by_name.get(layer.name), (times or {}).get(layer.name)
        rows.append(
            LayerRow(
                name=layer.name,
                label=layer.label,
                sizes=" x ".join(map(str, layer.sizes or ())),
                num_macs=layer.macs or 0,
                share=f"{100 * layer.macs / total:.1f}" if layer.macs else "",
                parameters=format_count(layer.num_parameters),
                precision=layer.precision or "",
                sqnr=f"{layer_noise.sqnr_db:.0f}" if layer_noise else "",
                is_jump=layer_noise is not None and layer_noise.is_jump,
                ms="" if ms is None else f"{ms:.3f}",
                microseconds="" if ms is None else f"{1000 * ms:.0f} us",
            )
        )
    return rows


def format_count(number: int) -> str:
    """A number to three significant digits with an SI prefix, such as ``12.3 M``; empty for 0."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return str(number or "")


def lay_out(entry: int, layers: Sequence[int], inputs: Mapping[int, Sequence[int]]) -> Layout:
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
    readers = {
        source: [layer for layer in layers if source in inputs[layer]]
        for source in (entry, *layers)
    }
    last = layers[-1]
    columns: dict[int, int] = {}
    edge_columns: dict[tuple[int, int], int] = {}
    num_columns = 1

    def follow(source: int, column: int) -> None:
        nonlocal num_columns
        is_free = True
        for layer in readers[source]:
            if layer in columns or (layer == last and source != entry):
                edge_columns[source, layer] = column
                continue
            if not is_free:
                column, num_columns = num_columns, num_columns + 1
            is_free = False
            edge_columns[source, layer] = column
            if layer != last:
                columns[layer] = column
                follow(layer, column)

    follow(entry, 0)
    rows = {entry: 0}
    for layer in layers:
        rows[layer] = 1 + max(rows[source] for source in inputs[layer])
    edges = tuple((source, layer, column) for (source, layer), column in edge_columns.items())
    return Layout(columns=columns, rows=rows, edges=edges, num_columns=num_columns)


def _draw_block(network: Topology, block: topology.Block, rows: Sequence[LayerRow]) -> Block:
    inside = {block.entry, *block.layers}
    # an input from before the block is drawn as a line from the block's entry
    inputs = {
        layer: list(
            dict.fromkeys(i if i in inside else block.entry for i in network.layers[layer].inputs)
        )
        for layer in block.layers
    }
    layout = lay_out(block.entry, block.layers, inputs)
    return Block(
        name=block.name,
        description=f"{block.name}: {_describe_branches(layout, rows, block.layers[-1])}",
        macs=format_count(sum(rows[layer].num_macs for layer in block.layers)),
        drawing=_draw_svg(layout, block, rows),
    )


def _describe_branches(layout: Layout, rows: Sequence[LayerRow], last: int) -> str:
    branches: dict[int, list[str]] = {}
    for layer, column in layout.columns.items():
        branches.setdefault(column, []).append(rows[layer].label)
    words = "; ".join(", ".join(branch) for _, branch in sorted(branches.items()))
    return f"{words}; then {rows[last].label}" if words else rows[last].label


def _draw_svg(layout: Layout, block: topology.Block, rows: Sequence[LayerRow]) -> Markup:
    max_macs = max(row.num_macs for row in rows)
    width = layout.num_columns * (_BOX_WIDTH + _COLUMN_GAP) - _COLUMN_GAP + 2 * _MARGIN
    height = _top(layout.rows[block.layers[-1]]) + _ROW_HEIGHT + _MARGIN
    parts = [_edge(layout, edge) for edge in layout.edges]  # first, so that boxes cover them
    source = "image" if block.entry == _INPUT else rows[block.entry].label
    entry = Markup('<text class="entry" x="{}" y="11">from {}</text>')
    parts.append(entry.format(width // 2, source))
    for layer in block.layers:
        column = layout.columns.get(layer)
        left = _MARGIN + (column or 0) * (_BOX_WIDTH + _COLUMN_GAP)
        box_width = _BOX_WIDTH if column is not None else width - 2 * _MARGIN
        box = (left, _top(layout.rows[layer]), box_width)
        parts.append(_box(rows[layer], box, max_macs))
    return Markup(
        '<svg data-chart="block" width="{0}" height="{1}" viewBox="0 0 {0} {1}" '
        'aria-hidden="true">{2}</svg>'
    ).format(width, height, Markup("").join(parts))


def _top(row: int) -> int:
    """Upper edge of a row in pixels, for row 1 and the rows below it."""
    return row * (_ROW_HEIGHT + _ROW_GAP) - _ROW_HEIGHT + _ENTRY_HEIGHT


def _edge(layout: Layout, edge: tuple[int, int, int]) -> Markup:
    """Line from a source to the column of the edge, down that column, and to the layer.

    The line starts at the lower edge of a box with one line of text; a taller box covers the start.
    """
    source, layer, column = edge
    columns = layout.columns.get(source, column), column, layout.columns.get(layer, column)
    x0, x1, x2 = (_MARGIN + c * (_BOX_WIDTH + _COLUMN_GAP) + _BOX_WIDTH // 2 for c in columns)
    row, bottom, bend = layout.rows[source], _top(layout.rows[layer]), _ROW_GAP // 2
    top, y = (15 if row == 0 else _top(row) + h for h in (_LOW_BOX_HEIGHT, _ROW_HEIGHT))
    path = (
        f"M{x0} {top} V{y} C{x0} {y + bend} {x1} {y} {x1} {y + bend} "
        f"V{bottom - bend} C{x1} {bottom - bend / 2} {x2} {bottom - bend} {x2} {bottom}"
    )
    return Markup('<path class="edge" d="{}"/>').format(path)


def _box(row: LayerRow, box: tuple[int, int, int], max_macs: int) -> Markup:
    """Box of a layer: its label, its SQNR, time or multiply-adds, and a bar of multiply-adds."""
    left, top, width = box
    middle = left + width / 2
    length = (_BOX_WIDTH - 8) * row.num_macs / max_macs if max_macs else 0.0
    figure = f"{row.sqnr} dB" if row.sqnr else row.microseconds or row.macs
    texts = [Markup('<text x="{}" y="{}">{}</text>').format(middle, top + 14, row.label)]
    if figure:
        second = Markup('<text class="second" x="{}" y="{}">{}</text>')
        texts.append(second.format(middle, top + 27, figure))
    height = _ROW_HEIGHT if figure else _LOW_BOX_HEIGHT
    tooltip = [
        row.name,
        f"writes {row.sizes}" if row.sizes else "",
        f"{row.macs} multiply-adds" if row.macs else "",
        row.precision,
        row.microseconds,
        f"SQNR {row.sqnr} dB" if row.sqnr else "",
    ]
    return Markup(
        '<g class="box {0}"><title>{1}</title><rect x="{2}" y="{3}" width="{4}" height="{5}" '
        'rx="3"/><rect class="macs" x="{6}" y="{7}" width="{8:.1f}" height="3"/>{9}</g>'
    ).format(
        (row.precision or "unknown") + " jump" * row.is_jump, "; ".join(filter(None, tooltip)),
        left, top, width, height, left + 4, top + height - 5, length, Markup("").join(texts),
    )  # fmt: skip
