"""llmfleet down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llmfleet.cli.interrupt import interruptible
from llmfleet.cli.options import DEFAULT_INVENTORY, DryRun, InventoryOption, Json, Quiet
from llmfleet.cli.output import echo_json, may_ask
from llmfleet.cli.progress import plain_progress, progress
from llmfleet.cli.render.steps import down_summary, to_do
from llmfleet.cli.workspace import load_fleet
from llmfleet.launch import down as operation
from llmfleet.launch.forget import forget as forget_node
from llmfleet.planner.errors import InputError

UNREACHABLE = 3


def down(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    dry_run: DryRun = False,
    forget: Annotated[
        str | None,
        typer.Option("--forget", metavar="NODE", help="Only strike this node off the record: its machine is no more."),
    ] = None,
    keep_weights: Annotated[bool, typer.Option("--keep-weights", help="Leave copied weights on the nodes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Stop what up started, and nothing else.

    Asks first on a terminal; a script is not asked. Logs stay on the nodes.

    \b
    Examples:
      llmfleet down --dry-run       what would be stopped
      llmfleet down                 stop it
      llmfleet down --keep-weights  the next up need not copy them again
      llmfleet down --forget h20-1  a machine that will never come back; nothing else is touched
    """
    if forget is not None and (dry_run or keep_weights):
        raise InputError("--forget only changes the record", hint="Leave out --dry-run and --keep-weights.")
    if forget is not None:
        _forget(inventory, forget, as_json=as_json, quiet=quiet)
        return 0
    with interruptible("Run `llmfleet down` again to stop the rest."):
        fleet = load_fleet(inventory, plain_progress(quiet=quiet))
        if not (dry_run or yes or as_json) and may_ask():
            typer.confirm(f'Stop everything that up started for "{fleet.inventory.cluster}"?', abort=True, err=True)
        with progress(quiet=quiet, dry_run=dry_run) as observe:
            report = operation.down(replace(fleet, observe=observe), dry_run=dry_run, keep_weights=keep_weights)
    if as_json:
        echo_json(report)
    elif dry_run:
        typer.echo(to_do(report.stopped))
    elif not quiet:
        typer.echo(down_summary(report))
    return UNREACHABLE if report.unreachable else 0


def _forget(inventory: Path, node: str, *, as_json: bool, quiet: bool) -> None:
    fleet = load_fleet(inventory, plain_progress(quiet=quiet))
    lost = forget_node(fleet, node)
    if as_json:
        echo_json({"forgotten": node, "processes": list(lost)})
    elif not quiet:
        typer.echo(f"{node} is off the record" + (f", and with it {', '.join(lost)}." if lost else "."))
