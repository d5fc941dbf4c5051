"""The command line: its entry point, the group of all commands, and five of the commands.

Commands import their libraries in their bodies, so that ``--help`` imports only click.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_inception._version import __version__
from edge_inception.cli import (
    accuracy,
    bundle,
    calibrate,
    deploy,
    estimate,
    inspect,
    latency,
    models,
    stages,
    targets,
    train,
)
from edge_inception.cli import compile as cli_compile
from edge_inception.cli import report as cli_report
from edge_inception.cli._layout import wrapped
from edge_inception.cli._options import (
    PATH,
    VERDICT_CODES,
    batch_options,
    calibration_options,
    device_options,
    drop_type_option,
    gate_options,
    graph_options,
    json_option,
    open_terminal,
    precision_options,
    read_recipe,
    recipe_options,
    terminal_options,
    threads_option,
    validation_options,
)
from edge_inception.errors import BackendMissing, EdgeInceptionError, InputError

if TYPE_CHECKING:
    from edge_inception.validate.report_record import ReportRecord

INTERRUPTED = 130
_EXTRAS = dict.fromkeys(
    ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "openvino", "safetensors"), "compile"
) | {"jinja2": "report", "markupsafe": "report", "vl_convert": "report"}


def main() -> None:
    """Run the command line of this process, and exit with its exit code."""
    # torch makes a folder for compiled code when imported, though nothing here compiles with it
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.curdir)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line, and return its exit code; errors become text and codes only here."""
    try:
        result = cli.main(arguments, prog_name="edge-inception", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; run the same command again to go on", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout is gone (`| head`), so stdout is redirected to let the exit be quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (EdgeInceptionError, ModuleNotFoundError, OSError) as error:
        explained = _explained(error)
        click.echo(f"error: {explained}", err=True)
        if explained.hint:
            click.echo(f"hint: {explained.hint}", err=True)
        return explained.exit_code
    return result if isinstance(result, int) else 0


def _explained(error: EdgeInceptionError | ModuleNotFoundError | OSError) -> EdgeInceptionError:
    """The error of this project for a missing library or a full disk; other errors are bugs."""
    if isinstance(error, EdgeInceptionError):
        return error
    if isinstance(error, ModuleNotFoundError):
        library = (error.name or "").partition(".")[0]
        if library in _EXTRAS:
            return BackendMissing(
                f"this command needs {library}, which is not installed",
                hint=f"pip install 'edge-inception[{_EXTRAS[library]}]'",
            )
    elif error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        path = error.filename or "the output"
        return InputError(f"disk full while writing {path}", hint="free space, or write elsewhere")
    raise error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-inception")
def cli() -> None:
    """Take a trained Inception network and put it, verified, on an edge device.

    Exit codes: 0 passed, 1 bug, 2 usage, 3 bad input, 4 library missing, 5 compile failed,
    6 gate failed, 7 deploy failed, 8 inconclusive, 130 interrupted.
    """


@cli.command()
@recipe_options
@graph_options
@calibration_options
@validation_options
@precision_options
@click.option(
    "--typing",
    help="How int8 is written: strong, which TensorRT takes, or cpu, with uint8 activations and "
    "zero points; cpu is the default if every target is a CPU.",
)
@batch_options
@click.option("--target", multiple=True, help="Target, such as cpu or rtx; repeatable.")
@click.option("--compute-capability", multiple=True, help="For rtx, such as 8.9; repeatable.")
@device_options
@click.option("--bundle", is_flag=True, default=None, help="Make a bundle for each device.")
@threads_option
@click.option("--out", type=PATH, help="Output folder of the build.")
@gate_options
@drop_type_option
@click.option("--force", is_flag=True, help="Run every stage and reuse nothing.")
@click.option("--dry-run", is_flag=True, help="Print what would run and why, and change nothing.")
@click.option("--keep-failed", is_flag=True, help="Keep the engines although a gate failed.")
@json_option
@terminal_options
def build(*, force: bool, dry_run: bool, keep_failed: bool, as_json: bool, **flags: object) -> int:
    """Run the whole pipeline: checkpoint to validated engine and report."""
    from edge_inception.pipeline import build as pipeline

    with open_terminal(flags) as terminal:
        recipe = read_recipe(flags, terminal)
        if dry_run:
            for line in pipeline.plan(recipe, force=force):
                click.echo(line)
            return 0
        result = pipeline.build(recipe, force=force, keep_failed=keep_failed, listener=terminal)
        return _print_report(result.report, as_json=as_json, written=result.written)


def _print_report(report: ReportRecord, *, as_json: bool, written: Sequence[Path] = ()) -> int:
    """Print the report on stdout, verdict last, and return the exit code of the verdict."""
    if as_json:
        from edge_inception.validate.report_record import to_json

        files = [str(path) for path in written]
        click.echo(json.dumps({**to_json(report), "written": files}, indent=1))
    else:
        from edge_inception.report.terminal import print_report

        for path in written:
            click.echo(f"wrote {path}", err=True)
        print_report(report)
    return VERDICT_CODES[report.status]


@cli.command()
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--engine", "--load-engine", "engine", required=True, type=PATH, help="Engine file.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of classes to print per image.",
)
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def classify(
    images: tuple[Path, ...], engine: Path, top: int, threads: int | None, *, as_json: bool
) -> None:
    """Classify image files with an engine and the preprocessing in its sidecar."""
    from edge_inception.inference import classify as predict
    from edge_inception.pipeline import inputs

    num_threads = inputs.require_threads(threads)
    for prediction in predict(engine, images, top=top, threads=num_threads):
        if as_json:
            scores = [{"class": name, "score": score} for name, score in prediction.top]
            click.echo(json.dumps({"image": str(prediction.path), "top": scores}))
        else:
            words = ", ".join(f"{name} {score:.1%}" for name, score in prediction.top)
            click.echo(f"{prediction.path}: {words}")


