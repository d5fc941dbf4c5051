"""Commands that show where int8 loses accuracy: ``compare-layers`` and ``sensitivity``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_inception.cli._layout import shortened, wrapped
from edge_inception.cli._options import (
    PATH,
    json_option,
    open_terminal,
    terminal_options,
    threads_option,
)
from edge_inception.errors import InputError, counted, listed, member, one_line

if TYPE_CHECKING:
    from edge_inception.artifact import Artifact, RangeTable
    from edge_inception.data.imageset import ImageSet
    from edge_inception.graph.layer_noise import Comparison, LayerNoise
    from edge_inception.quant.options import QuantizeOptions
    from edge_inception.quant.search_record import RankedGroup
    from edge_inception.report.noise_record import NoisyLayer
    from edge_inception.search.scoring import Sensitivity
    from edge_inception.spec import Preprocess

_NAME, _OP = 36, 18
_LAYER_ROW = "{:<36} {:<18}{:>8}{:>8}{:>8}"


@click.command("compare-layers")
@click.argument("float_graph", type=PATH)
@click.argument("typed_graph", type=PATH)
@click.option("--images", type=PATH, required=True, help="Images: a folder or a set file.")
@click.option("--split", default="", help="Split of a set file.")
@click.option(
    "--max-images",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Compare on at most this many images.",
)
@json_option
@terminal_options
def compare_layers(
    float_graph: Path,
    typed_graph: Path,
    *,
    images: Path,
    split: str,
    max_images: int,
    as_json: bool,
    **flags: object,
) -> None:
    """Show the noise of every layer of a typed graph, and where it jumps.

    FLOAT_GRAPH is the simplified graph, and TYPED_GRAPH the graph that quantize made of it. The
    columns are SQNR in dB: "input" of the layer's noisiest input, "read" of that input behind its
    Q/DQ pair, and "SQNR dB" of the layer's output. A jump, marked *, is a layer whose output is
    10 dB worse than its noisiest input; an input better than 30 dB counts as 30 dB.
    """
    from edge_inception import artifact
    from edge_inception.artifact import Artifact, TypedGraph
    from edge_inception.data import imageset
    from edge_inception.data.images import batches
    from edge_inception.graph import layer_noise
    from edge_inception.graph.check import load_graph

    with open_terminal(flags) as terminal:
        graphs = (artifact.load(Artifact, float_graph), artifact.load(TypedGraph, typed_graph))
        preprocess = _shared_preprocess(graphs)
        image_set = imageset.open_set(images, split=split)
        chosen = image_set.subset(max_images)
        with terminal.working("compare-layers") as progress:
            comparison = layer_noise.compare_layers(
                (load_graph(float_graph), load_graph(typed_graph)),
                (group.images for group in batches(chosen.items, preprocess, 1)),
                progress=lambda done, _: progress(done, len(chosen.items)),
            )
    lines = (
        [_to_json(graphs, comparison, chosen)]
        if as_json
        else _comparison_lines(comparison, chosen, image_set)
    )
    click.echo("\n".join(lines))


def _shared_preprocess(graphs: Sequence[Artifact]) -> Preprocess:
    """The preprocessing that both graphs share; other artifacts and differences are refused."""
    from edge_inception.sidecar import ModelDetails

    first, second = (graph.details for graph in graphs)
    if not isinstance(first, ModelDetails) or not isinstance(second, ModelDetails):
        raise InputError(
            f"{graphs[0].path} is a {graphs[0].kind}, which takes no images", hint="give two graphs"
        )
    if first.preprocess != second.preprocess:
        raise InputError(
            f"{graphs[0].path} and {graphs[1].path} take differently preprocessed images",
            hint="compare graphs of one export",
        )
    return first.preprocess


def _to_json(graphs: Sequence[Artifact], comparison: Comparison, chosen: ImageSet) -> str:
    from edge_inception import records
    from edge_inception.graph import layer_noise
    from edge_inception.report.noise_record import NoiseRecord

    layers = tuple(_noisy_layer(layer, chosen) for layer in comparison.layers)
    jump = layer_noise.first_jump(comparison.layers)
    record = NoiseRecord(
        graphs=tuple(str(graph.path) for graph in graphs),
        images=tuple(str(item.path) for item in chosen.items),
        layers=layers,
        left_out=tuple(comparison.left_out),
        jump=layers[comparison.layers.index(jump)] if jump else None,
    )
    return json.dumps(records.plain(record), indent=1)


def _noisy_layer(layer: LayerNoise, chosen: ImageSet) -> NoisyLayer:
    from edge_inception.graph.layer_noise import decibels
    from edge_inception.report.noise_record import NoisyLayer

    return NoisyLayer(
        name=layer.name,
        op=layer.op,
        tensor=layer.tensor,
        sqnr_db=decibels(layer.output),
        input_sqnr_db=decibels(layer.inputs),
        read_sqnr_db=decibels(layer.read),
        noisiest_input=layer.noisiest,
        is_jump=layer.is_jump,
        is_scale_to_blame=layer.is_pair_to_blame,
        worst_image=str(chosen.items[layer.worst_image].path),
    )


def _comparison_lines(
    comparison: Comparison, chosen: ImageSet, image_set: ImageSet
) -> Iterator[str]:
    from edge_inception.graph.layer_noise import first_jump

    yield _LAYER_ROW.format("layer", "op", "input", "read", "SQNR dB")
    yield from (_layer_row(layer) for layer in comparison.layers)
    yield ""
    if comparison.left_out:
        absent = f"{listed(comparison.left_out)}: not in the second graph by name and shape"
        yield wrapped("left out", one_line(absent), indent=9)
    names = listed(item.path.name for item in chosen.items)
    count = f"{len(chosen.items)} of {len(image_set.items)} in {image_set.name}: {names}"
    yield wrapped("images", one_line(count), indent=9)
    jump = first_jump(comparison.layers)
    if jump is None:
        yield wrapped("jump", "none: the error grows evenly", indent=9)
        return
    worst = chosen.items[jump.worst_image].path.name
    yield wrapped("jump", one_line(f"{_describe_jump(jump)}; worst on {worst}"), indent=9)


def _layer_row(layer: LayerNoise) -> str:
    name, op = shortened(one_line(layer.name), _NAME), shortened(one_line(layer.op), _OP)
    figures = (_cell(value) for value in (layer.inputs, layer.read, layer.output))
    return _LAYER_ROW.format(name, op, *figures) + (" *" if layer.is_jump else "")


def _cell(noise_to_signal: float) -> str:
    from edge_inception.graph.layer_noise import LIMIT_DB, decibels

    value = decibels(noise_to_signal)
    return "exact" if value == LIMIT_DB else f"{value:.1f}"


def _describe_jump(jump: LayerNoise) -> str:
    from edge_inception.graph.layer_noise import decibels

    cause = f"its own weights, or channels of '{jump.noisiest}' that are small beside others"
    if not jump.noisiest:
        cause = "its own weights, or what it reads, which the first graph does not compute"
    elif jump.is_pair_to_blame:
        cause = f"the int8 scale of '{jump.noisiest}'"
    drop = f"from {_cell(jump.inputs)} to {decibels(jump.output):.1f} dB"
    return f"{jump.op} '{jump.name}' falls {drop}: {cause}"


_GROUP_ROW = "{:>8} {:>8} {:>7} {:>6}  "


@click.command()
@click.argument("folder", type=PATH, required=False)
@click.option("--graph", type=PATH, help="Simplified graph, instead of FOLDER.")
@click.option("--ranges", type=PATH, help="Range table of --graph.")
@click.option(
    "--images",
    type=PATH,
    help="Calibration images, of which 512 are used to measure the worst groups.",
)
@click.option("--split", default="", help="Split of a set file.")
@click.option("--placement", default="", help="Placement of the Q/DQ pairs; by default FOLDER's.")
@click.option("--float-rest", default="", help="fp16 or fp32; by default FOLDER's.")
@threads_option
@json_option
@terminal_options
def sensitivity(
    folder: Path | None,
    *,
    graph: Path | None,
    ranges: Path | None,
    images: Path | None,
    split: str,
    placement: str,
    float_rest: str,
    threads: int | None,
    as_json: bool,
    **flags: object,
) -> None:
    """Rank the groups of an int8 graph by the accuracy that they cost.

    FOLDER is the output folder of a build. A group is the tensors that share a scale, with
    the layers that read them; --keep-float takes its name.
    "expected" is the SQNR in dB of those layers, computed from the range table without running
    the graph. "MACs" is the share of the multiply-adds that stays float when the group does.

    With --images the worst quarter of the groups is also measured, on the images that int8
    affects most. "measured" is the SQNR in dB of the logits with this group alone in int8, and
    "lost" the top-1 drop in percentage points ("-" for embeddings). A group without weights,
    which only pools or sums read, is measured as the loss that it adds to the whole int8 graph.
    """
    from edge_inception import artifact, records
    from edge_inception.artifact import RangeTable, SimplifiedGraph
    from edge_inception.data import imageset
    from edge_inception.pipeline import inputs
    from edge_inception.search import scoring, search
    from edge_inception.search.options import SearchOptions
    from edge_inception.spec import Budget

    graph_path, ranges_path = _graph_and_ranges(folder, graph, ranges)
    if split and not images:
        raise InputError(f"--split {split} of no set", hint="give its set file as --images")
    with open_terminal(flags) as terminal:
        simplified = artifact.load(SimplifiedGraph, graph_path)
        table = artifact.load(RangeTable, ranges_path)
        ranked_graph = _RankedGraph.from_build(folder, table, placement, float_rest)
        options = SearchOptions(
            budget=Budget(max_drop_pp=0.0),
            quantize=ranked_graph.options,
            threads=inputs.require_threads(threads),
        )
        measured = None
        if images is None:
            ranking = search.rank_by_estimate(
                scoring.groups_of(simplified, table, options.quantize)
            )
        else:
            chosen = imageset.open_set(images, split=split)
            with terminal.working("sensitivity") as progress:
                measured = scoring.sensitivity(
                    simplified, table, chosen, options, progress=progress
                )
            ranking = list(measured.ranking)
    if as_json:
        record = {
            "graph": str(graph_path),
            "ranges": str(ranges_path),
            "placement": ranked_graph.placement,
            "kept_float": sorted(ranked_graph.kept),
            "metric": (measured.metric or None) if measured else None,
            "plain": records.plain(measured.plain) if measured else None,
            "ranking": [records.plain(group) for group in ranking],
        }
        click.echo(json.dumps(record, indent=1))
        return
    whole = _int8_line(measured) if measured else ()
    click.echo("\n".join((*ranked_graph.lines(), *whole, *_ranking_lines(ranking, ranked_graph))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _RankedGraph:
    """The graph whose groups (tensors that share a scale, with their readers) are ranked.

    In this graph all groups are int8. ``typed`` is the typed graph of a build with the same
    ``options``, None without one; ``kept`` are the groups that are float in ``typed``.
    """

    options: QuantizeOptions
    typed: Path | None
    kept: frozenset[str]

    @classmethod
    def from_build(
        cls, folder: Path | None, ranges: RangeTable, placement: str, float_rest: str
    ) -> _RankedGraph:
        """The graph by the given options, those of the build in ``folder``, and the ranges."""
        from edge_inception import artifact, records
        from edge_inception.artifact import TypedGraph
        from edge_inception.quant.options import FloatRest, QuantizeOptions, resolve
        from edge_inception.spec import Precision

        typed = folder / "model.int8.onnx" if folder else None
        built = QuantizeOptions(precision=Precision.INT8)
        if typed and typed.exists():
            written = artifact.load(TypedGraph, typed).provenance.options
            where, hint = f"{typed}, its options", f"quantize {typed.name} again"
            built = records.convert(QuantizeOptions, written, where=where, hint=hint)
        else:
            typed = None
        asked = QuantizeOptions(
            precision=Precision.INT8,
            typing=built.typing,
            placement=placement or built.placement,
            rounding=built.rounding,
            fold_zero_points=built.fold_zero_points,
            float_rest=member(FloatRest, "float rest", float_rest or built.float_rest.value),
            bias_correction=built.bias_correction,
        )
        options = resolve(asked, ranges)
        if (options.placement, options.float_rest) != (built.placement, built.float_rest):
            return cls(options=options, typed=None, kept=frozenset())
        return cls(options=options, typed=typed, kept=frozenset(built.keep))

    @property
    def placement(self) -> str:
        """Name of the placement."""
        from edge_inception.quant.options import policy_of

        return policy_of(self.options).name

    def lines(self) -> Iterator[str]:
        """A line with the placement and, for a build's graph, its path and number of groups."""
        text = self.placement
        if self.typed:
            text += f", as in {self.typed}"
        if self.kept:
            text += f", where {counted(len(self.kept), 'group')} marked * stay float"
        yield wrapped("placement", text, indent=11)


