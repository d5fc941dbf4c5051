"""The command ``targets``: named hardware with its peaks, memory and JetPack releases."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._layout import wrapped
from edge_inception.cli._options import json_option

if TYPE_CHECKING:
    from edge_inception.hardware.jetpack import JetPack
    from edge_inception.hardware.target import Dla, Fact, Target

_INDENT = 16
_UNKNOWN, _NONE = "?", "-"
_LIST = "{:<20}{:<13}{:<9}{:>3}{:>6}{:>7}{:>6}{:>4} {}"
_RELEASES = "{:<15}{:<14}{:<9}{:<9}{:<7}{:<7}{:<7}{}"
_WHOLE = 100
_FOOTNOTE = (
    "GB/s, dense INT8 TOPS and FP16 TFLOPS of the GPU; DLA: cores. ~ not from a primary source, "
    "? unknown, - none. `edge-inception targets NAME` shows sources and JetPack releases."
)


@click.command()
@click.argument("name", required=False)
@json_option
def targets(name: str | None, *, as_json: bool) -> None:
    """List the targets, or show all facts about the target NAME.

    Peak rates, memory and accelerators are printed with their sources, and for a Jetson the JetPack
    releases with the TensorRT, CUDA and Python that they ship.
    """
    from edge_inception.hardware import targets as table

    rows = list(table.TARGETS.values()) if name is None else [table.target(name)]
    if as_json:
        records = [_record(row) for row in rows]
        click.echo(json.dumps(records if name is None else records[0], indent=1))
        return
    lines = _list_lines(rows) if name is None else _description_lines(rows[0])
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


def _facts(owner: Target | Dla) -> dict[str, Any]:
    """The fields of type ``Fact`` by name, each as a dictionary of value, sure and source."""
    from edge_inception.hardware.target import Fact

    values = {field.name: getattr(owner, field.name) for field in dataclasses.fields(owner)}
    return {name: value._asdict() for name, value in values.items() if isinstance(value, Fact)}


def _list_lines(rows: list[Target]) -> Iterator[str]:
    yield _LIST.format("target", "backend", "SM", "GB", "INT8", "FP16", "GB/s", "DLA", "TensorRT")
    for row in rows:
        versions = row.compute_capabilities or (_NONE,)
        is_one = len(row.compute_capabilities) == 1
        yield _LIST.format(
            row.name,
            row.backend,
            "-".join(dict.fromkeys((versions[0], versions[-1]))),
            row.memory_gb or _NONE,
            _short_figure(row.int8_tops, has_figure=is_one and "int8" not in row.slow),
            _short_figure(row.fp16_tflops, has_figure=is_one),
            _short_figure(row.bandwidth_gb_s, has_figure=is_one),
            row.num_dla_cores or _NONE,
            _tensorrt_versions(row),
        )
    yield ""
    yield wrapped("", _FOOTNOTE, indent=0)


def _tensorrt_versions(row: Target) -> str:
    return (
        "-".join(dict.fromkeys(_shorten_version(version, 2) for version in row.tensorrt)) or _NONE
    )


def _shorten_version(version: str, num_parts: int) -> str:
    return ".".join(version.split(".")[:num_parts])


def _short_figure(fact: Fact | None, *, has_figure: bool) -> str:
    """A figure for the list: ``?`` if it is unknown, ``-`` if the target has none."""
    if fact is None:
        return _UNKNOWN if has_figure else _NONE
    figures = f"{int(fact.value + 0.5)}" if fact.value >= _WHOLE else f"{fact.value:g}"
    return f"{'' if fact.sure == 'V' else '~'}{figures}"


def _description_lines(row: Target) -> Iterator[str]:
    yield wrapped("", f"{row.name}: {row.title}", indent=0)
    yield ""
    for lead, text in (*_fact_rows(row), *(("note", note) for note in row.notes)):
        yield wrapped(lead, text, indent=_INDENT)
    if row.releases:
        yield ""
        yield from _release_lines(row.releases)
    yield ""
    yield from _legend_lines()


def _fact_rows(row: Target) -> Iterator[tuple[str, str]]:
    yield "backend", row.backend
    if row.compute_capabilities:
        yield "SM", ", ".join(row.compute_capabilities)
    yield "source", "; ".join(row.sources)
    if len(row.compute_capabilities) != 1:
        return
    yield "memory", f"{row.memory_gb} GB"
    yield "bandwidth", _long_figure(row.bandwidth_gb_s, "GB/s")
    yield "GPU INT8", _missing_precision(row, "int8") or _long_figure(row.int8_tops, "TOPS dense")
    yield (
        "GPU FP16",
        _missing_precision(row, "fp16") or _long_figure(row.fp16_tflops, "TFLOPS dense"),
    )
    if row.fp8_tflops:
        yield "GPU FP8", _long_figure(row.fp8_tflops, "TFLOPS dense")
    if row.dla:
        cores = f"{row.dla.num_cores} x {row.dla.generation}"
        yield "DLA", f"{cores}, each {_long_figure(row.dla.int8_tops, 'TOPS INT8 dense')}"
        yield "GPU and DLA", _long_figure(row.module_int8_tops, "TOPS INT8 dense")
    elif row.releases:
        yield "DLA", "none"
    if row.headline:
        yield "advertised", row.headline
    if row.releases:
        yield "power modes", row.power_modes or "unknown; read nvpmodel -q on the device"


def _missing_precision(row: Target, precision: str) -> str:
    return f"none: {row.slow[precision]}" if precision in row.slow else ""


def _long_figure(fact: Fact | None, unit: str) -> str:
    return f"{fact.value:g} {unit} [{fact.sure}] {fact.source}" if fact else "unknown"


def _release_lines(rows: tuple[JetPack, ...]) -> Iterator[str]:
    yield _RELEASES.format(
        "JetPack", "L4T", "TensorRT", "CUDA", "cuDNN", "Ubuntu", "Python", "opset"
    )
    for row in rows:
        cells = (
            row.name,
            row.l4t.replace(" to ", "-"),
            f"{_shorten_version(row.tensorrt, 3)}{'' if row.is_stock else '*'}",
            row.cuda,
            _shorten_version(row.cudnn, 3),
            row.ubuntu,
            row.python,
        )
        yield _RELEASES.format(*(cell or _UNKNOWN for cell in cells), row.opset or _UNKNOWN)
    if not all(row.is_stock for row in rows):
        yield "* installed on top of the release"
    for sure in dict.fromkeys(row.sure for row in rows):
        origins = (part for row in rows if row.sure == sure for part in row.source.split("; "))
        yield wrapped("source", f"[{sure}] {'; '.join(dict.fromkeys(origins))}", indent=_INDENT)


def _legend_lines() -> Iterator[str]:
    from edge_inception.hardware.target import SURE

    legend = "; ".join(f"[{key}] {meaning}" for key, meaning in SURE.items())
    yield wrapped("", legend, indent=0)
    yield "docs/... are pages of the installed package: edge_inception/docs/"
