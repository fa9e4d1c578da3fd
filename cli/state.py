"""llmfleet state."""

from __future__ import annotations

from typing import Annotated

import typer

from llmfleet.cli.options import DEFAULT_INVENTORY, DryRun, InventoryOption, Json, Quiet
from llmfleet.cli.output import console, echo_json, may_ask
from llmfleet.cli.progress import plain_progress
from llmfleet.cli.render.state import rebuilt, render_state
from llmfleet.cli.workspace import load_fleet, read_inventory, workspace_folder
from llmfleet.launch import rebuild as operation
from llmfleet.launch.record.state import StateStore, to_json

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="What up has done so far: shown, or read anew from the nodes.",
)
UNREACHABLE = 3


@app.command()
def show(inventory: InventoryOption = DEFAULT_INVENTORY, as_json: Json = False) -> None:
    """Show what is recorded. Touches no node.

    \b
    Examples:
      llmfleet state show
      llmfleet state show --json | jq '.processes | keys'
    """
    store = StateStore(workspace_folder(inventory), read_inventory(inventory, nodes_only=True).cluster)
    if as_json:
        echo_json(to_json(store.value))
    else:
        console().print(render_state(store.value, store.path))


@app.command()
def rebuild(
    inventory: InventoryOption = DEFAULT_INVENTORY,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Read the state anew from the nodes themselves.

    For when the file here and the copy on the head are lost or broken, or when up says that they are not what runs.
    What the nodes run is taken over; what is on record and does not run is dropped; of nodes that are away, the
    records stay. Nothing is started or stopped.

    \b
    Examples:
      llmfleet state rebuild --dry-run   what would change
      llmfleet state rebuild             change it
    """
    fleet = load_fleet(inventory, plain_progress(quiet=quiet))
    if not (dry_run or yes or as_json) and may_ask():
        typer.echo(rebuilt(operation.rebuild(fleet, dry_run=True)), err=True)
        typer.confirm("Record that?", abort=True, err=True)
    report = operation.rebuild(fleet, dry_run=dry_run)
    if as_json:
        echo_json(report)
    elif not quiet:
        typer.echo(rebuilt(report))
    return UNREACHABLE if report.unreachable else 0
