"""Commands that say where int8 loses accuracy: ``compare-layers`` and ``sensitivity``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from edge_inception.cli._options import PATH, terminal_of, terminal_options

if TYPE_CHECKING:
    from edge_inception.artifact import Artifact
    from edge_inception.data.imageset import ImageSet
    from edge_inception.graph.layer_noise import Comparison, LayerNoise
    from edge_inception.quant.options import QuantizeOptions
    from edge_inception.report.noise_record import NoisyLayer
    from edge_inception.search.scoring import Sensitivity
    from edge_inception.search.search import Ranked
    from edge_inception.spec import Preprocess

_NAME, _OP = 36, 18
_ROW = "{:<36} {:<18}{:>8}{:>8}{:>8}"


@click.command("compare-layers")
@click.argument("float_graph", type=PATH)
@click.argument("typed_graph", type=PATH)
@click.option("--images", type=PATH, required=True, help="Folder or set; labels are not used.")
@click.option("--split", default="", help="Split of a set file.")
@click.option(
    "--max-images",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Compare on at most so many.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, with full names.")
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

    FLOAT_GRAPH is the simplified graph, TYPED_GRAPH what quantize made of it. SQNR in dB of a
    layer's result, of its noisiest input, and of that input as the layer reads it, behind the Q/DQ
    pair. A jump is a layer whose noise is 10 dB above that of its noisiest input, inputs better
    than 30 dB counting as 30 dB.
    """
    from edge_inception import artifact
    from edge_inception.artifact import Artifact, TypedGraph
    from edge_inception.data import imageset
    from edge_inception.data.images import batches
    from edge_inception.graph import layer_noise
    from edge_inception.graph.check import load_graph

    with terminal_of(flags) as terminal:
        made = (artifact.load(Artifact, float_graph), artifact.load(TypedGraph, typed_graph))
        how = _same_preprocess(made)
        whole = imageset.open_set(images, split=split)
        chosen = whole.subset(max_images)
        first, second = (load_graph(one.path) for one in made)
        with terminal.working("compare-layers") as say:
            found = layer_noise.compare_layers(
                (first, second),
                (group.images for group in batches(chosen.items, how, 1)),
                progress=lambda done, _: say(done, len(chosen.items)),
            )
    lines = [_json(made, found, chosen)] if as_json else _text(found, chosen, whole)
    click.echo("\n".join(lines))


def _same_preprocess(made: Sequence[Artifact]) -> Preprocess:
    """The preprocessing of both graphs.

    Raises:
        InputError: They differ: one image would be two different inputs.
    """
    from edge_inception.errors import InputError
    from edge_inception.sidecar import ModelDetails

    first, second = (one.details for one in made)
    if not isinstance(first, ModelDetails) or not isinstance(second, ModelDetails):
        raise InputError(
            f"{made[0].path} is a {made[0].kind}, which takes no images", hint="give two graphs"
        )
    if first.preprocess != second.preprocess:
        raise InputError(
            f"{made[0].path} and {made[1].path} take differently preprocessed images",
            hint="compare graphs of one export",
        )
    return first.preprocess


