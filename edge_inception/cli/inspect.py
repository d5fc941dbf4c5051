"""The command ``inspect``: operators, parameters, memory and layers of any ONNX graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_inception.cli._layout import WIDTH, shortened, wrapped
from edge_inception.cli._options import PATH, dynamic_batch_option, json_option
from edge_inception.errors import InputError, listed, one_line

if TYPE_CHECKING:
    import onnx

    from edge_inception.graph.dla import Plan
    from edge_inception.graph.macs import Sizes, Tensor
    from edge_inception.graph.statistics import Layer, Statistics
    from edge_inception.hardware.target import Target

_INDENT = 15
_MAX_SHAPE = 20
_MAX_OP = 18
_UNKNOWN = "?"


@click.command()
@click.argument("graph", type=PATH)
@dynamic_batch_option
@click.option("--layers/--no-layers", default=True, help="Print the table of layers, or do not.")
@click.option("--dla", is_flag=True, help="Predict what the DLA of --target would run.")
@click.option("--target", help="Target for --dla.")
@json_option
def inspect(
    graph: Path,
    *,
    batch: int | None,
    layers: bool,
    dla: bool,
    target: str | None,
    as_json: bool,
) -> None:
    """Show the operators, parameters, multiply-adds, memory and layers of any ONNX file.

    Multiply-adds and activation memory are for the whole batch. Nodes that compute constants, such
    as DequantizeLinear of a weight, do not count as layers.

    --dla predicts, without a device, which layers TensorRT would run on a Jetson's deep learning
    accelerator and in how many pieces, and which layers fall back to the GPU and why.
    """
    from edge_inception.graph.check import load_graph
    from edge_inception.graph.statistics import statistics

    hardware = _dla_target(target, is_dla=dla)
    model = load_graph(graph)
    figures = statistics(model, batch=batch)
    plans = _dla_plans(model, batch, hardware) if hardware else {}
    if as_json:
        record = {"graph": str(graph), **dataclasses.asdict(figures)}
        if not layers:
            record.pop("layers")
        if plans:
            record |= {"dla": {name: dataclasses.asdict(plan) for name, plan in plans.items()}}
        click.echo(json.dumps(record, indent=1))
        return
    lines = [*_layer_table(figures), ""] if layers else []
    if hardware:
        from edge_inception.report.dla import rows

        lines += [wrapped(lead, text, indent=_INDENT) for lead, text in rows(hardware, plans)]
        lines.append("")
    click.echo("\n".join((*lines, *_summary(graph, figures))))


def _dla_target(name: str | None, *, is_dla: bool) -> Target | None:
    """The target of ``--dla``; None without this flag. Each of both flags needs the other."""
    from edge_inception.hardware import targets

    with_dla = ", ".join(row.name for row in targets.TARGETS.values() if row.dla)
    if is_dla != (name is not None):
        got, missing = ("--dla", "--target") if is_dla else ("--target", "--dla")
        raise InputError(f"{got} without {missing}", hint=f"give both; with DLA: {with_dla}")
    hardware = targets.target(name) if name else None
    if hardware and not hardware.dla:
        raise InputError(f"target '{hardware.name}' has no DLA", hint=f"with DLA: {with_dla}")
    return hardware


def _dla_plans(model: onnx.ModelProto, batch: int | None, hardware: Target) -> Mapping[str, Plan]:
    """Plans of what runs on the DLA: for the graph as it is, and after the rewrites for DLA."""
    from edge_inception.graph import dla
    from edge_inception.graph.statistics import fill_batch

    assert hardware.dla
    if batch:
        fill_batch(model, batch)
    return {
        "as_it_is": dla.plan(model, hardware.dla.generation),
        "rewritten": dla.plan(dla.rewrite(model), hardware.dla.generation),
    }


def _summary(graph: Path, figures: Statistics) -> Iterator[str]:
    from edge_inception.report.table import size

    opsets = ", ".join(
        f"opset {version}" if domain == "ai.onnx" else f"{domain} {version}"
        for domain, version in figures.opsets.items()
    )
    maker = f", by {figures.producer}" if figures.producer else ""
    rows = [("graph", str(graph)), ("format", f"{opsets}, IR version {figures.ir_version}{maker}")]
    rows += [("input", _tensor_text(tensor)) for tensor in figures.inputs]
    rows += [("output", _tensor_text(tensor)) for tensor in figures.outputs]
    ops = sorted(figures.ops.items(), key=lambda entry: (-entry[1], entry[0]))
    counted = ", ".join(f"{count} {op}" for op, count in ops)
    rows.append(("nodes", f"{sum(figures.ops.values())}: {counted}"))
    total = sum(kind.count for kind in figures.parameters)
    kinds = (f"{kind.count:,} {kind.element}" for kind in figures.parameters)
    weight = size(sum(kind.num_bytes for kind in figures.parameters))
    listing = f" in {weight}: {', '.join(kinds)}" if total else ""
    rows.append(("parameters", f"{total:,}{listing}"))
    rows.append(("multiply-adds", f"{_at_least(figures.unknown_macs)}{figures.macs:,}"))
    at_least = _at_least(figures.unknown_shapes)
    peak = (
        f", peak {at_least}{size(figures.peak_bytes)} at {figures.peak_at}"
        if figures.layers
        else ""
    )
    rows.append(("activations", f"{at_least}{size(figures.activation_bytes)} in all{peak}"))
    rows += [("note", note) for note in _notes(figures)]
    for lead, text in rows:
        yield wrapped(lead, one_line(text), indent=_INDENT)


def _at_least(unknown: Collection[str]) -> str:
    """The words before a sum that lacks the ``unknown`` parts; empty if there are none."""
    return "at least " if unknown else ""


def _notes(figures: Statistics) -> Iterator[str]:
    if figures.num_constant_nodes:
        yield f"{figures.num_constant_nodes} nodes compute constants and are no layers"
    if figures.unknown_shapes:
        names = listed(figures.unknown_shapes)
        yield f"{len(figures.unknown_shapes)} nodes have unknown shape: {names}"
    if figures.unknown_macs:
        ops = ", ".join(f"{count} {op}" for op, count in figures.unknown_macs.items())
        yield f"multiply-adds not known of {ops}"


def _tensor_text(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.element} {_shape_text(tensor.sizes)}"


def _shape_text(sizes: Sizes) -> str:
    if sizes is None:
        return _UNKNOWN
    return "x".join(map(str, sizes)) or "scalar"


def _layer_table(figures: Statistics) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("layer", "op", "output", "params", "MMACs")]
    rows += [tuple(map(one_line, _layer_row(layer))) for layer in figures.layers]
    total = sum(layer.num_parameters for layer in figures.layers)
    rows.append(("total", "", "", f"{total:,}", f"{figures.macs / 1e6:,.1f}"))
    _, op, shape, parameters, macs = (max(map(len, column)) for column in zip(*rows, strict=True))
    op, shape = min(op, _MAX_OP), min(shape, _MAX_SHAPE)
    name = WIDTH - op - shape - parameters - macs - 4
    for row in rows:
        lead = f"{shortened(row[0], name):<{name}} {shortened(row[1], op):<{op}}"
        counts = f"{row[3]:>{parameters}} {row[4]:>{macs}}"
        yield f"{lead} {shortened(row[2], shape):>{shape}} {counts}"


def _layer_row(layer: Layer) -> tuple[str, str, str, str, str]:
    """Cells of a layer's row; zero is blank, an unknown number is a question mark."""
    macs = _UNKNOWN if layer.macs is None else f"{layer.macs / 1e6:,.1f}" if layer.macs else ""
    parameters = f"{layer.num_parameters:,}" if layer.num_parameters else ""
    return layer.name, layer.op, _shape_text(layer.sizes), parameters, macs
