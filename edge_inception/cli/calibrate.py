"""The command ``calibrate``: a range table from images, from shards, or from TensorRT's cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_inception.cli._options import (
    PATH,
    calibration_options,
    given_flags,
    open_terminal,
    out_option,
    print_artifact,
    read_flags,
    skip_bad_images_option,
    terminal_options,
    threads_option,
)
from edge_inception.errors import InputError, member, unknown

if TYPE_CHECKING:
    from edge_inception.artifact import SimplifiedGraph
    from edge_inception.cli._terminal import Terminal
    from edge_inception.data.imageset import ImageSet
    from edge_inception.quant.options import CalibrateOptions, Typing


_EXCLUSIVE = ("shard", "merge", "import_cache")
_FLAGS_AGAINST_CACHE = ("calibrator", "effort", "placement", "typing")
_FLAGS_FOR_IMAGES = ("calibration_split", "max_images", "skip_bad_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    """Flags of ``calibrate``; None and () are flags that were not given."""

    calibration: Path | None
    calibration_split: str | None
    calibrator: str | None
    effort: str | None
    max_images: int | None
    skip_bad_images: bool | None
    batch: int
    threads: int | None
    shard: str | None
    merge: tuple[Path, ...]
    import_cache: Path | None
    placement: str | None
    typing: str | None


@click.command()
@click.argument("graph", type=PATH)
@calibration_options
@skip_bad_images_option
@click.option(
    "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images per run."
)
@threads_option
@click.option("--shard", metavar="I/N", help="Use the I-th of N parts of the images, as 1/4.")
@click.option(
    "--merge",
    type=PATH,
    multiple=True,
    metavar="TABLE",
    help="Range table of a shard, given once for each; the result is that of all images at once.",
)
@click.option(
    "--import-cache",
    type=PATH,
    metavar="CACHE",
    help="Take the scales from TensorRT's calibration cache; images are only for bias correction.",
)
@click.option("--placement", metavar="NAME", help="Try only this placement of Q/DQ pairs.")
@click.option("--typing", help="Try only this typing of quantize: strong or cpu.")
@out_option
@terminal_options
def calibrate(graph: Path, out: Path, **options: object) -> None:
    """Write the range table of a simplified graph; its histograms go into an .npz beside it."""
    from edge_inception import artifact
    from edge_inception.artifact import RangeTable, SimplifiedGraph
    from edge_inception.quant.trial_table import describe_tried_graphs

    flags = read_flags(_Flags, options)
    _require_fitting_flags(flags)
    with open_terminal(options) as terminal:
        simplified = artifact.load(SimplifiedGraph, graph)
        cache = flags.import_cache
        images = _images(flags, terminal) if flags.calibration or not cache else None
        calibrate_options = _options(simplified, flags)
        with terminal.working("calibrate") as progress:
            if cache or images is None:
                from edge_inception.quant.import_cache import import_cache

                assert cache is not None  # images are None only if there is a cache
                table = import_cache(
                    simplified, cache, images, calibrate_options, out, progress=progress
                )
            elif flags.merge:
                from edge_inception.quant.merge import merge

                parts = [artifact.load(RangeTable, path) for path in flags.merge]
                table = merge(simplified, images, calibrate_options, parts, out, progress=progress)
            else:
                from edge_inception.quant.observe import calibrate as run

                table = run(simplified, images, calibrate_options, out, progress=progress)
        for line in describe_tried_graphs(table.details):
            terminal.note(line)
        print_artifact(terminal, table)


def _require_fitting_flags(flags: _Flags) -> None:
    """Refuse flags that exclude each other, and flags that would have no effect."""
    exclusive = given_flags(_EXCLUSIVE, flags)
    if len(exclusive) > 1:
        both = " and ".join(exclusive)
        raise InputError(f"{both} together", hint="they exclude each other: give one")
    if not flags.import_cache:
        return
    if given := given_flags(_FLAGS_AGAINST_CACHE, flags):
        raise InputError(
            f"{' and '.join(given)} with --import-cache",
            hint="leave it out: the cache already has the ranges; quantize takes a --placement",
        )
    if flags.calibration is None and (given := given_flags(_FLAGS_FOR_IMAGES, flags)):
        raise InputError(
            f"{' and '.join(given)} without images",
            hint="pass --calibration FOLDER too: with a cache, images are for bias correction",
        )


def _images(flags: _Flags, terminal: Terminal) -> ImageSet:
    from edge_inception.data import imageset
    from edge_inception.pipeline import inputs

    limit = flags.max_images
    if flags.calibration is None:
        raise InputError("no calibration images", hint="pass --calibration FOLDER")
    if limit is not None and limit < 1:
        raise InputError(f"--max-images is {limit}", hint="wanted at least 1")
    images = imageset.open_set(flags.calibration, split=flags.calibration_split or "")
    if flags.skip_bad_images:
        images = inputs.without_unusable(images, "calibration", terminal)
    return images if limit is None else images.subset(limit)


def _options(graph: SimplifiedGraph, flags: _Flags) -> CalibrateOptions:
    from edge_inception.pipeline import inputs
    from edge_inception.quant.options import WHOLE, CalibrateOptions, Effort
    from edge_inception.quant.policies import policy

    return CalibrateOptions(
        preprocess=graph.details.preprocess,
        calibrator=flags.calibrator or "auto",
        effort=member(Effort, "effort", flags.effort or "default"),
        batch=flags.batch,
        threads=inputs.require_threads(flags.threads),
        shard=_parse_shard(flags.shard) if flags.shard else WHOLE,
        placement=policy(flags.placement).name if flags.placement else "",
        typing=_typing(flags.typing or "strong"),
    )


def _typing(name: str) -> Typing:
    """The typing of the graphs of the trial; only two of them have Q/DQ pairs and choices."""
    from edge_inception.quant.options import Typing

    known = {typing.value: typing for typing in (Typing.STRONG, Typing.CPU)}
    if name not in known:
        raise unknown("typing of a trial", name, known)
    return known[name]


def _parse_shard(text: str) -> tuple[int, int]:
    """The numbers I and N of a shard: ``2/4`` becomes (2, 4)."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise InputError(f"--shard is '{text}'", hint="wanted I/N with I from 1 to N, such as 1/4")
    return int(index), int(count)
