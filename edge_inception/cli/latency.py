"""The commands ``bench`` and ``compare``: latency of engines, and whether one got slower."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import PATH, terminal_of, terminal_options
from edge_inception.errors import InputError

if TYPE_CHECKING:
    from edge_inception.data.imageset import ImageSet
    from edge_inception.latency.bench import Protocol
    from edge_inception.latency.regression import Gate
    from edge_inception.spec import Progress
    from edge_inception.validate.comparison import Comparison


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
def bench(engine: Path, **flags: Any) -> None:
    """Time an engine in a fresh process: latency, throughput, cold start, memory, power.

    The record is "edge-inception/bench"; with several --batch the last is a list of records.
    """
    from edge_inception.latency import bench as bench_of
    from edge_inception.latency.contender import prepare_engine
    from edge_inception.latency.layer_times import layer_times
    from edge_inception.report.latency import bench_lines

    records = []
    with terminal_of(flags) as terminal, _pictures(flags["images"]) as (image_set, folder):
        for batch in flags["batch"] or (1,):
            protocol = _protocol(
                flags, batch=batch, streams=flags["streams"], is_fixed=flags["fixed"]
            )
            arm = prepare_engine(engine, batch, image_set, folder)
            layers = {"layers": layer_times(arm, protocol)} if flags["layers"] else {}
            with terminal.working(f"bench batch {batch}") as progress:
                runs = bench_of.run_together(
                    {"A": arm.contender}, folder, protocol, progress=progress
                )
            record = bench_of.record(
                "single", {"A": arm.facts}, runs, protocol, input_facts=arm.feed
            )
            records.append(record | layers)
    whole = records[0] if len(records) == 1 else records
    _write(flags["out"], whole)
    if flags["as_json"]:
        click.echo(json.dumps(whole, indent=1))
        return
    for record in records:
        for line in bench_lines(record):
            click.echo(line)


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
def compare(engines: tuple[Path, ...], **flags: Any) -> int:
    """Say whether B is slower than A, measured side by side in fresh processes.

    compare A B: A is the baseline, B the candidate. Exit codes: 0 pass or improved, 6 fail,
    8 inconclusive or invalid.
    """
    from edge_inception.report import latency as report
    from edge_inception.validate import comparison

    gate = _gate(flags)
    with terminal_of(flags) as terminal, _pictures(flags["images"]) as (image_set, folder):
        session = comparison.Comparison(
            protocol=_protocol(flags, batch=flags["batch"], is_fixed=True),
            gate=gate,
            image_set=image_set,
            folder=folder,
        )
        with terminal.working("compare") as progress:
            record = _compared(session, engines, flags, progress)
        _write(flags["out"], record)
        if flags["junit"]:
            _replace(flags["junit"], report.to_junit(record))
        if flags["markdown"]:
            _replace(flags["markdown"], report.to_markdown(record).encode())
        if flags["as_json"]:
            click.echo(json.dumps(record, indent=1))
        else:
            for line in report.compare_lines(record):
                click.echo(line)
    return comparison.exit_code(record)


def _compared(
    session: Comparison, engines: tuple[Path, ...], flags: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """The record of whichever comparison was asked for."""
    wanted = 1 if flags["is_self"] or flags["against"] else 2
    if len(engines) != wanted:
        what = "--self and --against take one engine" if wanted == 1 else "compare takes A and B"
        raise InputError(f"{what}, got {len(engines)}", hint="edge-inception compare A B")
    if flags["is_self"]:
        return session.noise(engines[0], progress=progress)
    if flags["against"]:
        return session.against(
            engines[0], flags["against"], trusted=flags["trust_stored"], progress=progress
        )
    labelled = _labelled(flags)
    return session.pairs(
        *engines, labelled=labelled, max_drop_pp=flags["max_drop"], progress=progress
    )


def _labelled(flags: Mapping[str, Any]) -> ImageSet | None:
    if not flags["validation"]:
        return None
    from edge_inception.data import imageset

    return imageset.open_set(flags["validation"], split=flags["validation_split"])


def _protocol(
    flags: Mapping[str, Any], *, batch: int, streams: int = 1, is_fixed: bool
) -> Protocol:
    from edge_inception.latency.bench import Protocol
    from edge_inception.pipeline import inputs

    # what pairs differ by tells how sure a comparison is; a single run must be sure of itself
    return Protocol(
        stable=None if is_fixed else Protocol().stable,
        threads=inputs.require_threads(flags["threads"]),
        batch=batch,
        streams=streams,
        warmup_s=flags["warm_up"] / 1000,
        calls=flags["iterations"],
        seconds=flags["duration"],
    )


def _gate(flags: Mapping[str, Any]) -> Gate:
    from edge_inception.latency.regression import Gate

    if flags["most_pairs"] < flags["pairs"]:
        raise InputError(
            f"--most-pairs {flags['most_pairs']} is below --pairs {flags['pairs']}",
            hint="pairs are added from --pairs up to --most-pairs",
        )
    return Gate(
        delta=share(flags["max_regression"]), pairs=flags["pairs"], most_pairs=flags["most_pairs"]
    )


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
def _pictures(images: Path | None) -> Iterator[tuple[ImageSet | None, Path]]:
    """The photos to feed, and a folder for them while the block runs."""
    import tempfile

    from edge_inception.data import imageset

    found = imageset.open_set(images) if images else None
    with tempfile.TemporaryDirectory(prefix="edge-inception-") as folder:
        yield found, Path(folder)


def _write(path: Path | None, record: Any) -> None:
    if path:
        _replace(path, (json.dumps(record, indent=1) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    from edge_inception.artifact import replace_file

    replace_file(path, content)


COMMANDS = (bench, compare)