def _graph_and_ranges(
    folder: Path | None, graph: Path | None, ranges: Path | None
) -> tuple[Path, Path]:
    """Paths of graph and range table: those in a build's folder, or the two that are given."""
    if folder and not graph and not ranges:
        return folder / "model.simplified.onnx", folder / "model.ranges.json"
    if graph and ranges and not folder:
        return graph, ranges
    raise InputError(
        "got " + (f"{folder} and a graph of its own" if folder else "no graph with its ranges"),
        hint="name a build's folder, or --graph and --ranges",
    )


def _int8_line(measured: Sensitivity) -> Iterator[str]:
    """A line with the accuracy that all groups cost together."""
    from edge_inception.graph.layer_noise import decibels

    plain = measured.plain
    lost = f"{measured.metric} {plain.drop_pp:.2f} pp, " if measured.metric else ""
    noise = f"SQNR {decibels(plain.noise_to_signal):.1f} dB"
    figures = f"{lost}{noise} on {counted(measured.num_images, 'image')}"
    yield wrapped("all int8", figures, indent=11)


def _ranking_lines(ranking: Sequence[RankedGroup], ranked_graph: _RankedGraph) -> Iterator[str]:
    """A header and a row per group, names last and never cut, since --keep-float needs them."""
    from edge_inception.graph.layer_noise import decibels

    header = _GROUP_ROW.format("expected", "measured", "lost", "MACs")
    yield f"{header}group: layers that read it"
    for ranked in ranking:
        figures = _GROUP_ROW.format(
            f"{decibels(ranked.free_noise_to_signal):.1f}",
            "-" if ranked.harm is None else f"{decibels(ranked.harm):.1f}",
            "-" if ranked.lost_pp is None else f"{ranked.lost_pp:.1f}",
            f"{100 * ranked.float_share_of_macs:.1f}%",
        )
        mark = "*" if ranked.group in ranked_graph.kept else ""
        names = f"{one_line(ranked.group)}{mark}: {one_line(listed(ranked.layers))}"
        yield wrapped(figures, names, indent=len(figures))
