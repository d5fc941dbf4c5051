"""The commands ``bench`` and ``compare``: latency of engines, and whether one got slower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import PATH, terminal_of, terminal_options
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.data.imageset import ImageSet
    from edge_inception.latency.bench import Protocol
    from edge_inception.latency.record import BenchRecord
    from edge_inception.latency.regression import Gate


def _protocol_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--images", type=PATH, help="Photos to feed; noise without."),
            click.option("--threads", default=0, help="CPU threads; 0 = all usable."),
            click.option(
                "--warm-up", "--warmUp", type=float, default=2000, show_default=True, help="ms."
            ),
            click.option("--duration", type=float, default=5, show_default=True, help="s a run."),
            click.option(
                "--iterations", type=click.IntRange(8), default=300, show_default=True,
                help="Timed calls a run, unless --duration ends first.",
            ),
            click.option("--out", type=PATH, help="Write the record here."),
            click.option("--json", "as_json", is_flag=True, help="The record on stdout."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("engine", type=PATH)
@click.option("--batch", type=click.IntRange(1), multiple=True, help="Images a call; repeatable.")
@click.option("--streams", type=click.IntRange(1), default=1, show_default=True, help="At once.")
@click.option("--layers", is_flag=True, help="Time each layer too, in calls of their own.")
@click.option("--fixed", is_flag=True, help="End at --duration, though the median moves still.")
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
    threads: int,
    warm_up: float,
    duration: float,
    iterations: int,
    out: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Time an engine in a fresh process: latency, throughput, cold start, memory, power.

    The record is "edge-inception/bench"; with several --batch the last is a list of records.
    """
    from dataclasses import replace

    from msgspec import structs

    from edge_inception.latency import bench as bench_of
    from edge_inception.latency.contender import prepare_engine
    from edge_inception.latency.layer_times import layer_times
    from edge_inception.latency.record import BASELINE
    from edge_inception.report.latency import bench_lines

    records = []
    fixed_protocol = _protocol(threads, warm_up, duration, iterations)
    # what pairs differ by tells how sure a comparison is; a single run must be sure of itself
    stable = None if fixed else bench_of.Protocol().stable
    with terminal_of(flags) as terminal, _image_set(images) as (image_set, folder):
        for size in batch or (1,):
            protocol = replace(fixed_protocol, stable=stable, batch=size, streams=streams)
            under_test = prepare_engine(engine, size, image_set, folder)
            times = layer_times(under_test, protocol) if layers else None
            with terminal.working(f"bench batch {size}") as progress:
                runs = bench_of.run_together(
                    {BASELINE: under_test.contender}, folder, protocol, progress=progress
                )
            record = bench_of.record("single", {BASELINE: under_test}, runs, protocol)
            records.append(structs.replace(record, layers=times))
    text = _publish(records[0] if len(records) == 1 else records, out)
    if as_json:
        click.echo(text, nl=False)
        return
    for record in records:
        click.echo("\n".join(bench_lines(record)))


@click.command()
@click.argument("engines", nargs=-1, required=True, type=PATH)
@click.option("--self", "is_self", is_flag=True, help="Measure this machine's noise: A against A.")
@click.option("--against", type=PATH, help="A record of another day instead of an engine B.")
@click.option("--trust-stored", is_flag=True, help="Let --against fail, not only warn.")
@click.option("--max-regression", default="3%", show_default=True, help="Slow-down too much.")
@click.option("--pairs", type=click.IntRange(3), default=10, show_default=True, help="At first.")
@click.option(
    "--most-pairs", type=click.IntRange(3), default=50, show_default=True, help="At most."
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Images a call."
)
@click.option("--validation", type=PATH, help="Labelled images: accuracy is gated too.")
@click.option("--validation-split", default="", help="Split of a set file.")
@click.option("--max-drop", type=float, default=1.0, show_default=True, help="Top-1, in pp.")
@click.option("--junit", type=PATH, help="Write JUnit XML here.")
@click.option("--markdown", type=PATH, help="Write a summary for a pull request here.")
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
    threads: int,
    warm_up: float,
    duration: float,
    iterations: int,
    out: Path | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Say whether B is slower than A, measured side by side in fresh processes.

    compare A B: A is the baseline, B the candidate. Exit codes: 0 pass or improved, 6 fail,
    8 inconclusive or invalid.
    """
    from dataclasses import replace

    from edge_inception.report import latency as report
    from edge_inception.validate import comparison

    gate = _gate(max_regression, pairs, most_pairs)
    with terminal_of(flags) as terminal, _image_set(images) as (image_set, folder):
        protocol = replace(_protocol(threads, warm_up, duration, iterations), batch=batch)
        session = comparison.Comparison(
            protocol=protocol, gate=gate, image_set=image_set, folder=folder
        )
        _check_number(engines, 1 if is_self or against else 2)
        with terminal.working("compare") as progress:
            if is_self:
                record = session.noise(engines[0], progress=progress)
            elif against:
                record = session.against(
                    engines[0], against, trusted=trust_stored, progress=progress
                )
            else:
                labelled = _labelled(validation, validation_split)
                record = session.pairs(
                    *engines, labelled=labelled, max_drop_pp=max_drop, progress=progress
                )
        text = _publish(record, out)
        _replace(junit, report.to_junit(record))
        _replace(markdown, report.to_markdown(record).encode())
        click.echo(text if as_json else "\n".join(report.compare_lines(record)), nl=not as_json)
    return comparison.exit_code(record)


def _check_number(engines: Sequence[Path], wanted: int) -> None:
    if len(engines) != wanted:
        what = "--self and --against take one engine" if wanted == 1 else "compare takes A and B"
        raise InputError(f"{what}, got {len(engines)}", hint="edge-inception compare A B")


def _labelled(validation: Path | None, split: str) -> ImageSet | None:
    if not validation:
        return None
    from edge_inception.data import imageset

    return imageset.open_set(validation, split=split)


def _protocol(threads: int, warm_up_ms: float, seconds: float, calls: int) -> Protocol:
    """One that ends at its length, whether its estimate is stable or not."""
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
    return Gate(delta=share(max_regression), pairs=pairs, most_pairs=most_pairs)


def share(text: str) -> float:
    """``3%`` or ``0.03`` as 0.03.

    Raises:
        InputError: Not a share above 0 and below 1.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise InputError(f"--max-regression {text}", hint="wanted a share such as 3% or 0.03")
    return value


@contextmanager
def _image_set(images: Path | None) -> Iterator[tuple[ImageSet | None, Path]]:
    """The photos to feed, and a folder for them while the block runs."""
    import tempfile

    from edge_inception.data import imageset

    found = imageset.open_set(images) if images else None
    with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
        yield found, Path(folder)


def _publish(record: BenchRecord | Sequence[BenchRecord], path: Path | None) -> str:
    """The text of a record, written where that was asked for."""
    from edge_inception.latency.record import to_json

    text = to_json(record)
    _replace(path, text)
    return text.decode()


def _replace(path: Path | None, content: bytes) -> None:
    if path:
        from edge_inception.artifact import replace_file

        replace_file(path, content)


COMMANDS = (bench, compare)
