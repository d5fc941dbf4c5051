"""The commands ``bench`` and ``compare``: latency of engines, and whether one got slower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import (
    PATH,
    json_option,
    open_terminal,
    option_group,
    terminal_options,
    threads_option,
)
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.data.imageset import ImageSet
    from edge_inception.latency.bench import Protocol
    from edge_inception.latency.record import BenchRecord
    from edge_inception.latency.regression import Gate


_protocol_options = option_group(
    click.option(
        "--images", type=PATH, help="Images that the engine gets; by default random ones."
    ),
    threads_option,
    click.option(
        "--warm-up", "--warmUp", type=float, default=2000, show_default=True, help="Warm-up in ms."
    ),
    click.option(
        "--duration", type=float, default=5, show_default=True, help="Timed part of a run in s."
    ),
    click.option(
        "--iterations",
        type=click.IntRange(8),
        default=300,
        show_default=True,
        help="Number of timed calls of a run, unless --duration ends it first.",
    ),
    click.option("--out", type=PATH, help="Write the record to this file."),
    json_option,
)


@click.command()
@click.argument("engine", type=PATH)
@click.option("--batch", type=click.IntRange(1), multiple=True, help="Images per call; repeatable.")
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Concurrent calls.",
)
@click.option("--layers", is_flag=True, help="Also time each layer, in separate calls.")
@click.option("--fixed", is_flag=True, help="End at --duration even if the median is not stable.")
@_protocol_options
@terminal_options
def bench(
    engine: Path,
    *,
    batch: tuple[int, ...],
    streams: int,
    layers: bool,
    fixed: bool,
    images: Path | None,
    threads: int | None,
    warm_up: float,
    duration: float,
    iterations: int,
    out: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure an engine in a fresh process: latency, throughput, cold start, memory and power.

    The record has the schema "edge-inception/bench"; several --batch give a list of records.
    """
    from msgspec import structs

    from edge_inception.latency import bench as benchmark
    from edge_inception.latency.contender import prepare_engine
    from edge_inception.latency.layer_times import layer_times
    from edge_inception.latency.record import BASELINE
    from edge_inception.report.latency import bench_lines

    records = []
    fixed_protocol = _protocol(threads, warm_up, duration, iterations)
    # A single run lasts until its median is stable, since it has no pairs to show uncertainty.
    stable = None if fixed else benchmark.Protocol().stable
    with open_terminal(flags) as terminal, _image_set(images) as (image_set, folder):
        for size in batch or (1,):
            protocol = replace(fixed_protocol, stable=stable, batch=size, streams=streams)
            prepared = prepare_engine(engine, size, image_set, folder)
            times = layer_times(prepared, protocol) if layers else None
            with terminal.working(f"bench batch {size}") as progress:
                runs = benchmark.run_together(
                    {BASELINE: prepared.contender}, folder, protocol, progress=progress
                )
            record = benchmark.record("single", {BASELINE: prepared}, runs, protocol)
            records.append(structs.replace(record, layers=times))
    text = _write_record(records[0] if len(records) == 1 else records, out)
    if as_json:
        click.echo(text, nl=False)
        return
    for record in records:
        click.echo("\n".join(bench_lines(record)))


