"""The command ``targets``: named hardware with its peaks, memory and JetPack releases."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._layout import wrapped

if TYPE_CHECKING:
    from edge_inception.hardware.jetpack import JetPack
    from edge_inception.hardware.target import Dla, Fact, Target

_INDENT = 16
_UNKNOWN, _NONE = "?", "-"
_LIST = "{:<20}{:<13}{:<9}{:>3}{:>6}{:>7}{:>6}{:>4} {}"
_RELEASES = "{:<15}{:<14}{:<9}{:<9}{:<7}{:<7}{:<7}{}"
_WHOLE = 100
_FOOT = (
    "GB/s, dense INT8 TOPS and FP16 TFLOPS of the GPU; DLA: cores. ~ not from a primary source, "
    "? unknown, - none. `edge-inception targets NAME` shows sources and JetPack releases."
)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def targets(name: str | None, *, as_json: bool) -> None:
    """List targets, or show all facts about NAME.

    Peaks, memory and accelerators come with their sources, the JetPack releases of a Jetson with
    the TensorRT, CUDA and Python that they ship.
    """
    from edge_inception.hardware import targets as table

    rows = list(table.TARGETS.values()) if name is None else [table.target(name)]
    if as_json:
        records = [_record(row) for row in rows]
        click.echo(json.dumps(records if name is None else records[0], indent=1))
        return
    lines = _listed(rows) if name is None else _described(rows[0])
    click.echo("\n".join(line.rstrip() for line in lines))


def _record(target: Target) -> dict[str, Any]:
    from edge_inception import stage

    record = {**stage.plain(target), **_facts(target)}
    if target.dla:
        record |= {"dla": {**stage.plain(target.dla), **_facts(target.dla)}}
    return {
        **record,
        "num_dla_cores": target.num_dla_cores,
        "jetpack": list(target.jetpack),
        "tensorrt": list(target.tensorrt),
        "opset": target.opset,
        "releases": [{**stage.plain(row), "opset": row.opset} for row in target.releases],
    }


def _facts(of: Target | Dla) -> dict[str, Any]:
    """The fields of type ``Fact`` by name, each as a dictionary of value, sure and source."""
    from edge_inception.hardware.target import Fact

    values = {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}
    return {name: value._asdict() for name, value in values.items() if isinstance(value, Fact)}


def _listed(rows: list[Target]) -> Iterator[str]:
    yield _LIST.format("target", "backend", "SM", "GB", "INT8", "FP16", "GB/s", "DLA", "TensorRT")
    for row in rows:
        versions = row.compute_capabilities or (_NONE,)
        is_one = len(row.compute_capabilities) == 1
        yield _LIST.format(
            row.name,
            row.backend,
            "-".join(dict.fromkeys((versions[0], versions[-1]))),
            row.memory_gb or _NONE,
            _short(row.int8_tops, has_figure=is_one and "int8" not in row.slow),
            _short(row.fp16_tflops, has_figure=is_one),
            _short(row.bandwidth_gb_s, has_figure=is_one),
            row.num_dla_cores or _NONE,
            _versions(row),
        )
    yield ""
    yield wrapped("", _FOOT, indent=0)


def _versions(row: Target) -> str:
    return "-".join(dict.fromkeys(_cut(version, 2) for version in row.tensorrt)) or _NONE


def _cut(version: str, num_parts: int) -> str:
    return ".".join(version.split(".")[:num_parts])


def _short(fact: Fact | None, *, has_figure: bool) -> str:
    """A figure for the list: ``?`` if it is unknown, ``-`` if the target has none."""
    if fact is None:
        return _UNKNOWN if has_figure else _NONE
    figures = f"{int(fact.value + 0.5)}" if fact.value >= _WHOLE else f"{fact.value:g}"
    return f"{'' if fact.sure == 'V' else '~'}{figures}"


def _described(row: Target) -> Iterator[str]:
    yield wrapped("", f"{row.name}: {row.title}", indent=0)
    yield ""
    for lead, text in (*_rows(row), *(("note", note) for note in row.notes)):
        yield wrapped(lead, text, indent=_INDENT)
    if row.releases:
        yield ""
        yield from _releases(row.releases)
    yield ""
    yield from _legend()


def _rows(row: Target) -> Iterator[tuple[str, str]]:
    yield "backend", row.backend
    if row.compute_capabilities:
        yield "SM", ", ".join(row.compute_capabilities)
    yield "source", "; ".join(row.sources)
    if len(row.compute_capabilities) != 1:
        return
    yield "memory", f"{row.memory_gb} GB"
    yield "bandwidth", _long(row.bandwidth_gb_s, "GB/s")
    yield "GPU INT8", _without(row, "int8") or _long(row.int8_tops, "TOPS dense")
    yield "GPU FP16", _without(row, "fp16") or _long(row.fp16_tflops, "TFLOPS dense")
    if row.fp8_tflops:
        yield "GPU FP8", _long(row.fp8_tflops, "TFLOPS dense")
    if row.dla:
        cores = f"{row.dla.num_cores} x {row.dla.generation}"
        yield "DLA", f"{cores}, each {_long(row.dla.int8_tops, 'TOPS INT8 dense')}"
        yield "GPU and DLA", _long(row.module_int8_tops, "TOPS INT8 dense")
    elif row.releases:
        yield "DLA", "none"
    if row.headline:
        yield "advertised", row.headline
    if row.releases:
        yield "power modes", row.power_modes or "unknown; read nvpmodel -q on the device"


def _without(row: Target, precision: str) -> str:
    return f"none: {row.slow[precision]}" if precision in row.slow else ""


def _long(fact: Fact | None, unit: str) -> str:
    return f"{fact.value:g} {unit} [{fact.sure}] {fact.source}" if fact else "unknown"


def _releases(rows: tuple[JetPack, ...]) -> Iterator[str]:
    yield _RELEASES.format(
        "JetPack", "L4T", "TensorRT", "CUDA", "cuDNN", "Ubuntu", "Python", "opset"
    )
    for row in rows:
        cells = (
            row.name,
            row.l4t.replace(" to ", "-"),
            f"{_cut(row.tensorrt, 3)}{'' if row.is_stock else '*'}",
            row.cuda,
            _cut(row.cudnn, 3),
            row.ubuntu,
            row.python,
        )
        yield _RELEASES.format(*(cell or _UNKNOWN for cell in cells), row.opset or _UNKNOWN)
    if not all(row.is_stock for row in rows):
        yield "* installed on top of the release"
    for sure in dict.fromkeys(row.sure for row in rows):
        origins = (part for row in rows if row.sure == sure for part in row.source.split("; "))
        yield wrapped("source", f"[{sure}] {'; '.join(dict.fromkeys(origins))}", indent=_INDENT)


def _legend() -> Iterator[str]:
    from edge_inception.hardware.target import SURE

    legend = "; ".join(f"[{key}] {meaning}" for key, meaning in SURE.items())
    yield wrapped("", legend, indent=0)
    yield "docs/... are pages of the installed package: edge_inception/docs/"


COMMANDS = (targets,)
