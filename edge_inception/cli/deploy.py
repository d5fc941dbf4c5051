"""The command ``deploy``, which installs a bundle on devices over ssh."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_inception.cli._options import PATH, json_option, open_terminal, terminal_options
from edge_inception.errors import DeployFailed, counted

if TYPE_CHECKING:
    from edge_inception.deploy.address import Address
    from edge_inception.deploy.run import DeviceResult
    from edge_inception.deploy.steps import Deployment

_REMOTE_DIR = "~/edge-inception"


@click.command()
@click.argument("hosts", nargs=-1, required=True, metavar="[USER@]HOST[:PORT]...")
@click.option("--bundle", type=PATH, required=True, help="Folder or .tar.gz of the bundle to send.")
@click.option("--public-key", type=PATH, help="Refuse a bundle without a signature of this key.")
@click.option("--rollback", is_flag=True, help="Switch back to the previous version instead.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.option("--identity", "-i", type=PATH, help="Private key to log in; by default those of ssh.")
@click.option("--known-hosts", type=PATH, help="File of known host keys; by default that of ssh.")
@click.option("--remote-dir", default=_REMOTE_DIR, show_default=True, help="Folder on the device.")
@click.option("--python", default="python3", show_default=True, help="Python on the device.")
@click.option("--wheelhouse", type=PATH, help="Folder of wheels for devices without a network.")
@click.option(
    "--out", type=PATH, default="deployed", show_default=True, help="Local folder for results."
)
@json_option
@terminal_options
def deploy(
    hosts: tuple[str, ...],
    *,
    bundle: Path,
    public_key: Path | None,
    rollback: bool,
    dry_run: bool,
    identity: Path | None,
    known_hosts: Path | None,
    remote_dir: str,
    python: str,
    wheelhouse: Path | None,
    out: Path,
    as_json: bool,
    **flags: Any,
) -> int:
    """Copy a bundle to devices, build and verify its engine there, then switch to it.

    Host keys must be known. The version in use stays until the new one has passed. A copy that was
    interrupted continues where it stopped.
    """
    from edge_inception.deploy import payload, run
    from edge_inception.deploy.address import parse_address
    from edge_inception.deploy.ssh import Access
    from edge_inception.deploy.steps import DeployOptions

    options = DeployOptions(
        access=Access(identity=identity, known_hosts=known_hosts),
        remote_dir=remote_dir,
        python=python,
        out=out,
        is_rollback=rollback,
        is_dry=dry_run,
    )
    addresses = list(dict.fromkeys(parse_address(host) for host in hosts))

    def note_line(address: Address, line: str) -> None:
        terminal.note(f"{address}: {line}" if len(addresses) > 1 else line)

    with ExitStack() as stack:
        terminal = stack.enter_context(open_terminal(flags))
        wheels = payload.read_wheels(wheelhouse) if wheelhouse else None
        results = run.deploy(
            addresses,
            stack.enter_context(payload.open_payload(bundle, public_key)),
            options,
            wheels=wheels,
            say=note_line,
            copying=lambda: terminal.working("copy"),
        )
    _print(results, as_json=as_json)
    is_failed = any(result.status == "FAILED" for result in results)
    return DeployFailed.exit_code if is_failed else 0


def _print(results: Sequence[DeviceResult], *, as_json: bool) -> None:
    """Print results on stdout and errors on stderr; the verdict comes last."""
    from edge_inception.deploy.run import as_record

    failed = [result for result in results if result.status == "FAILED"]
    verdict = "FAILED" if failed else results[0].status
    for result in failed:
        click.echo(f"error: {result.error}", err=True)
        if result.hint:
            click.echo(f"hint: {result.hint}", err=True)
    if as_json:
        record = {"status": verdict, "devices": [as_record(result) for result in results]}
        click.echo(json.dumps(record, indent=1))
        return
    for result in results:
        if result.done:
            click.echo(f"{result.address}: {'; '.join(_descriptions(result.done, result.status))}")
    num_passed = len(results) - len(failed)
    click.echo(f"{verdict}: {num_passed} of {counted(len(results), 'device')}")


def _descriptions(deployment: Deployment, status: str) -> Iterator[str]:
    """What a deploy, a rollback or a dry run has found or done on a device."""
    before, version = deployment.before, deployment.version
    if status == "PLANNED":
        yield f"{deployment.folder} has {before or 'no version'}, would make {version} current"
        return
    was = "as before" if before == version else f"was {before or 'none'}"
    yield f"{version} is current, {was}"
    yield f"{counted(deployment.num_kept, 'other version')} kept"
    if deployment.p50_ms is not None:
        yield f"p50 {deployment.p50_ms:.2f} ms"
    if deployment.results:
        here, path = Path.cwd(), deployment.results
        yield f"results in {path.relative_to(here) if path.is_relative_to(here) else path}"