@click.command()
@click.argument("engines", nargs=-1, required=True, type=PATH)
@click.option(
    "--self", "is_self", is_flag=True, help="Compare A with itself, which shows the noise."
)
@click.option("--against", type=PATH, help="Stored record, instead of engine A.")
@click.option("--trust-stored", is_flag=True, help="Let a slow-down against the record fail.")
@click.option("--max-regression", default="3%", show_default=True, help="Largest slow-down.")
@click.option(
    "--pairs",
    type=click.IntRange(3),
    default=10,
    show_default=True,
    help="Pairs of runs to begin with.",
)
@click.option(
    "--most-pairs",
    type=click.IntRange(3),
    default=50,
    show_default=True,
    help="Largest number of pairs.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Images per call."
)
@click.option("--validation", type=PATH, help="Labelled images, to judge accuracy too.")
@click.option("--validation-split", default="", help="Split of a set file.")
@click.option("--max-drop", type=float, default=1.0, show_default=True, help="Top-1 drop in pp.")
@click.option("--junit", type=PATH, help="File to write as JUnit XML.")
@click.option("--markdown", type=PATH, help="File to write as a summary for a pull request.")
@_protocol_options
@terminal_options
def compare(
    engines: tuple[Path, ...],
    *,
    is_self: bool,
    against: Path | None,
    trust_stored: bool,
    max_regression: str,
    pairs: int,
    most_pairs: int,
    batch: int,
    validation: Path | None,
    validation_split: str,
    max_drop: float,
    junit: Path | None,
    markdown: Path | None,
    images: Path | None,
    threads: int | None,
    warm_up: float,
    duration: float,
    iterations: int,
    out: Path | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Judge whether engine B is slower than engine A, side by side in fresh processes.

    In compare A B, A is the baseline and B the candidate. Exit codes: 0 passed or improved,
    6 failed, 8 inconclusive or invalid.
    """
    from edge_inception.report import latency as report
    from edge_inception.validate import comparison

    gate = _gate(max_regression, pairs, most_pairs)
    with open_terminal(flags) as terminal, _image_set(images) as (image_set, folder):
        protocol = replace(_protocol(threads, warm_up, duration, iterations), batch=batch)
        comparisons = comparison.Comparison(
            protocol=protocol, gate=gate, image_set=image_set, folder=folder
        )
        _require_count(engines, 1 if is_self or against else 2)
        with terminal.working("compare") as progress:
            if is_self:
                record = comparisons.against_itself(engines[0], progress=progress)
            elif against:
                record = comparisons.against(
                    engines[0], against, trusted=trust_stored, progress=progress
                )
            else:
                labelled = _labelled(validation, validation_split)
                record = comparisons.pairs(
                    *engines, labelled=labelled, max_drop_pp=max_drop, progress=progress
                )
        text = _write_record(record, out)
        _write(junit, report.to_junit(record))
        _write(markdown, report.to_markdown(record).encode())
        click.echo(text if as_json else "\n".join(report.compare_lines(record)), nl=not as_json)
    return comparison.exit_code(record)


def _require_count(engines: Sequence[Path], wanted: int) -> None:
    if len(engines) != wanted:
        what = "--self and --against take one engine" if wanted == 1 else "compare takes A and B"
        raise InputError(f"{what}, got {len(engines)}", hint="edge-inception compare A B")


def _labelled(validation: Path | None, split: str) -> ImageSet | None:
    if not validation:
        return None
    from edge_inception.data import imageset

    return imageset.open_set(validation, split=split)


def _protocol(threads: int | None, warm_up_ms: float, seconds: float, calls: int) -> Protocol:
    """A protocol that ends after ``calls`` or ``seconds``, whether the median is stable or not."""
    from edge_inception.latency.bench import Protocol
    from edge_inception.pipeline import inputs

    return Protocol(
        stable=None,
        threads=inputs.require_threads(threads),
        warmup_s=warm_up_ms / 1000,
        calls=calls,
        seconds=seconds,
    )


def _gate(max_regression: str, pairs: int, most_pairs: int) -> Gate:
    from edge_inception.latency.regression import Gate

    if most_pairs < pairs:
        raise InputError(
            f"--most-pairs {most_pairs} is below --pairs {pairs}",
            hint="pairs are added from --pairs up to --most-pairs",
        )
    return Gate(delta=parse_share(max_regression), pairs=pairs, max_pairs=most_pairs)


def parse_share(text: str) -> float:
    """The share above 0 and below 1 in a text: ``3%`` and ``0.03`` become 0.03."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise InputError(f"--max-regression {text}", hint="wanted a share such as 3% or 0.03")
    return value


@contextmanager
def _image_set(images: Path | None) -> Iterator[tuple[ImageSet | None, Path]]:
    """The image set to feed, and a temporary folder that exists while the block runs."""
    import tempfile

    from edge_inception.data import imageset

    image_set = imageset.open_set(images) if images else None
    with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
        yield image_set, Path(folder)


def _write_record(record: BenchRecord | Sequence[BenchRecord], path: Path | None) -> str:
    """The JSON text of a record or records, which is also written to ``path`` if it is given."""
    from edge_inception.latency.record import to_json

    text = to_json(record)
    _write(path, text)
    return text.decode()


def _write(path: Path | None, content: bytes) -> None:
    if path:
        from edge_inception.artifact import replace_file

        replace_file(path, content)