@cli.command()
@click.argument("out", type=PATH, default="edge-inception.toml")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(out: Path, *, force: bool) -> None:
    """Write a commented starter recipe."""
    from edge_inception.artifact import replace_file
    from edge_inception.recipe.template import STARTER

    if out.exists() and not force:
        raise InputError(f"{out} exists", hint="--force overwrites it, or name another file")
    replace_file(out, STARTER.encode())
    click.echo(f"wrote {out}; edit it, then: edge-inception build --recipe {out}")


@cli.command()
@json_option
def engines(*, as_json: bool) -> None:
    """List the engine backends, and what this machine can do with each."""
    from edge_inception import stage
    from edge_inception.cli import _doctor
    from edge_inception.engines import _registry as backends

    states = {name: backends.backend(name).availability() for name in backends.backend_names()}
    if as_json:
        click.echo(json.dumps(stage.plain(states), indent=1))
        return
    for name, state in states.items():
        text = "; ".join(part for part in (_doctor.short_version(state), state.why_not) if part)
        able = _doctor.abilities(state) or "missing"
        click.echo(wrapped(f"{name:<14}{able:<22}", text, indent=36))


@cli.command()
def doctor() -> None:
    """Print what this machine can compile and run, and the command that adds what is missing."""
    from edge_inception.cli import _doctor

    findings = _doctor.examine()
    for finding in findings:
        mark = "ok" if finding.is_ok else "missing"
        click.echo(wrapped(f"{mark:<9}{finding.part:<23}", finding.detail, indent=32))
    for remedy in dict.fromkeys(finding.remedy for finding in findings if finding.remedy):
        click.echo(wrapped("to add:", remedy, indent=9))


for _command in (
    accuracy.compare_layers,
    accuracy.sensitivity,
    bundle.bundle,
    calibrate.calibrate,
    cli_compile.compile_graph,
    deploy.deploy,
    estimate.estimate,
    inspect.inspect,
    latency.bench,
    latency.compare,
    models.models,
    cli_report.report,
    stages.export,
    stages.simplify,
    stages.baseline,
    stages.quantize,
    stages.validate,
    targets.targets,
    train.train,
):
    cli.add_command(_command)