def _json(made: Sequence[Artifact], found: Comparison, chosen: ImageSet) -> str:
    from edge_inception import records
    from edge_inception.graph import layer_noise
    from edge_inception.report.noise_record import NoiseRecord

    layers = tuple(_noisy_layer(layer, chosen) for layer in found.layers)
    jump = layer_noise.first_jump(found.layers)
    record = NoiseRecord(
        graphs=tuple(str(one.path) for one in made),
        images=tuple(str(item.path) for item in chosen.items),
        layers=layers,
        left_out=tuple(found.left_out),
        jump=layers[found.layers.index(jump)] if jump else None,
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


def _text(found: Comparison, chosen: ImageSet, whole: ImageSet) -> Iterator[str]:
    from edge_inception.cli._terminal import wrapped
    from edge_inception.errors import listed, one_line
    from edge_inception.graph.layer_noise import first_jump

    yield _ROW.format("layer", "op", "input", "read", "SQNR dB")
    yield from (_line(layer) for layer in found.layers)
    yield ""
    if found.left_out:
        what = f"{listed(found.left_out)}: not in the second graph by name and shape"
        yield wrapped("left out", one_line(what), indent=9)
    names = listed(item.path.name for item in chosen.items)
    count = f"{len(chosen.items)} of {len(whole.items)} in {whole.name}: {names}"
    yield wrapped("images", one_line(count), indent=9)
    jump = first_jump(found.layers)
    if jump is None:
        yield wrapped("jump", "none: the error grows evenly", indent=9)
        return
    worst = chosen.items[jump.worst_image].path.name
    yield wrapped("jump", one_line(f"{_sentence(jump)}; worst on {worst}"), indent=9)


def _line(layer: LayerNoise) -> str:
    from edge_inception.cli._terminal import shortened
    from edge_inception.errors import one_line

    name, op = shortened(one_line(layer.name), _NAME), shortened(one_line(layer.op), _OP)
    figures = (_cell(value) for value in (layer.inputs, layer.read, layer.output))
    return _ROW.format(name, op, *figures) + (" *" if layer.is_jump else "")


def _cell(noise_to_signal: float) -> str:
    from edge_inception.graph.layer_noise import LIMIT_DB, decibels

    value = decibels(noise_to_signal)
    return "exact" if value == LIMIT_DB else f"{value:.1f}"


def _sentence(jump: LayerNoise) -> str:
    from edge_inception.graph.layer_noise import decibels

    why = f"its own weights, or channels of '{jump.noisiest}' that are small beside others"
    if not jump.noisiest:
        why = "its own weights, or what it reads, which the first graph does not compute"
    elif jump.is_pair_to_blame:
        why = f"the int8 scale of '{jump.noisiest}'"
    lost = f"from {_cell(jump.inputs)} to {decibels(jump.output):.1f} dB"
    return f"{jump.op} '{jump.name}' falls {lost}: {why}"


_RANKED = "{:>8} {:>8} {:>7} {:>6}  "


@click.command()
@click.argument("folder", type=PATH, required=False)
@click.option("--graph", type=PATH, help="Simplified graph, instead of a build's FOLDER.")
@click.option("--ranges", type=PATH, help="Its range table.")
@click.option(
    "--images",
    type=PATH,
    help="Calibration images, of which 512 are used: confirm the worst groups on them.",
)
@click.option("--split", default="", help="Split of a set file.")
@click.option(
    "--placement", default="", help="Of the Q/DQ pairs; that of FOLDER, else the default."
)
@click.option("--float-rest", default="", help="fp16 or fp32; that of FOLDER, else fp16.")
@click.option("--threads", type=int, default=0, help="CPU threads; 0 = all usable.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
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
    threads: int,
    as_json: bool,
    **flags: object,
) -> None:
    """Rank the groups of an int8 graph by the accuracy that they cost.

    A group is one int8 tensor with the layers that read it; its name is what --keep-float takes.
    "expected" is the SQNR of those layers in dB as the range table tells it, without running
    anything. With --images, for the worst quarter, of the images that int8 affects most:
    "measured" is the SQNR of the logits in dB with the group alone in int8, "lost" the top-1 drop
    in percentage points, "-" of embeddings. Of a group that holds no weights, since only pools or
    sums read it, both are what the whole int8 graph loses by it. "MACs": share of the
    multiply-adds that stays float when the group does.
    """
    from edge_inception import artifact, records
    from edge_inception.artifact import RangeTable, SimplifiedGraph
    from edge_inception.data import imageset
    from edge_inception.pipeline import inputs
    from edge_inception.search import scoring, search
    from edge_inception.search.options import SearchOptions
    from edge_inception.spec import Budget

    graph_path, ranges_path = _material(folder, graph, ranges)
    if split and not images:
        _refuse_split(split)
    with terminal_of(flags) as terminal:
        simplified = artifact.load(SimplifiedGraph, graph_path)
        table = artifact.load(RangeTable, ranges_path)
        searched = _Searched.of(folder, placement, float_rest)
        options = SearchOptions(
            budget=Budget(max_drop_pp=0.0),
            quantize=searched.options,
            threads=inputs.require_threads(threads),
        )
        found = None
        if images is None:
            ranking = search.ranked(scoring.groups_of(simplified, table, options.quantize))
        else:
            chosen = imageset.open_set(images, split=split)
            with terminal.working("sensitivity") as progress:
                found = scoring.sensitivity(simplified, table, chosen, options, progress=progress)
            ranking = list(found.ranking)
    if as_json:
        record = {
            "graph": str(graph_path),
            "ranges": str(ranges_path),
            "placement": searched.placement,
            "kept_float": sorted(searched.kept),
            "metric": (found.metric or None) if found else None,
            "plain": records.plain(scoring.scored_set(found.plain)) if found else None,
            "ranking": [records.plain(scoring.ranked_group(one)) for one in ranking],
        }
        click.echo(json.dumps(record, indent=1))
        return
    lines = [*searched.lines(), *(_plain(found) if found else ()), *_ranking(ranking, searched)]
    click.echo("\n".join(lines))


def _refuse_split(split: str) -> NoReturn:
    from edge_inception.errors import InputError

    raise InputError(f"--split {split} of no set", hint="give its set file as --images")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Searched:
    """The int8 graph whose groups are ranked: all of them in int8, in the placement of a build.

    ``typed`` is the graph of that build, and ``kept`` the groups that are float in it.
    """

    options: QuantizeOptions
    typed: Path | None
    kept: frozenset[str]

    @classmethod
    def of(cls, folder: Path | None, placement: str, float_rest: str) -> _Searched:
        """Of a build's folder, unless another graph is asked for, or the default.

        Raises:
            InputError: No such placement or float rest.
        """
        from edge_inception import artifact, records
        from edge_inception.artifact import TypedGraph
        from edge_inception.errors import member
        from edge_inception.quant.options import FloatRest, QuantizeOptions
        from edge_inception.spec import Precision

        typed = folder / "model.int8.onnx" if folder else None
        made = QuantizeOptions(precision=Precision.INT8)
        if typed and typed.exists():
            kept = artifact.load(TypedGraph, typed).provenance.options
            hint = f"quantize {typed.name} again"
            made = records.convert(QuantizeOptions, kept, where=f"{typed}, its options", hint=hint)
        else:
            typed = None
        options = QuantizeOptions(
            precision=Precision.INT8,
            placement=placement or made.placement,
            float_rest=member(FloatRest, "float rest", float_rest or made.float_rest.value),
            bias_correction=made.bias_correction,
        )
        if (options.placement, options.float_rest) != (made.placement, made.float_rest):
            return cls(options=options, typed=None, kept=frozenset())
        return cls(options=options, typed=typed, kept=frozenset(made.keep))

    @property
    def placement(self) -> str:
        """Its name, also of the default."""
        from edge_inception.quant.options import policy_of

        return policy_of(self.options).name

    def lines(self) -> Iterator[str]:
        """What is ranked."""
        from edge_inception.cli._terminal import wrapped
        from edge_inception.errors import counted

        text = self.placement
        if self.typed:
            text += f", as in {self.typed}"
        if self.kept:
            text += f", where {counted(len(self.kept), 'group')} marked * stay float"
        yield wrapped("placement", text, indent=11)


def _material(folder: Path | None, graph: Path | None, ranges: Path | None) -> tuple[Path, Path]:
    """Graph and range table: those of a build's folder, or the two that are named.

    Raises:
        InputError: Neither, or both.
    """
    from edge_inception.errors import InputError

    if folder and not graph and not ranges:
        return folder / "model.simplified.onnx", folder / "model.ranges.json"
    if graph and ranges and not folder:
        return graph, ranges
    raise InputError(
        "got " + (f"{folder} and a graph of its own" if folder else "no graph with its ranges"),
        hint="name a build's folder, or --graph and --ranges",
    )


def _plain(found: Sensitivity) -> Iterator[str]:
    """What all of them cost together."""
    from edge_inception.cli._terminal import wrapped
    from edge_inception.errors import counted
    from edge_inception.graph.layer_noise import decibels

    lost = f"{found.metric} {found.plain.drop_pp:.2f} pp, " if found.metric else ""
    noise = f"SQNR {decibels(found.plain.noise):.1f} dB"
    figures = f"{lost}{noise} on {counted(found.num_images, 'image')}"
    yield wrapped("all int8", figures, indent=11)


def _ranking(ranking: Sequence[Ranked], searched: _Searched) -> Iterator[str]:
    """Figures first, so that names are never cut: they are what --keep-float takes."""
    from edge_inception.cli._terminal import wrapped
    from edge_inception.errors import listed, one_line
    from edge_inception.graph.layer_noise import decibels

    header = _RANKED.format("expected", "measured", "lost", "MACs")
    yield f"{header}group: layers that read it"
    for one in ranking:
        group = one.group
        figures = _RANKED.format(
            f"{decibels(group.free):.1f}",
            "-" if one.harm is None else f"{decibels(one.harm):.1f}",
            "-" if one.lost_pp is None else f"{one.lost_pp:.1f}",
            f"{100 * group.cost:.1f}%",
        )
        mark = "*" if group.name in searched.kept else ""
        names = f"{one_line(group.name)}{mark}: {one_line(listed(group.layers))}"
        yield wrapped(figures, names, indent=len(figures))


COMMANDS = (compare_layers, sensitivity)
